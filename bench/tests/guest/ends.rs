// SPDX-License-Identifier: GPL-2.0-only
//! However it ends, the machine is as it was before.

use std::fs;
use std::process::{Command, Stdio};

use framework::control::{self, Request, Response};
use framework::kernel::KernelState;

use crate::support::*;

/// Attachments until a cell is complete, with one contender: the warm-up's, the cell's, and that of the next.
const FIRST_CELL: u64 = 3;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn ctrl_c_keeps_what_was_measured_and_leaves_nothing_behind() {
    for (workload, program) in [("stress-ng-switch", "stress-ng"), ("hackbench", "hackbench")] {
        let bench = compare("fifo", workload, 100, 1.0);
        let files = temporary_files();
        let mut running = bench.start();
        running.wait_attached(FIRST_CELL);
        eventually("the load runs", || !pids(program).is_empty());
        running.child.signal(libc::SIGINT);
        let run = running.wait().ended_with(INTERRUPTED);
        assert_gone(&[program]);
        assert_eq!(temporary_files(), files);

        let report = run.report();
        assert_eq!(report.0["interrupted"], true);
        assert_eq!(report.cells()[0], ("fifo", workload, 0));
        assert!(report.cells_of("fifo") < 100);
        assert_eq!(report.failures(""), [""; 0], "it is no failure");
        let said = run.stderr();
        assert!(said.contains("scx_bench: interrupted: what was measured so far is kept\n"), "{said}");
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn sigkill_takes_the_contender_along() {
    let mut running = compare("fifo", "stress-ng-switch", 100, 1.0).start();
    running.wait_attached(1);
    eventually("the load runs", || !pids("stress-ng").is_empty());
    running.child.signal(libc::SIGKILL);
    assert_eq!(running.wait().status.code(), None);
    assert_default_scheduler();
    assert_gone(&["stress-ng"]);
}

/// A scheduler of somebody's, in charge. Returns what the kernel calls it.
fn somebody_elses() -> (Killed, String) {
    let mut command = Command::new("scx_run");
    command.args(["--policy", "vtime", "--stats", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Killed(command.spawn().unwrap());
    eventually("scx_run runs vtime", || active().as_deref() == Some("vtime"));
    let ops = KernelState::read().ops.expect("it has a name");
    (running, ops)
}

/// The policy that scx_run says is in charge.
fn active() -> Option<String> {
    match control::call(&control::dir(), &Request::Status) {
        Ok(Some(Response::Status(status))) => {
            let active = status.slots.iter().find(|slot| slot.role == "active");
            active.map(|slot| slot.policy.name.clone())
        }
        _ => None,
    }
}

/// It is back; ends it.
fn assert_back(ops: &str) {
    let state = KernelState::read();
    assert_eq!((state.state.as_str(), state.ops.as_deref()), ("enabled", Some(ops)));
    eventually("vtime is back", || active().as_deref() == Some("vtime"));
    let pids = pids("scx_run");
    assert_eq!(pids.len(), 1);
    // SAFETY: kill takes plain integers.
    unsafe { libc::kill(pids[0], libc::SIGINT) };
    assert_default_scheduler();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn the_scheduler_before_is_back_afterwards() {
    let (mut before, ops) = somebody_elses();
    let run = compare("eevdf,fifo", "pipe", 1, 0.2).run();
    assert!(before.0.wait().unwrap().success(), "it was asked to end");
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr());
    assert_eq!(run.report().cells().len(), 2);
    let says = format!("scheduler {ops} is attached; it is ended now and started again afterwards");
    assert!(run.stderr().contains(&says), "{}", run.stderr());
    assert!(run.stderr().contains(&format!("scheduler {ops} is back")), "{}", run.stderr());
    assert_back(&ops);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn the_scheduler_before_is_back_after_ctrl_c_too() {
    let (mut before, ops) = somebody_elses();
    let mut running = compare("fifo", "pipe", 100, 0.2).start();
    running.wait_attached(FIRST_CELL);
    running.child.signal(libc::SIGINT);
    let run = running.wait();
    assert!(before.0.wait().unwrap().success(), "it was asked to end");
    assert_eq!(run.status.code(), Some(INTERRUPTED), "{}", run.stderr());
    assert_back(&ops);
    assert!(!fs::read_to_string(run.out().join("report.md")).unwrap().is_empty());
}
