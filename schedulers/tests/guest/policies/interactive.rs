// SPDX-License-Identifier: GPL-2.0-only
//! interactive: who sleeps gets a CPU at once, and nobody gets more than its share.

use super::*;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn interactive_gives_sleepers_the_cpu_of_a_hog_at_once() {
    pin(0);
    let _running =
        Running::start(&["--policy", "interactive", "--param", "slice_us=1000000", "--stats", "0"]);
    sleeper_takes_the_cpu_of_a_hog(Duration::from_secs(1), || ());
    assert!(status().slots[0].counts["preempted"] >= 90);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn interactive_shares_follow_weights_and_sleeping_earns_no_more() {
    let _running = Running::start(&["--policy", "interactive", "--stats", "0", "--no-latency"]);
    // Weights of sched_ext for nice 0 and nice 5.
    assert_ratio(shares(Duration::from_secs(6), [|| nice(0), || nice(5)]), 100.0 / 33.0, 0.05);
    // Two hogs, and one that wakes up all the time and would take two thirds of the CPU if it could.
    let mut load = Threads::new();
    let times = [(); 3].map(|()| Arc::<AtomicU64>::default());
    for (n, time) in times.iter().enumerate() {
        let (time, mut rounds) = (time.clone(), 0);
        load.add(&format!("rival{n}"), Some(CPU), move || {
            spin();
            rounds += 1;
            if n == 2 && rounds % 1000 == 0 {
                thread::sleep(Duration::from_micros(100));
            }
            time.store(cpu_time(), Ordering::Relaxed);
        });
    }
    load.assert_all_progress();
    let ran = || times.each_ref().map(|time| time.load(Ordering::Relaxed));
    let before = ran();
    thread::sleep(Duration::from_secs(6));
    let after = ran();
    let [first, second, sleeps] = [0, 1, 2].map(|n| after[n] - before[n]);
    println!("hogs {first} and {second}, who sleeps {sleeps}");
    assert_ratio([first, second], 1.0, 0.1);
    let share = sleeps as f64 / (first + second + sleeps) as f64;
    assert!((0.2..0.4).contains(&share), "{share:.3} of the CPU for who sleeps often");
}
