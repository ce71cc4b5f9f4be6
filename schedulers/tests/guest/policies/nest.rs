// SPDX-License-Identifier: GPL-2.0-only
//! nest: low load stays on few CPUs, and high load gets all of them.

use super::*;

/// Time in which each CPU ran threads whose names begin with this, us.
fn time_by_cpu(lines: &[String], prefix: &str) -> [u64; 4] {
    let (mut times, mut since) = ([0; 4], [None; 4]);
    for line in lines.iter().filter(|line| line.contains("sched_switch:")) {
        let (cpu, time) = place(line).expect("a CPU and a time");
        let time = (time * 1e6).round() as u64;
        if let Some(since) = since[cpu].take() {
            times[cpu] += time - since;
        }
        since[cpu] = field(line, "next_comm").is_some_and(|name| name.starts_with(prefix)).then_some(time);
    }
    times
}

/// Six threads that compute for 2 ms out of 24 ms each, one after the other. Where the machine is slow they overlap.
fn low_load() -> Threads {
    let mut load = Threads::new();
    let (phase, period) = (Duration::from_millis(4), Duration::from_millis(24));
    let start = Instant::now();
    for n in 0..6 {
        let mut next = start + phase * n;
        load.add(&format!("nested{n}"), None, move || {
            while next < Instant::now() {
                next += period;
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let until = cpu_time() + 2_000_000;
            while cpu_time() < until {
                spin();
            }
        });
    }
    load
}

/// How many CPUs the load uses: as many as would have the same spread if each had an equal part, 1 to 4. One that is used
/// rarely counts for little.
fn cpus_used(what: &str, load: Threads) -> f64 {
    load.assert_all_progress();
    let trace = Trace::start(&["sched_switch"]);
    thread::sleep(Duration::from_secs(3));
    let lines = trace.stop();
    drop(load);
    let times = time_by_cpu(&lines, "nested");
    let total: u64 = times.iter().sum();
    let squares: f64 = times.iter().map(|time| (*time as f64 / total as f64).powi(2)).sum();
    println!("{what}: {times:?} us, {:.2} CPUs", 1.0 / squares);
    1.0 / squares
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn nest_uses_fewer_cpus_than_the_default_scheduler() {
    let default = cpus_used("default", low_load());
    let running = Running::start(&["--policy", "nest", "--stats", "0"]);
    let nest = cpus_used("nest", low_load());
    let counts = status().slots[0].counts.clone();
    println!("{counts:?}");
    assert!(nest < default, "{nest:.2} CPUs, {default:.2} by default");
    assert!(counts["promoted"] > 0 && counts["compacted"] > 0, "{counts:?}");

    // But nobody waits for a warm CPU while others are idle.
    let mut load = Threads::new();
    for n in 0..4 {
        load.hog(&format!("nested{n}"), None);
    }
    let busy = cpus_used("busy", load);
    assert!(busy > 3.5, "{busy:.2} CPUs for four hogs");
    assert!(running.stop().0.success());
}
