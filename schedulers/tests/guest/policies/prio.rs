// SPDX-License-Identifier: GPL-2.0-only
//! prio: strict levels, and nobody starves.

use std::sync::atomic::AtomicBool;

use super::*;

/// Nice values of the sleepers, by number: two of most levels, so that the order within a level shows too.
const NICE: [i32; 8] = [0, 5, 0, 10, -5, 5, 19, -5];

/// The CPU is kept busy by a task of the best level while this is set.
fn blocker(load: &mut Threads) -> Arc<AtomicBool> {
    let busy = Arc::new(AtomicBool::new(false));
    let is_busy = busy.clone();
    let step = move || match is_busy.load(Ordering::Relaxed) {
        true => spin(),
        false => thread::sleep(Duration::from_millis(1)),
    };
    load.add_after("blocker", Some(CPU), || nice(-20), step);
    busy
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn prio_serves_levels_in_order_and_each_in_order_of_arrival() {
    pin(0);
    let _running = Running::start(&["--policy", "prio", "--param", "max_wait_ms=10000", "--stats", "0"]);
    let mut load = Threads::new();
    let busy = blocker(&mut load);
    load.assert_all_progress();
    let sleepers = sleepers(|n| nice(NICE[n]));

    let trace = Trace::start(&["sched_wakeup", "sched_switch"]);
    for round in 0..5 {
        busy.store(true, Ordering::Relaxed);
        load.assert_all_progress();
        wake_all(&sleepers, round);
        thread::sleep(Duration::from_millis(200));
        busy.store(false, Ordering::Relaxed);
        all_sleep();
    }
    let lines = trace.stop();
    let (woken, ran) = orders(&lines, "order");
    assert_eq!((woken.len(), ran.len()), (40, 40), "each wakeup is in the trace: {woken:?}, {ran:?}");
    for (woken, ran) in woken.chunks(8).zip(ran.chunks(8)) {
        let mut expected = woken.to_vec();
        // A stable sort: those of a level stay in the order in which they were woken.
        expected.sort_by_key(|name| NICE[name["order".len()..].parse::<usize>().unwrap()]);
        assert_eq!(ran, expected, "woken as {woken:?}");
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn prio_gives_worse_levels_what_keeps_them_from_starving() {
    let _running = Running::start(&[
        "--policy",
        "prio",
        "--param",
        "slice_us=10000",
        "--param",
        "max_wait_ms=100",
        "--stats",
        "0",
    ]);
    // A slice of 10 ms each 100 to 125 ms.
    for better_and_worse in [[|| nice(0), || nice(1)], [|| enter("better", 300), || enter("worse", 200)]] {
        let [better, worse] = shares(Duration::from_secs(6), better_and_worse);
        let share = worse as f64 / (better + worse) as f64;
        println!("the worse level gets {share:.3}");
        assert!((0.02..0.25).contains(&share), "{share:.3} of the CPU");
    }
    let counts = &status().slots[0].counts;
    assert!(counts["overdue"] > 40, "{counts:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn prio_takes_the_cpu_from_a_worse_level_at_once() {
    pin(0);
    let _running = Running::start(&["--policy", "prio", "--param", "slice_us=1000000", "--stats", "0"]);
    sleeper_takes_the_cpu_of_a_hog(Duration::from_secs(1), || nice(-1));
    assert!(status().slots[0].counts["preempted"] >= 100);
}
