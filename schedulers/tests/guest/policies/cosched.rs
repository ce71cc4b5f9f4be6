// SPDX-License-Identifier: GPL-2.0-only
//! cosched: no two trust groups on the CPUs of a core, turns for all.

use std::collections::BTreeMap;

use super::*;

/// CPUs that are taken for a core.
const SIBLINGS: usize = 2;
const GROUPS: [&str; 3] = ["trust-a", "trust-b", "trust-c"];

/// Threads of three groups that do all that makes a scheduler work: computing, short sleeps, waking each other, yielding,
/// tied to a CPU or not. Their names begin with their group's.
fn mixed_load(load: &mut Threads) {
    for (n, group) in GROUPS.into_iter().enumerate() {
        let join = move || enter(group, 100);
        load.add_after(&format!("{group}-hog"), None, join, spin);
        load.add_after(&format!("{group}-tied"), Some(n + 1), join, spin);
        load.add_after(&format!("{group}-nap"), None, join, || {
            thread::sleep(Duration::from_micros(300));
            (0..20).for_each(|_| spin());
        });
        load.add_after(&format!("{group}-yield"), None, join, || {
            spin();
            thread::yield_now();
            thread::sleep(Duration::from_micros(100));
        });
        let (ping, pings) = channel();
        load.add_after(&format!("{group}-ping"), None, join, move || {
            spin();
            let _ = ping.send(());
            thread::sleep(Duration::from_micros(200));
        });
        load.add_after(&format!("{group}-pong"), None, join, move || {
            let _ = pings.recv_timeout(Duration::from_millis(10));
            spin();
        });
    }
}

/// What a trace says of the threads of `GROUPS`.
#[derive(Debug, Default)]
struct Seen {
    /// Switches to one of them.
    switches: usize,
    /// Time in which at least one CPU of a core ran one, us.
    used: u64,
    /// Time in which siblings ran threads of two groups, us, and how often that began.
    forbidden: u64,
    violations: Vec<String>,
    /// Times that siblings ran threads of the same group.
    together: usize,
}

/// Follows the trace, whose lines are in the order of their times.
fn watch(lines: &[String]) -> Seen {
    let mut seen = Seen::default();
    let mut runs: BTreeMap<usize, &str> = BTreeMap::new();
    let mut last = None;
    for line in lines.iter().filter(|line| line.contains("sched_switch:")) {
        let (cpu, time) = place(line).expect("a CPU and a time");
        let time = (time * 1e6).round() as u64;
        let cores = cores(&runs);
        let passed = time - last.replace(time).unwrap_or(time);
        seen.used += passed * cores.len() as u64;
        seen.forbidden +=
            passed * cores.values().filter(|core| core.windows(2).any(|two| two[0] != two[1])).count() as u64;

        let next = field(line, "next_comm").expect("a name");
        match GROUPS.iter().find(|group| next.starts_with(**group)) {
            Some(group) => runs.insert(cpu, group),
            None => runs.remove(&cpu),
        };
        if let Some(core) = self::cores(&runs).get(&(cpu / SIBLINGS)).filter(|_| runs.contains_key(&cpu)) {
            seen.switches += 1;
            if core.windows(2).any(|two| two[0] != two[1]) {
                seen.violations.push(line.clone());
            } else if core.len() > 1 {
                seen.together += 1;
            }
        }
    }
    seen
}

/// Groups that the CPUs of each core run.
fn cores<'a>(runs: &BTreeMap<usize, &'a str>) -> BTreeMap<usize, Vec<&'a str>> {
    let mut cores: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (cpu, group) in runs {
        cores.entry(cpu / SIBLINGS).or_default().push(*group);
    }
    cores
}

/// Traces the mixed load under a scx_run with these arguments.
fn under(args: &[&str]) -> Seen {
    let running = Running::start(args);
    let mut load = Threads::new();
    mixed_load(&mut load);
    load.assert_all_progress();
    // The usual clock differs between CPUs.
    fs::write("/sys/kernel/tracing/trace_clock", "mono").unwrap();
    let trace = Trace::start(&["sched_switch"]);
    for _ in 0..4 {
        load.assert_all_progress();
        thread::sleep(Duration::from_millis(200));
    }
    let lines = trace.stop();
    drop(load);
    assert!(running.stop().0.success());
    let seen = watch(&lines);
    fs::write("/sys/kernel/tracing/trace_clock", "local").unwrap();
    println!(
        "{} switches, cores in use for {} us, siblings of one group {} times, of two groups {} times and {} us",
        seen.switches,
        seen.used,
        seen.together,
        seen.violations.len(),
        seen.forbidden
    );
    seen
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn cosched_never_runs_two_groups_on_a_core() {
    let cosched: &[&str] =
        &["--policy", "cosched", "--param", "core_cpus=2", "--param", "slice_us=4000", "--stats", "0"];
    // What is measured would be seen.
    assert!(under(&["--policy", "fifo", "--stats", "0"]).forbidden > 0, "fifo mixes groups");
    for how in [&[] as &[&str], &["--direct"]] {
        let seen = under(&[cosched, how].concat());
        assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
        assert_eq!(seen.forbidden, 0);
        assert!(seen.switches > 100, "{}", seen.switches);
        assert!(seen.together > 0, "a group has the whole core");
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn cosched_gives_each_group_its_turn() {
    let _running = Running::start(&["--policy", "cosched", "--param", "core_cpus=2", "--stats", "0"]);
    // One core: the first group can use both of its CPUs, the others one each.
    let threads = [("trust-a", 2), ("trust-a", 3), ("trust-b", 2), ("trust-c", 3)];
    let times = threads.map(|_| Arc::<AtomicU64>::default());
    let mut load = Threads::new();
    for (n, (group, cpu)) in threads.into_iter().enumerate() {
        let time = times[n].clone();
        load.add_after(
            &format!("{group}{n}"),
            Some(cpu),
            move || enter(group, 100),
            move || {
                spin();
                time.store(cpu_time(), Ordering::Relaxed);
            },
        );
    }
    let ran = || times.each_ref().map(|time| time.load(Ordering::Relaxed));
    load.assert_all_progress();
    eventually("all run", || ran().iter().all(|ns| *ns > 200_000_000));
    let before = ran();
    thread::sleep(Duration::from_secs(6));
    let after = ran();
    let ran: Vec<_> = (0..4).map(|n| after[n] - before[n]).collect();
    println!("run times {ran:?}");
    // Of a turn of two CPUs each one may miss the beginning, or be the first to end it.
    for n in 2..4 {
        assert_ratio([ran[n], ran[0].max(ran[1])], 1.0, 0.5);
    }
    let counts = &status().slots[0].counts;
    println!("{counts:?}");
    assert!(counts["turns"] > 50 && counts["evicted"] > 20, "{counts:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn cosched_stalls_nobody_while_cpus_and_policies_come_and_go() {
    let args = ["--policy", "cosched", "--param", "core_cpus=2", "--stats", "0", "--timeout", "10s"];
    let running = Running::start(&args);
    let mut load = Threads::new();
    mixed_load(&mut load);
    load.assert_all_progress();
    let offline = Offline::take(3);
    load.assert_all_progress();
    // It comes back under another policy.
    swap(&request("fifo_percpu")).unwrap();
    drop(offline);
    let mut cosched = request("cosched");
    cosched.params = vec!["core_cpus=2".into()];
    swap(&cosched).unwrap();
    load.assert_all_progress();
    let offline = Offline::take(2);
    load.assert_all_progress();
    drop(offline);
    load.assert_all_progress();
    drop(load);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}
