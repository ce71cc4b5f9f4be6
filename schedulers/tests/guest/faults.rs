// SPDX-License-Identifier: GPL-2.0-only
//! Everything that can go wrong: tasks run on, and status tells the truth.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::Duration;

use framework::control::SwapRequest;
use framework::kernel::KernelState;

use crate::support::*;

/// A swap that must be refused with one line, the running policy untouched.
fn assert_refused(request: &SwapRequest, reason: &str) {
    let before = status();
    let message = swap(request).unwrap_err();
    assert!(message.contains(reason), "{reason:?} is missing in {message:?}");
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    let after = status();
    assert_eq!(active(), "fifo");
    assert_eq!((after.kernel.enable_seq, after.nr_swaps), (before.kernel.enable_seq, before.nr_swaps));
    assert_eq!(after.slots.len(), before.slots.len(), "nothing is left behind");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_swap_to_a_bad_policy_leaves_the_running_one_alone() {
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let mut load = Threads::new();
    load.hog("hog", None);
    let text = std::env::temp_dir().join("text.bpf.o");
    fs::write(&text, "no object").unwrap();
    let with = |params: &[&str]| SwapRequest {
        params: params.iter().map(|param| (*param).to_owned()).collect(),
        ..request("vtime")
    };

    assert_refused(&request(&object("unverifiable")), "invalid mem access");
    assert_refused(&request("/nonexistent.bpf.o"), "No such file");
    assert_refused(&request("nonexistent"), "built in are ");
    assert_refused(&request(&text.display().to_string()), "is no BPF object");
    assert_refused(&request(&object("opless")), "no dispatch op");
    assert_refused(&with(&["slice=1"]), "it has slice_us");
    assert_refused(&with(&["slice_us=1"]), "out of range: 100 to 1000000 us");
    assert_refused(&with(&["slice_us"]), "name=value");

    load.assert_all_progress();
    assert_eq!(swap(&request("vtime")).unwrap().to, "vtime", "a good one still works");
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn starting_with_a_bad_policy_attaches_nothing() {
    let before = KernelState::read().enable_seq;
    for (policy, reason) in [("unverifiable", "invalid mem access"), ("opless", "no dispatch op")] {
        let output = scx_run(&["--policy", &object(policy)]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert_eq!(KernelState::read().state, "disabled");
    }
    assert_eq!(KernelState::read().enable_seq, before);
    let verbose = scx_run(&["--policy", &object("unverifiable"), "-v"]);
    assert!(stderr(&verbose).contains("processed"), "-v shows the verifier's log");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_second_scx_run_is_refused() {
    let _running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let output = scx_run(&["--policy", "vtime"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("scx_run swap"), "{}", stderr(&output));
    assert_eq!(active(), "fifo");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn sigkill_falls_back_cleanly_and_the_next_start_says_so() {
    let mut load = Threads::new();
    load.hog("hog", None);
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let pid = running.pid();
    running.signal(libc::SIGKILL);
    assert_eq!(running.wait().0.signal(), Some(libc::SIGKILL));
    assert_default_scheduler();
    load.assert_all_progress();

    let killed = format!("the last one (pid {pid}, policy fifo) was killed");
    let output = scx_run(&["status"]);
    assert!(stdout(&output).contains("sched_ext  disabled"), "{}", stdout(&output));
    assert!(stdout(&output).contains(&killed), "{}", stdout(&output));
    let next = Running::start(&["--policy", "vtime", "--stats", "0"]);
    let (_, _, errors) = next.stop();
    assert!(errors.contains(&killed), "{errors}");
    assert!(stdout(&scx_run(&["status"])).contains("scx_run    not running\n"));
}

/// Runs the faulty policy under some load until the kernel ends it: exit code, stdout, stderr.
fn run_faulty(fault: u32, args: &[&str]) -> (Option<i32>, String, String) {
    let fault = format!("fault={fault}");
    let object = object("faulty");
    let mut all = vec!["--policy", &object, "--param", &fault, "--timeout", "2s", "--stats", "0"];
    all.extend(args);
    let mut load = Threads::new();
    for n in 0..6 {
        load.hog(&format!("hog{n}"), None);
    }
    load.hog("victim", Some(1));
    load.hog("rival", Some(1));
    let output = scx_run(&all);
    load.assert_all_progress();
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_policy_that_raises_an_error_is_ended_and_explained() {
    let (code, out, errors) = run_faulty(1, &["--dump"]);
    assert_eq!(code, Some(3), "{errors}");
    assert!(
        errors.contains("policy faulty was ended by the kernel") && errors.contains("injected fault"),
        "{errors}"
    );
    assert!(errors.contains("root: active slot 0"), "--dump shows the kernel's dump with our line: {errors}");
    assert!(out.contains("latency under faulty"), "the report is printed all the same");
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_stalled_task_is_named_with_its_wait_and_policy() {
    let (code, _, errors) = run_faulty(2, &[]);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("task victim (pid "), "{errors}");
    assert!(
        errors.contains(") was ready to run for ") && errors.contains("policy faulty did not run it"),
        "{errors}"
    );
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_dispatch_loop_is_ended() {
    let (code, _, errors) = run_faulty(3, &[]);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("policy faulty was ended by the kernel"), "{errors}");
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn with_a_fallback_the_root_is_attached_again() {
    let (code, out, errors) = run_faulty(1, &["--fallback", "vtime", "--duration", "6s"]);
    assert_eq!(code, Some(3), "the failure is not hidden: {errors}");
    assert!(errors.contains("fell back to policy vtime"), "{errors}");
    assert!(out.contains("latency under vtime"), "{out}");
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_fault_after_a_swap_falls_back_too() {
    let running =
        Running::start(&["--policy", "fifo", "--fallback", "vtime", "--timeout", "2s", "--stats", "0"]);
    let mut load = Threads::new();
    for n in 0..6 {
        load.hog(&format!("hog{n}"), None);
    }
    let faulty =
        SwapRequest { params: vec!["fault=1".into(), "after=1".into()], ..request(&object("faulty")) };
    // The fault may strike before the swap is reported, or after.
    let _ = swap(&faulty);
    eventually("the fallback is in force", || active() == "vtime" && KernelState::read().enabled());
    load.assert_all_progress();
    let (end, _, errors) = running.stop();
    assert_eq!(end.code(), Some(3));
    assert!(errors.contains("injected fault"), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_stopped_agent_stops_no_task() {
    let running = Running::start(&["--policy", "vtime", "--timeout", "5s", "--stats", "0"]);
    let load = {
        let mut load = Threads::new();
        for n in 0..6 {
            load.hog(&format!("hog{n}"), None);
        }
        load.add("sleeper", None, || thread::sleep(Duration::from_millis(1)));
        load
    };
    running.signal(libc::SIGSTOP);
    for _ in 0..4 {
        thread::sleep(Duration::from_secs(2));
        load.assert_all_progress();
        assert!(KernelState::read().enabled());
    }
    running.signal(libc::SIGCONT);
    assert_eq!(active(), "vtime");
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_killed_command_s_status_is_passed_on() {
    let output = scx_run(&["--policy", "fifo", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
    let missing = scx_run(&["--policy", "fifo", "--", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("cannot run /nonexistent"), "{}", stderr(&missing));
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_reader_that_does_not_read_holds_nothing_up() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let running = Running::start_with(&["--policy", "fifo", "--stats", "1ms", "--json"], writer.into());
    // More than a pipe holds has been written, or would have been.
    thread::sleep(Duration::from_secs(1));
    let swapped = thread::spawn(|| [swap(&request("vtime")), swap(&request("fifo"))]);
    eventually("swaps are done while nobody reads", || swapped.is_finished());
    assert!(swapped.join().unwrap().iter().all(Result::is_ok));

    let mut buffer = [0; 512];
    eventually("it says what a slow reader has missed", || {
        reader.read_exact(&mut buffer).unwrap();
        running.stderr().contains("messages were dropped")
    });
    drop(reader);
    assert!(running.stop().0.success(), "a reader that has gone is no error");
}
