// SPDX-License-Identifier: GPL-2.0-only
//! The main paths, short enough to run on every kernel.

use framework::kernel::KernelState;
use framework::swap::Via;

use crate::support::*;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn doctor_is_content() {
    let output = scx_run(&["doctor"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(stdout(&output).contains("this kernel can run scx_run"));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn every_built_in_policy_verifies() {
    let list = scx_run(&["list", "--json"]);
    let policies: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert!(policies.as_array().unwrap().len() >= 3);
    for policy in policies.as_array().unwrap() {
        let name = policy["name"].as_str().unwrap();
        let output = scx_run(&["check", name]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert!(stdout(&output).contains("fits a slot"));
    }
    assert_eq!(KernelState::read().state, "disabled", "checking attaches nothing");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_command_runs_under_the_policy_and_its_status_is_passed_on() {
    let names_us = "grep -q scx_run /sys/kernel/sched_ext/root/ops && exit 7";
    let output = scx_run(&["--policy", "fifo", "--", "sh", "-c", names_us]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let report = stdout(&output);
    for row in
        ["latency under fifo (slice_us=20000)", "wakeup latency", "run-queue wait", "on-CPU slice", "p99.9"]
    {
        assert!(report.contains(row), "{row} is missing in:\n{report}");
    }
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_by_slots_never_leave_sched_ext_and_reloads_do() {
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let before = KernelState::read();
    for policy in ["vtime", "fifo_percpu", "fifo"] {
        let report = swap(&request(policy)).unwrap();
        assert_eq!((report.to.as_str(), report.lost, report.outside_ns), (policy, 0, 0));
        assert_eq!(active(), policy);
    }
    let after = KernelState::read();
    assert!(after.enabled());
    assert_eq!(after.enable_seq, before.enable_seq);

    let report = swap(&framework::control::SwapRequest { via: Via::Reload, ..request("vtime") }).unwrap();
    assert!(report.outside_ns > 0 && report.lost == 0);
    assert_eq!(active(), "vtime");
    assert_eq!(KernelState::read().enable_seq, before.enable_seq.map(|seq| seq + 1));
    assert_eq!(status().nr_swaps, 4);

    let (end, _, _) = running.stop();
    assert!(end.success());
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn direct_attaches_the_policy_itself() {
    let running = Running::start(&["--policy", "vtime", "--direct", "--stats", "0"]);
    assert_eq!(KernelState::read().ops.as_deref(), Some("vtime"));
    assert_eq!(status().mode, "direct");
    let refused = swap(&request("fifo")).unwrap_err();
    assert!(refused.contains("--via reload"), "{refused}");
    let report = swap(&framework::control::SwapRequest { via: Via::Reload, ..request("fifo") }).unwrap();
    assert_eq!(report.to, "fifo");
    assert_eq!(KernelState::read().ops.as_deref(), Some("fifo"));
    assert!(running.stop().0.success());
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn ctrl_c_ends_it_in_order_with_a_report() {
    let running = Running::start(&["--policy", "fifo"]);
    running.signal(libc::SIGINT);
    let (end, out, _) = running.wait();
    assert_eq!(end.code(), Some(0));
    assert!(out.contains("latency under fifo"), "{out}");
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn partial_leaves_normal_tasks_alone() {
    let running = Running::start(&["--policy", "fifo", "--partial"]);
    let state = KernelState::read();
    assert!(state.enabled() && !state.switch_all);
    assert!(running.stop().0.success());
}
