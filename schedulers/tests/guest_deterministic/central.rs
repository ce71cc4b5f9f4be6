// SPDX-License-Identifier: GPL-2.0-only
//! central: the CPUs that do not decide need no ticks, and have them again under the next policy.

use std::fs;

use super::*;

/// The CPU that the kernel was booted with in nohz_full=.
const TICKLESS: usize = 1;

/// Timer interrupts of that CPU.
fn ticks() -> u64 {
    let text = fs::read_to_string("/proc/interrupts").unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("LOC:"));
    let mut counts = line.expect("local timer interrupts").split_whitespace().skip(1);
    counts.nth(TICKLESS).unwrap().parse().unwrap()
}

/// Ticks of that CPU in a second, in which two hogs take turns there.
fn ticks_while_they_take_turns(policy: &str, load: &Threads) -> u64 {
    load.assert_all_progress();
    let trace = Trace::start(&["sched_switch"]);
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    let ticks = ticks() - before;
    let lines = trace.stop();
    let is_hog = |line: &&String| field(line, "next_comm").is_some_and(|name| name.starts_with("tickless"));
    let turns = lines.iter().filter(is_hog).count();
    println!("{policy}: {ticks} ticks, {turns} turns");
    assert!(turns >= 25, "{policy}: slices of 20 ms would be 50 turns, and there are {turns}");
    ticks
}

#[test]
#[ignore = "needs a deterministic VM with nohz_full=1: scripts/test boots one"]
fn nohz_full_central_needs_no_ticks_and_the_next_policy_has_them_again() {
    assert_eq!(fs::read_to_string("/sys/devices/system/cpu/nohz_full").unwrap().trim(), "1");
    pin(0);
    let running = Running::start(&["--policy", "fifo", "--stats", "0", "--timeout", "10s"]);
    let mut load = Threads::new();
    for n in 0..2 {
        // In emulation the virtual CPUs take turns, which end when a timer fires, and here none does; or at a PAUSE.
        load.add(&format!("tickless{n}"), Some(TICKLESS), || {
            spin();
            std::hint::spin_loop();
        });
    }
    let ticks = ticks_while_they_take_turns("fifo", &load);
    assert!(ticks >= 200, "one in 4 ms: {ticks}");
    // From a policy without ticks to itself, too.
    for next in ["central", "central", "fifo"] {
        swap(&request(next)).unwrap();
        let ticks = ticks_while_they_take_turns(next, &load);
        if next == "central" {
            assert!(ticks <= 10, "the kernel's own, one a second: {ticks}");
        }
    }
    drop(load);
    assert!(running.stop().0.success());
}
