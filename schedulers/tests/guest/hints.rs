// SPDX-License-Identifier: GPL-2.0-only
//! Hints: they reach the policies, outlive them, and die with their task.

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use framework::control::SwapRequest;
use framework::hints::{Class, Hinted};
use framework::swap::Via;

use crate::support::*;

/// CPU that a hog and a sleeper share.
const CPU: usize = 1;

/// What `scx_run hint` prints as JSON.
pub fn hint(args: &[&str]) -> Vec<Hinted> {
    let output = scx_run(&[&["hint", "--json"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = scx_run(&[&["hint"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
    stderr(&output)
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn hints_outlive_policies_and_die_with_their_task() {
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let mut load = Threads::new();
    for _ in 0..2 {
        load.add("needy", None, || thread::sleep(Duration::from_millis(1)));
    }
    load.assert_all_progress();
    assert_eq!(hint(&["--list"]), []);
    let given = hint(&["--comm", "needy", "deadline=5ms", "class=latency"]);
    assert_eq!(given.len(), 2, "{given:?}");
    for Hinted { tgid, comm, hint, .. } in &given {
        assert_eq!((*tgid as u32, comm.as_str()), (std::process::id(), "needy"));
        assert_eq!((hint.deadline_ns, hint.slice_ns, hint.class), (Some(5_000_000), None, Class::Latency));
    }
    let edf = SwapRequest { params: vec!["agent_timeout_us=1000000".into()], ..request("agent_edf") };
    for next in [request("vtime"), edf, SwapRequest { via: Via::Reload, ..request("fifo_percpu") }] {
        swap(&next).unwrap();
        assert_eq!(hint(&["--list"]), given, "under {}", next.policy);
    }

    let pid = given[0].pid.to_string();
    hint(&["--pid", &pid, "slice=1ms"]);
    let replaced = hint(&["--list", "--pid", &pid]);
    assert_eq!((replaced[0].hint.deadline_ns, replaced[0].hint.slice_ns), (None, Some(1_000_000)));
    assert_eq!(hint(&["--clear", "--pid", &pid]).len(), 1);
    assert_eq!(hint(&["--clear", "--pid", &pid]), []);
    let text = stdout(&scx_run(&["hint", "--list"]));
    assert!(text.contains("needy") && text.contains("deadline 5.00 ms, class latency"), "{text}");
    drop(load);
    assert_eq!(hint(&["--list"]), [], "they are dead");
    assert!(refused(&["--pid", &pid, "slice=1ms"]).contains("there is no task with the id"));

    let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
    fs::create_dir_all("/sys/fs/cgroup/needs/some").unwrap();
    fs::write("/sys/fs/cgroup/needs/some/cgroup.procs", sleeper.id().to_string()).unwrap();
    let given = hint(&["--cgroup", "/sys/fs/cgroup/needs", "class=batch"]);
    assert_eq!(given.iter().map(|one| one.pid as u32).collect::<Vec<_>>(), [sleeper.id()]);
    assert!(refused(&["--cgroup", "/needs/none", "class=batch"]).contains("no thread is in a cgroup"));
    assert_eq!(hint(&["--clear"]), given);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_policy_that_is_attached_by_itself_has_hints_too() {
    let running = Running::start(&["--policy", "fifo", "--direct", "--stats", "0"]);
    let me = std::process::id().to_string();
    let given = hint(&["--pid", &me, "deadline=1s"]);
    swap(&SwapRequest { via: Via::Reload, ..request("vtime") }).unwrap();
    assert_eq!(hint(&["--list"]), given);
    assert_eq!(hint(&["--clear"]), given);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn agent_edf_runs_a_hinted_task_before_a_hog() {
    pin(0);
    let params = ["agent_timeout_us=1000000", "slice_us=100000", "default_deadline_us=500000"];
    let mut args = vec!["--policy", "agent_edf", "--stats", "0"];
    params.iter().for_each(|param| args.extend(["--param", param]));
    let running = Running::start(&args);
    let mut load = Threads::new();
    load.hog("hog", Some(CPU));
    let (sender, delays) = channel();
    load.add("urgent", Some(CPU), move || {
        let woken = Instant::now() + Duration::from_millis(20);
        thread::sleep(Duration::from_millis(20));
        let _ = sender.send(woken.elapsed());
    });
    load.assert_all_progress();
    let median = || {
        // What is under way belongs to the time before.
        delays.try_iter().count();
        let mut some: Vec<_> = delays.iter().take(30).collect();
        some.sort();
        some[15]
    };
    let without = median();
    hint(&["--comm", "urgent", "deadline=5ms"]);
    let with = median();
    println!("median delay of a wakeup beside a hog: {without:?} without a hint, {with:?} with one");
    load.assert_all_progress();
    let status = status();
    let agent = status.slots[0].agent.unwrap();
    println!("{agent:?}");
    assert!(with * 3 < without, "{with:?} with a hint, {without:?} without one");
    drop(load);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}
