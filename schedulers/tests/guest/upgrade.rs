// SPDX-License-Identifier: GPL-2.0-only
//! One scx_run takes over from another, or from a dead one, while the machine goes on under its scheduler.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use framework::control::{self, Request, Response, SwapRequest};
use framework::kernel::KernelState;
use framework::pins;
use framework::report::UpgradeReport;

use crate::support::*;

/// In emulation virtual CPUs take turns, so an agent that is woken may have to wait for far longer than 20 ms.
const AGENT_FIFO: &[&str] =
    &["--policy", "agent_fifo", "--param", "agent_timeout_us=1000000", "--param", "slice_us=2000"];

fn number_of_upgrades() -> usize {
    std::env::var("SCX_TEST_UPGRADES").map_or(3, |number| number.parse().unwrap())
}

fn load() -> Threads {
    let mut load = Threads::new();
    load.hog("witness-hog", None);
    load.hog("witness-pinned", Some(1));
    load.add("witness-sleep", None, || thread::sleep(Duration::from_millis(1)));
    load.add("witness-yield", None, thread::yield_now);
    load.assert_all_progress();
    load
}

/// Waits until a process that is no child of ours has ended; its zombie may stay for init to bury.
fn assert_ends(pid: u32) {
    eventually("the process has ended", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    });
}

pub fn kill(pid: u32) {
    // SAFETY: kill takes plain integers.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
    assert_ends(pid);
}

/// A program that says it is a scx_run and, when it is to take over, does this.
fn fake(script: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::temp_dir().join("fake");
    let text = format!("#!/bin/sh\n[ \"$1\" != --version ] || {{ echo scx_run 9; exit; }}\n{script}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A scx_run that differs in the name of a variable of the root scheduler.
fn of_another_layout() -> String {
    let path = std::env::temp_dir().join("another");
    fs::copy(program(), &path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (b"nr_drained", b"nr_drainee");
    let found: Vec<_> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Upgrades back to back under load. Returns the reports.
fn upgrade_under_load(args: &[&str]) -> Vec<UpgradeReport> {
    let upgrades = number_of_upgrades();
    let first = Running::start(&[args, &["--stats", "0", "--window", "50ms"]].concat());
    let cleanup = StopWhoever;
    let mut stress =
        Background::start("stress-ng", &["--switch", "1", "--cpu", "1", "--fork", "1", "--timeout", "1h"]);
    let load = load();
    let before = KernelState::read();
    let watcher = Watcher::start();
    let mut reports = Vec::new();
    let mut pid = first.pid() as u32;
    for n in 0..upgrades {
        let report = upgrade().unwrap();
        assert_eq!((report.lost, report.outside_ns, report.from_pid), (0, 0, Some(pid)), "upgrade {n}");
        pid = report.to_pid;
        assert_eq!(status().pid, pid);
        if n == 0 {
            assert!(first_ended_well(&first));
        }
        reports.push(report);
    }
    let (readings, bad) = watcher.finish();
    assert_eq!(bad, 0, "of {readings} readings");
    let after = KernelState::read();
    assert_eq!((after.enabled(), after.enable_seq), (true, before.enable_seq));
    assert_eq!(after.nr_rejected, before.nr_rejected);
    load.assert_all_progress();
    stress.assert_running();
    let status = status();
    assert_eq!(status.slots.len(), 1, "{:?}", status.slots);
    print(&reports);
    // Swapping works as before.
    let swapped = swap(&request("vtime")).unwrap();
    assert_eq!((swapped.lost, active().as_str()), (0, "vtime"));
    drop(load);
    drop(stress);
    drop(cleanup);
    let (end, out, errors) = first.wait();
    assert!(end.success(), "{errors}");
    // All of them write where the first one did.
    let told: Vec<_> = out.match_indices("took over ").collect();
    assert_eq!(told.len(), upgrades, "{out}");
    let last = told.last().unwrap().0;
    println!("{}", out[last..].split("\n\n").next().unwrap());
    reports
}

fn first_ended_well(first: &Running) -> bool {
    assert_ends(first.pid() as u32);
    first.stderr().contains("handed over to pid")
}

fn print(reports: &[UpgradeReport]) {
    let ms = |of: fn(&UpgradeReport) -> Option<u64>| {
        let mut all: Vec<_> = reports.iter().filter_map(of).map(|ns| ns as f64 / 1e6).collect();
        all.sort_by(f64::total_cmp);
        match all.as_slice() {
            [] => "-".to_owned(),
            all => format!("{:.2} (worst {:.2})", all[all.len() / 2], all[all.len() - 1]),
        }
    };
    println!(
        "{} upgrades of {}: medians in ms: loaded in {}, without an agent {}, without a process {}, worst delay before \
         {}, across {}",
        reports.len(),
        reports[0].policy,
        ms(|report| Some((report.load_ms * 1e6) as u64)),
        ms(|report| report.without_agent_ns),
        ms(|report| report.without_process_ns),
        ms(|report| report.worst_before_ns),
        ms(|report| report.worst_across_ns),
    );
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn upgrades_of_a_kernel_s_policy_back_to_back_under_load() {
    let reports = upgrade_under_load(&["--policy", "fifo", "--param", "slice_us=2000"]);
    assert!(reports.iter().all(|report| report.without_agent_ns.is_none()));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn upgrades_of_an_agent_back_to_back_under_load() {
    let reports = upgrade_under_load(AGENT_FIFO);
    assert!(reports.iter().all(|report| report.without_agent_ns.is_some()));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_upgrade_carries_over_what_an_agent_knows_of_its_tasks() {
    let shinjuku = ["--policy", "shinjuku", "--param", "agent_timeout_us=1000000", "--stats", "0"];
    let _first = Running::start(&shinjuku);
    let _cleanup = StopWhoever;
    let load = load();
    let report = upgrade().unwrap();
    assert_eq!(report.lost, 0);
    assert!(report.restored >= 4, "at least the load's tasks: {report:?}");
    load.assert_all_progress();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn upgrades_of_an_agent_for_each_cpu_back_to_back_under_load() {
    // Slices as they are: four agents on an emulated machine leave the new process too little else to load in.
    let reports = upgrade_under_load(&[&AGENT_FIFO[..4], &["--param", "per_cpu=1"]].concat());
    assert!(reports.iter().all(|report| report.without_agent_ns.is_some()));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn what_is_in_force_stays_in_force() {
    let running =
        Running::start(&["--policy", "vtime", "--param", "slice_us=3000", "--no-latency", "--stats", "0"]);
    let cleanup = StopWhoever;
    swap(&SwapRequest { hold_ms: 600_000, ..request("fifo_percpu") }).unwrap();
    let me = std::process::id().to_string();
    assert!(scx_run(&["hint", "--pid", &me, "deadline=5ms"]).status.success());
    let before = status();
    // By hand: a second scx_run that asks for the scheduler.
    let mut second = Background::start("scx_run", &["--take-over", "--stats", "0"]);
    eventually("the second one answers", || {
        matches!(control::call(&control::dir(), &Request::Status), Ok(Some(Response::Status(status)))
            if status.pid != before.pid)
    });
    let (end, _, errors) = running.wait();
    assert!(end.success() && errors.contains("handed over to pid"), "{errors}");
    let after = status();
    let active = |status: &framework::report::Status| {
        status.slots.iter().find(|slot| slot.role == "active").unwrap().policy.clone()
    };
    assert_eq!(active(&after), active(&before));
    assert_eq!(after.slots.len(), 1, "the one that was held is gone: {:?}", after.slots);
    assert_eq!(after.kernel.enable_seq, before.kernel.enable_seq);
    let hints = stdout(&scx_run(&["hint", "--list"]));
    assert!(hints.contains(&me) && hints.contains("deadline"), "{hints}");
    // The same policy again is loaded from the new program. Epochs go on, so that nobody's queues are taken for
    // another's.
    let again = swap(&request("fifo_percpu")).unwrap();
    assert!(again.verify_ms > 0.0);
    assert!(self::active_epoch() > active(&before).epoch);
    second.assert_running();
    drop(cleanup);
    drop(second);
}

fn active_epoch() -> u64 {
    status().slots.iter().find(|slot| slot.role == "active").unwrap().policy.epoch
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_that_has_taken_over_sleeps_when_there_is_nothing_to_do() {
    let running = Running::start(&[AGENT_FIFO, &["--no-latency", "--stats", "0"]].concat());
    let cleanup = StopWhoever;
    let report = upgrade().unwrap();
    let before = sleeps(report.to_pid);
    thread::sleep(Duration::from_secs(2));
    let slept = sleeps(report.to_pid) - before;
    // Before it was an agent it was a task that an agent was told of; to be told of itself keeps it awake.
    assert!(slept < 2000, "its threads slept {slept} times in 2 s");
    drop(cleanup);
    assert!(running.wait().0.success());
}

/// Kills a scx_run that was started with --keep under load, and has another one take over what is left.
fn kill_and_adopt(args: &[&str]) {
    let running = Running::start(&[args, &["--keep", "--stats", "0"]].concat());
    let cleanup = StopWhoever;
    let load = load();
    let before = KernelState::read();
    assert!(status().keep);
    running.signal(libc::SIGKILL);
    running.wait();
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(1));
        load.assert_all_progress();
        let state = KernelState::read();
        assert_eq!((state.enabled(), state.enable_seq), (true, before.enable_seq));
    }

    let said = stdout(&scx_run(&["status"]));
    assert!(said.contains("no scx_run decides, BPF alone") && said.contains("scx_run --take-over"), "{said}");
    let refused = scx_run(&["--policy", "vtime"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = stderr(&refused);
    for text in ["a scheduler is attached that was kept", "scx_run --take-over", "scx_run stop"] {
        assert!(why.contains(text), "{why}");
    }

    for args in [&["upgrade"][..], &["swap", "vtime"], &["hint", "--list"]] {
        let refused = scx_run(args);
        let why = stderr(&refused);
        assert!(
            !refused.status.success() && why.contains("but a scheduler was kept; `scx_run --take-over`"),
            "{why}"
        );
    }

    // Adopted for good, kept again, killed again: it can be done more than once.
    for _ in 0..2 {
        let adopted = Running::start(&["--take-over", "--keep", "--stats", "0"]);
        let status = status();
        assert!(status.keep && status.slots.len() == 1, "{status:?}");
        if let Some(agent) = status.slots[0].agent {
            let decided = agent.committed;
            eventually("its agent decides", || self::status().slots[0].agent.unwrap().committed > decided);
        }
        load.assert_all_progress();
        kill(adopted.pid() as u32);
        adopted.wait();
        load.assert_all_progress();
    }
    let adopted = Running::start(&["--take-over", "--stats", "0"]);
    assert!(!status().keep);
    assert_eq!(swap(&request("vtime")).unwrap().lost, 0);
    assert_eq!(KernelState::read().enable_seq, before.enable_seq);
    load.assert_all_progress();
    drop(cleanup);
    let (end, _, errors) = adopted.wait();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_kept_scheduler_outlives_its_process_and_is_adopted() {
    kill_and_adopt(&["--policy", "fifo"]);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_kept_agent_s_scheduler_outlives_its_process_and_is_adopted() {
    kill_and_adopt(AGENT_FIFO);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn who_waits_for_an_agent_runs_when_it_ends_in_order() {
    let running = Running::start(&[AGENT_FIFO, &["--keep", "--stats", "0", "--timeout", "10s"]].concat());
    let cleanup = StopWhoever;
    // More than an agent gives to four CPUs, and so many that BPF always has somebody else to run.
    let mut load = Threads::new();
    (0..24).for_each(|n| load.hog(&format!("hog{n}"), None));
    load.assert_all_progress();
    let before = KernelState::read();
    assert!(running.stop().0.success());
    load.assert_all_progress();
    let state = KernelState::read();
    assert_eq!((state.enabled(), state.enable_seq), (true, before.enable_seq));
    drop(load);
    drop(cleanup);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_kept_scheduler_stays_when_scx_run_ends_and_goes_with_stop() {
    let running = Running::start(&["--policy", "fifo", "--keep", "--stats", "0"]);
    let cleanup = StopWhoever;
    let before = KernelState::read();
    // A swap is kept like what was there first.
    swap(&request("vtime")).unwrap();
    // One that cannot use what is pinned says so and changes nothing.
    let cannot = fake("rm /sys/fs/bpf/scx_run/maps/policy_shared; exec scx_run \"$@\"");
    let output = scx_run(&["upgrade", "--binary", &cannot]);
    let why = stderr(&output);
    assert!(why.contains("policy_shared") && why.contains("the running scx_run goes on"), "{why}");
    assert_eq!((status().pid, status().keep, active().as_str()), (running.pid() as u32, true, "vtime"));
    let (end, _, errors) = running.stop();
    assert!(end.success() && errors.contains("policy vtime stays in force"), "{errors}");
    assert_eq!(KernelState::read().enable_seq, before.enable_seq);
    assert!(KernelState::read().enabled());
    assert_eq!(pins::kept().unwrap().unwrap().policies(), "vtime");
    let output = scx_run(&["stop"]);
    assert!(output.status.success() && stdout(&output).contains("vtime"), "{}", stderr(&output));
    assert_eq!(KernelState::read().state, "disabled", "at once: the next one finds nothing in its way");
    assert!(pins::kept().unwrap().is_none());
    assert!(!scx_run(&["stop"]).status.success(), "nothing to stop any more");
    std::mem::forget(cleanup);
    // And the next start finds nothing in its way.
    assert!(Running::start(&["--policy", "fifo"]).stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_process_killed_in_the_middle_of_a_swap_leaves_what_can_be_adopted() {
    for phase in ["loading", "measuring before the flip", "draining", "measuring after the flip"] {
        let running = Running::start(&["--policy", "fifo", "--keep", "--no-latency", "--stats", "0"]);
        let cleanup = StopWhoever;
        let load = load();
        let wanted = SwapRequest { window_ms: 2000, ..request("vtime") };
        let swapping = thread::spawn(move || control::call(&control::dir(), &Request::Swap(wanted)));
        wait_for_phase(phase);
        running.signal(libc::SIGKILL);
        running.wait();
        let _ = swapping.join().unwrap();
        load.assert_all_progress();
        let adopted = Running::start(&["--take-over", "--no-latency", "--stats", "0"]);
        eventually("one policy is left", || status().slots.len() == 1 && status().phase == "steady");
        let flipped = ["draining", "measuring after the flip"].contains(&phase);
        assert_eq!(active(), if flipped { "vtime" } else { "fifo" }, "killed while {phase}");
        assert_eq!(swap(&request("fifo_percpu")).unwrap().lost, 0);
        load.assert_all_progress();
        drop(load);
        drop(cleanup);
        drop(adopted);
    }
}

fn wait_for_phase(phase: &str) {
    if phase == "loading" {
        // Nobody answers meanwhile.
        return thread::sleep(Duration::from_millis(50));
    }
    loop {
        let seen = status().phase;
        // The drain is short: whoever looks too late is in the phase after it.
        if seen == phase || (phase == "draining" && seen == "measuring after the flip") {
            return println!("killed while {seen}");
        }
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_upgrade_that_fails_leaves_everything_as_it_is() {
    let running = Running::start(&[AGENT_FIFO, &["--stats", "0"]].concat());
    let load = load();
    let before = status();
    let refused = |args: &[&str], why: &str| {
        let output = scx_run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
        assert!(!Path::new("/sys/fs/bpf/scx_run").exists(), "the pins went with it");
    };
    refused(&["upgrade", "--binary", "/bin/busybox"], "is no scx_run");
    refused(&["upgrade", "--binary", "/nonexistent"], "cannot run /nonexistent");
    // One whose BPF half has a variable of another name: that is another layout of what is pinned.
    refused(
        &["upgrade", "--binary", &of_another_layout()],
        "is of another version, whose memory this one cannot share; end it with `scx_run stop`",
    );
    // One that claims to be one, and ends.
    refused(
        &["upgrade", "--binary", &fake("exit 7")],
        "before it had taken over; the running scx_run goes on",
    );
    // One that is killed when it is half way.
    let half_way = fake("scx_run \"$@\" & sleep 1; kill -9 $!; exit 9");
    refused(&["upgrade", "--binary", &half_way], "the running scx_run goes on");

    let after = status();
    assert_eq!((after.pid, after.phase.as_str(), after.keep), (before.pid, "steady", false));
    assert_eq!(after.kernel.enable_seq, before.kernel.enable_seq);
    let decided = after.slots[0].agent.unwrap().committed;
    eventually("the agent decides", || status().slots[0].agent.unwrap().committed > decided);
    load.assert_all_progress();
    drop(load);
    // And a good one works after all that.
    let report = upgrade().unwrap();
    assert_eq!(report.from_pid, Some(before.pid));
    drop(StopWhoever);
    assert!(running.wait().0.success());
}
