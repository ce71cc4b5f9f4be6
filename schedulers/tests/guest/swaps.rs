// SPDX-License-Identifier: GPL-2.0-only
//! Swapping under load: nobody lost, sched_ext never left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use framework::control::SwapRequest;
use framework::kernel::KernelState;

use crate::support::*;

/// A load in which all kinds of threads must get on: hogs, sleepers, pinned ones, message passing.
fn witnesses() -> Threads {
    let mut load = Threads::new();
    load.hog("witness-hog", None);
    load.hog("witness-pinned", Some(thread::available_parallelism().unwrap().get().min(2) - 1));
    load.add("witness-sleep", None, || thread::sleep(Duration::from_millis(1)));
    load.add("witness-yield", None, thread::yield_now);
    load
}

/// Under this load an emulated machine does about one swap a second: `scripts/test --soak` asks for a thousand.
fn number_of_swaps() -> usize {
    std::env::var("SCX_TEST_SWAPS").map_or(40, |number| number.parse().unwrap())
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_back_and_forth_under_load() {
    let swaps = number_of_swaps();
    // Short slices and no measuring: what a swap takes is mostly waiting for the tasks that the old policy
    // had queued, and for RCU.
    let running =
        Running::start(&["--policy", "fifo", "--param", "slice_us=2000", "--stats", "0", "--no-latency"]);
    let mut stress = [
        Background::start("stress-ng", &["--switch", "8", "--cpu", "4", "--timeout", "1h"]),
        Background::start("stress-ng", &["--fork", "2", "--timeout", "1h"]),
    ];
    let load = witnesses();
    load.assert_all_progress();
    let before = KernelState::read();
    let watcher = Watcher::start();

    let (mut carried, mut loaded, mut outside) = (0u64, 0, 0);
    for n in 0..swaps {
        let policy = ["vtime", "fifo"][n % 2];
        // The policy that was just replaced is held and comes back without loading; every fortieth swap asks
        // for another parameter, so that it is loaded and verified anew under the same load.
        let params = vec![format!("slice_us={}", if n % 40 < 2 { 2001 + n } else { 2000 })];
        let report = swap(&SwapRequest { hold_ms: 600_000, params, ..request(policy) }).unwrap();
        assert_eq!((report.to.as_str(), report.lost), (policy, 0), "swap {n}");
        carried += u64::from(report.carried);
        loaded += usize::from(report.verify_ms > 0.0);
        outside += report.outside_ns;
        if n % 100 == 99 {
            load.assert_all_progress();
            println!("{} swaps, {carried} tasks carried over", n + 1);
        }
    }

    let (readings, bad) = watcher.finish();
    let after = KernelState::read();
    println!(
        "{swaps} swaps, {loaded} of them with loading: {carried} tasks carried over, {readings} readings"
    );
    assert!(carried > swaps as u64, "the load was there to be carried over");
    assert_eq!((bad, outside), (0, 0), "time outside sched_ext");
    assert_eq!(after.enable_seq, before.enable_seq);
    assert_eq!(after.nr_rejected, Some(0));
    assert_eq!(status().nr_swaps, swaps as u64);
    stress.iter_mut().for_each(Background::assert_running);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_walk_through_all_policies_under_load_loses_nobody() {
    let policies = policies();
    // Once to each, or as often as the soak asks for.
    let swaps = std::env::var("SCX_TEST_SWAPS").map_or(policies.len(), |number| number.parse().unwrap());
    let running = Running::start(&["--policy", "fifo", "--stats", "0", "--no-latency"]);
    let args =
        ["--cpu", "2", "--switch", "1", "--fork", "1", "--affinity", "1", "--aggressive", "--timeout", "1h"];
    let mut stress = Background::start("stress-ng", &args);
    let load = witnesses();
    load.assert_all_progress();
    let before = KernelState::read();
    let watcher = Watcher::start();

    let mut carried = 0u64;
    let mut at = 0;
    for n in 0..swaps {
        // The step is another one each time round.
        at = (at + 1 + (n / policies.len()) % (policies.len() - 1)) % policies.len();
        let report = swap(&request(&policies[at])).unwrap_or_else(|error| panic!("swap {n}: {error}"));
        assert_eq!(
            (&report.to, report.lost, report.outside_ns),
            (&policies[at], 0, 0),
            "swap {n}: {report:?}"
        );
        carried += u64::from(report.carried);
        load.assert_all_progress();
    }

    let (readings, bad) = watcher.finish();
    println!("{swaps} swaps, {carried} tasks carried over, {readings} readings");
    assert_eq!((bad, KernelState::read().enable_seq), (0, before.enable_seq), "time outside sched_ext");
    stress.assert_running();
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_held_policy_comes_back_without_loading() {
    let _running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let there = swap(&SwapRequest { hold_ms: 600_000, ..request("vtime") }).unwrap();
    assert!(there.verify_ms > 0.0);
    let held: Vec<_> = status().slots.into_iter().map(|slot| (slot.role, slot.policy.name)).collect();
    assert!(held.contains(&("held".into(), "fifo".into())), "{held:?}");
    let back = swap(&request("fifo")).unwrap();
    assert_eq!(back.verify_ms, 0.0);
    assert_eq!(active(), "fifo");
    eventually("the hold ends", || status().slots.len() == 1);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_swap_that_makes_tasks_wait_is_undone() {
    let _running = Running::start(&["--policy", "vtime", "--stats", "0"]);
    let mut load = Threads::new();
    for n in 0..8 {
        load.hog(&format!("hog{n}"), None);
    }
    load.assert_all_progress();
    // Two hogs a CPU and slices of half a second: somebody waits for longer than is allowed.
    let bad = SwapRequest {
        params: vec!["slice_us=500000".into()],
        window_ms: 2000,
        hold_ms: 60_000,
        max_delay_ms: Some(200),
        ..request("fifo")
    };
    let report = swap(&bad).unwrap();
    let why = report.undone.expect("the guard flips back");
    assert!(why.contains("under fifo a task waited") && why.contains("limit of 200.0 ms"), "{why}");
    assert_eq!(active(), "vtime");
    assert_eq!(report.lost, 0);
    load.assert_all_progress();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_second_swap_is_refused_while_one_is_under_way() {
    let _running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let first = thread::spawn(|| swap(&SwapRequest { window_ms: 1500, ..request("vtime") }));
    eventually("the first swap is under way", || status().phase != "steady");
    let refused = swap(&request("fifo_percpu")).unwrap_err();
    assert!(refused.contains("another swap is under way"), "{refused}");
    assert_eq!(first.join().unwrap().unwrap().to, "vtime");
    assert_eq!(active(), "vtime");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn scripted_swaps_split_the_report_by_policy() {
    let running = Running::start(&[
        "--policy",
        "fifo",
        "--swap-to",
        "vtime@1s",
        "--swap-to",
        "fifo_percpu@3s",
        "--duration",
        "6s",
        "--hold",
        "0",
        "--json",
        "--stats",
        "0",
    ]);
    let (end, out, _) = running.wait();
    assert!(end.success());
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs = lines.last().unwrap()["report"]["runs"].as_array().unwrap();
    let names: Vec<_> = runs.iter().map(|run| run["policy"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fifo", "vtime", "fifo_percpu"]);
    let swaps = lines.iter().filter(|line| line["swap"].is_object()).count();
    assert_eq!(swaps, 2);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_policy_that_needs_more_ops_is_refused_with_the_cure() {
    let ticker = object("ticker");
    let refused = {
        let _running = Running::start(&["--policy", "fifo", "--stats", "0"]);
        let refused = swap(&request(&ticker)).unwrap_err();
        assert_eq!(active(), "fifo");
        refused
    };
    assert!(refused.contains("needs the ops tick") && refused.contains("--ops tick"), "{refused}");
    let _running = Running::start(&["--policy", "fifo", "--ops", "tick", "--stats", "0"]);
    assert_eq!(swap(&request(&ticker)).unwrap().to, "ticker");
    assert_eq!(active(), "ticker");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn measuring_windows_see_the_delay() {
    let _running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let load = witnesses();
    let switches = AtomicU64::new(0);
    load.assert_all_progress();
    let report = swap(&SwapRequest { window_ms: 500, ..request("vtime") }).unwrap();
    switches.fetch_add(1, Ordering::Relaxed);
    assert!(report.worst_before_ns.unwrap() > 0 && report.worst_across_ns.unwrap() > 0, "{report:?}");
    assert!(report.drain_ms > 0.0);
}
