// SPDX-License-Identifier: GPL-2.0-only
//! Tasks that come all the time, run for a moment and are gone do not keep others from running.

use super::*;

/// Runs for a millisecond.
fn short_life() {
    let end = cpu_time() + 1_000_000;
    while cpu_time() < end {
        spin();
    }
}

/// What a hog gets of the one CPU beside four that want it for new threads all the time.
fn part_beside_new_threads() -> f64 {
    let mut load = Threads::new();
    for n in 0..4 {
        load.add(&format!("parent{n}"), None, || thread::spawn(short_life).join().unwrap());
    }
    let hog = thread::spawn(|| {
        let run_until = |end: Instant| {
            while Instant::now() < end {
                spin();
            }
        };
        run_until(Instant::now() + Duration::from_millis(500));
        let (before, start) = (cpu_time(), Instant::now());
        run_until(start + Duration::from_secs(2));
        (cpu_time() - before) as f64 / start.elapsed().as_nanos() as f64
    });
    hog.join().unwrap()
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_new_tasks_starve_nobody() {
    println!("eevdf: {:.3}", part_beside_new_threads());
    for policy in ["vtime", "interactive"] {
        let _running = Running::start(&["--policy", policy, "--no-latency", "--stats", "0"]);
        let part = part_beside_new_threads();
        println!("{policy}: {part:.3}");
        // Five want it.
        assert!((0.1..0.9).contains(&part), "{policy}: {part:.3}");
    }
}
