// SPDX-License-Identifier: GPL-2.0-only
//! central: order of arrival whoever decides, and no CPU waits for a central one that has gone.

use std::process::Command;

use super::*;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn central_serves_in_order_of_arrival_and_decides_for_all() {
    pin(0);
    for fast_path in ["fast_path=1", "fast_path=0"] {
        let running = Running::start(&["--policy", "central", "--param", fast_path, "--stats", "0"]);
        let before = status().slots[0].counts.clone();
        assert_order_of_arrival();
        let counts = status().slots[0].counts.clone();
        println!("{fast_path}: {counts:?}");
        assert!(counts["decided"] >= before["decided"] + 40, "the central CPU has decided: {counts:?}");
        assert!(running.stop().0.success());
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn central_falls_back_when_its_cpu_goes_away_or_is_taken() {
    for direct in [&[] as &[&str], &["--direct"]] {
        let args = [
            &["--policy", "central", "--param", "central_cpu=2", "--stats", "0", "--timeout", "10s"],
            direct,
        ];
        let running = Running::start(&args.concat());
        let mut load = Threads::new();
        for n in 0..2 * CPUS {
            load.hog(&format!("central{n}"), None);
        }
        load.add("sleeper", None, || thread::sleep(Duration::from_millis(1)));
        load.assert_all_progress();
        let offline = Offline::take(2);
        load.assert_all_progress();
        load.assert_all_progress();
        drop(offline);
        load.assert_all_progress();
        // A real-time thread that computes most of the time keeps it from being asked.
        load.add_after("real-time", Some(2), real_time, || {
            let until = Instant::now() + Duration::from_millis(90);
            while Instant::now() < until {
                spin();
            }
            thread::sleep(Duration::from_millis(10));
        });
        load.assert_all_progress();
        load.assert_all_progress();
        drop(load);
        let (end, _, errors) = running.stop();
        assert!(end.success(), "{errors}");
    }
}

/// Pins the kernel's threads that end grace periods.
fn pin_rcu(cpus: &str) {
    for process in fs::read_dir("/proc").unwrap() {
        let path = process.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("rcu_") {
            let pid = path.file_name().unwrap().to_str().unwrap();
            // Some are tied to a CPU.
            let _ = Command::new("taskset").args(["-pc", cpus, pid]).output();
        }
    }
}

/// Who runs without an end keeps a CPU from the threads that end a grace period, for which the process waits before
/// it looks after such slices itself.
#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn central_ends_its_slices_also_where_a_grace_period_waits_for_it() {
    let running =
        Running::start(&["--policy", "central", "--stats", "0", "--no-latency", "--timeout", "10s"]);
    let mut load = Threads::new();
    load.hog("endless", Some(2));
    load.assert_all_progress();
    pin_rcu("2");
    // Until they have done what they had begun.
    thread::sleep(Duration::from_secs(1));
    for policy in ["fifo", "central", "vtime", "central", "fifo"] {
        let report = swap(&request(policy)).unwrap();
        assert_eq!(report.lost, 0, "{report:?}");
        load.assert_all_progress();
    }
    pin_rcu("0-3");
    drop(load);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}
