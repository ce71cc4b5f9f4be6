// SPDX-License-Identifier: GPL-2.0-only
//! No policy stalls, whatever tasks do and CPUs that come and go.

use super::*;

/// For how long each is under stress: `scripts/test --soak` asks for a minute.
fn span() -> Duration {
    Duration::from_secs(std::env::var("SCX_TEST_SECONDS").map_or(0, |seconds| seconds.parse().unwrap()))
}

/// Much of all that makes a scheduler work: switches, forks, changes of affinity, messages between many.
fn stress() -> [Background; 2] {
    let args =
        ["--cpu", "2", "--switch", "2", "--fork", "2", "--affinity", "2", "--aggressive", "--timeout", "1h"];
    [
        Background::start("stress-ng", &args),
        Background::start("hackbench", &["-g", "1", "-f", "4", "-l", "100000000"]),
    ]
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn every_policy_survives_stress_and_hotplug() {
    for policy in policies() {
        let late = Offline::take(1);
        let running = Running::start(&["--policy", &policy, "--stats", "0", "--timeout", "10s"]);
        let end = Instant::now() + span();
        let mut stress = stress();
        let mut load = Threads::new();
        load.hog("pinned", Some(3));
        load.add("sleeper", None, || thread::sleep(Duration::from_millis(1)));
        load.assert_all_progress();
        // A CPU that was offline when the policy was attached.
        drop(late);
        load.hog("late", Some(1));
        // More than one: what waits for a CPU that goes has to be moved on from there.
        for name in ["leaver", "left", "behind"] {
            load.hog(name, Some(2));
        }
        let mut hotplugs = 0;
        while hotplugs < 2 || Instant::now() < end {
            let offline = Offline::take(2);
            load.assert_all_progress();
            drop(offline);
            load.assert_all_progress();
            hotplugs += 1;
        }
        stress.iter_mut().for_each(Background::assert_running);
        println!("{policy}: {hotplugs} times a CPU went and came back");
        let (end, _, errors) = running.stop();
        assert!(end.success(), "{policy}: {errors}");
    }
}
