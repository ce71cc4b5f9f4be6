// SPDX-License-Identifier: GPL-2.0-only
//! llc: tasks leave their cache only if its CPUs are busy, and then they do.
//!
//! Two CPUs are taken for an LLC, so that these tests need no machine with several.

use super::*;

const LLC: &[&str] = &["--policy", "llc", "--param", "llc_cpus=2", "--stats", "0", "--no-latency"];
/// A CPU that is idle for less than this may have been busy as the decision was made, s.
const JUST_NOW: f64 = 0.001;

fn number(line: &str, key: &str) -> Option<usize> {
    field(line, key)?.parse().ok()
}

/// Whether the idle `cpu` is about to run somebody at this line of the trace: the one that it runs next was woken before.
fn is_taken(lines: &[String], at: usize, cpu: usize) -> bool {
    let runs_next =
        |line: &&String| line.contains("sched_switch:") && place(line).is_some_and(|(on, _)| on == cpu);
    let next = lines[at..].iter().find(runs_next).and_then(|line| field(line, "next_pid"));
    let switched = lines[at..].iter().position(|line| runs_next(&line)).unwrap_or(0);
    let woken = |line: &String| line.contains("sched_waking:") && field(line, "pid") == next;
    let before = lines[..at].iter().rev().take(1000);
    // Its last wakeup is before this line and not after it.
    !lines[at..at + switched].iter().any(woken) && before.into_iter().any(woken)
}

/// How often tasks called `prefix...` were moved from one LLC to another, and how often of these while a CPU of the
/// first one was idle and nobody else was on the way there.
fn crossings(lines: &[String], prefix: &str) -> (usize, usize) {
    let mut idle_since = [None; CPUS];
    let (mut crossed, mut needlessly) = (0, 0);
    for (at, line) in lines.iter().enumerate() {
        let Some((cpu, now)) = place(line) else { continue };
        if line.contains("sched_switch:") {
            idle_since[cpu] = (field(line, "next_pid") == Some("0")).then_some(now);
        } else if named(line, "sched_migrate_task:", "comm", prefix).is_some()
            && let (Some(from), Some(to)) = (number(line, "orig_cpu"), number(line, "dest_cpu"))
            && from / 2 != to / 2
        {
            let is_idle = |cpu: usize| idle_since[cpu].is_some_and(|since| now - since > JUST_NOW);
            let home = [from / 2 * 2, from / 2 * 2 + 1];
            crossed += 1;
            needlessly += usize::from(home.iter().any(|cpu| is_idle(*cpu) && !is_taken(lines, at, *cpu)));
        }
    }
    (crossed, needlessly)
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn llc_leaves_home_only_while_all_cpus_there_are_busy() {
    let running = Running::start(LLC);
    let mut load = Threads::new();
    // More than the two CPUs of one LLC can do, and less than all.
    for n in 0..5 {
        let mut round = 0;
        load.add(&format!("warm{n}"), None, move || {
            (0..200).for_each(|_| spin());
            round += 1;
            thread::sleep(Duration::from_micros(1000 + (n * 7 + round * 3) % 5 * 500));
        });
    }
    load.assert_all_progress();
    let before: u64 = load.progress().iter().sum();
    let trace = Trace::start(&["sched_switch", "sched_waking", "sched_migrate_task"]);
    thread::sleep(Duration::from_secs(3));
    let lines = trace.stop();
    let rounds = load.progress().iter().sum::<u64>() - before;
    let (crossed, needlessly) = crossings(&lines, "warm");
    println!("{rounds} rounds, {crossed} crossings, {needlessly} of them while home had an idle CPU");
    assert!(crossed > 0 && rounds > 100, "the test shows nothing");
    assert!(needlessly * 20 <= crossed, "{needlessly} of {crossed}");
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn llc_steals_for_an_idle_llc() {
    let running = Running::start(LLC);
    let load = born_together("stolen");
    eventually("each CPU runs one of them", || cpus_of("stolen") == CPUS);
    drop(load);
    assert!(running.stop().0.success());
}
