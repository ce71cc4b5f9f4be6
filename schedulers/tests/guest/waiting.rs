// SPDX-License-Identifier: GPL-2.0-only
//! However small a task's share is, its turn comes before the watchdog does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

/// Waits until `progress` has been the same for a second.
fn stalls(progress: impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (progress(), Instant::now());
    eventually("it waits", || {
        if progress() != last {
            (last, since) = (progress(), Instant::now());
        }
        since.elapsed() >= Duration::from_secs(1)
    });
    last
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_tiny_share_is_no_stall() {
    for policy in ["vtime", "llc", "balance", "flatcg", "interactive", "layers"] {
        // One slice of nice 19 is worth 5 s of each of the others, 40 s all in all.
        let slice = ["--param", "slice_us=50000", "--timeout", "10s"];
        let running = Running::start(&[&["--policy", policy, "--stats", "0"], &slice[..]].concat());
        let mut load = Threads::new();
        load.add_after("light", Some(1), || nice(19), spin);
        for n in 0..8 {
            load.hog(&format!("hog{n}"), Some(1));
        }
        let light = || load.progress()[0];
        let before = stalls(light);
        eventually("its turn comes", || light() > before);
        let (end, _, errors) = running.stop();
        assert!(end.success(), "{policy}: {errors}");
    }
}

/// A change of affinity takes a task off its queue and has it queued again: it has not run for that.
#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn who_is_moved_about_all_the_time_runs() {
    // By order of arrival, by virtual time, by level, and by an agent's word.
    for policy in ["fifo", "flatcg", "prio", "agent_fifo"] {
        let running = Running::start(&["--policy", policy, "--stats", "0", "--timeout", "8s"]);
        let mut load = Threads::new();
        let id = Arc::<AtomicI32>::default();
        let own = id.clone();
        let prepare = move || {
            nice(19);
            // SAFETY: gettid has no preconditions.
            own.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        };
        load.add_after("moved", Some(1), prepare, spin);
        let mut end = 1;
        load.add("mover", Some(0), move || {
            end = 3 - end;
            match id.load(Ordering::Relaxed) {
                0 => (),
                thread => allow_thread(thread, 1, end),
            }
            thread::sleep(Duration::from_millis(1));
        });
        for n in 0..16 {
            load.hog(&format!("hog{n}"), Some(1 + n % 2));
        }
        // Long enough for the kernel to see that somebody does not run.
        thread::sleep(Duration::from_secs(13));
        let (end, _, errors) = running.stop();
        assert!(end.success(), "{policy}: {errors}");
    }
}
