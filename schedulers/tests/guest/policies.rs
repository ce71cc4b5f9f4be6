// SPDX-License-Identifier: GPL-2.0-only
//! Each policy keeps its promise, as seen in a trace or in accounted run time.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

mod central;
mod cosched;
mod edf;
mod flatcg;
mod hotplug;
mod interactive;
mod layers;
mod llc;
mod nest;
mod prio;
mod stress;

/// CPU that the measured threads share; the test itself stays on CPU 0.
const CPU: usize = 1;
/// CPUs of the VM.
const CPUS: usize = 4;

/// Run time of two always-running threads on one CPU, each after its own `prepare`, over `span`.
fn shares(span: Duration, prepare: [fn(); 2]) -> [u64; 2] {
    let run = |prepare: fn()| {
        thread::spawn(move || {
            pin(CPU);
            prepare();
            // Both have to be there before either counts.
            let settled = Instant::now() + Duration::from_millis(500);
            while Instant::now() < settled {
                spin();
            }
            let (start, end) = (cpu_time(), Instant::now() + span);
            while Instant::now() < end {
                spin();
            }
            cpu_time() - start
        })
    };
    let threads = prepare.map(run);
    threads.map(|thread| thread.join().unwrap())
}

fn assert_ratio(shares: [u64; 2], expected: f64, tolerance: f64) {
    let ratio = shares[0] as f64 / shares[1] as f64;
    println!("shares {shares:?}: ratio {ratio:.3}, expected {expected:.3}");
    assert!((ratio / expected - 1.0).abs() <= tolerance, "ratio {ratio:.3}, expected {expected:.3}");
}

/// Moves the calling thread into a cgroup of this weight.
fn enter(cgroup: &str, weight: u32) {
    let dir = format!("/sys/fs/cgroup/{cgroup}");
    fs::create_dir_all(&dir).unwrap();
    fs::write(format!("{dir}/cgroup.type"), "threaded").ok();
    fs::write(format!("{dir}/cpu.weight"), weight.to_string()).unwrap();
    // SAFETY: gettid has no preconditions.
    let tid = unsafe { libc::gettid() };
    fs::write(format!("{dir}/cgroup.threads"), tid.to_string()).unwrap();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn vtime_shares_follow_nice() {
    let _running = Running::start(&["--policy", "vtime", "--param", "slice_us=5000", "--stats", "0"]);
    // sched_prio_to_weight: nice 0 is 1024, nice 5 is 335.
    let shares = shares(Duration::from_secs(8), [|| nice(0), || nice(5)]);
    assert_ratio(shares, 1024.0 / 335.0, 0.03);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn vtime_shares_follow_cgroup_weights() {
    let _running = Running::start(&["--policy", "vtime", "--param", "slice_us=5000", "--stats", "0"]);
    let shares = shares(Duration::from_secs(6), [|| enter("heavy", 300), || enter("light", 100)]);
    assert_ratio(shares, 3.0, 0.05);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn vtime_keeps_its_shares_after_another_policy_ran() {
    // What ran under fifo must not count against anybody afterwards, nor stall a newcomer.
    let _running = Running::start(&["--policy", "vtime", "--param", "slice_us=5000", "--stats", "0"]);
    let mut load = Threads::new();
    load.hog("old-hog", Some(2));
    swap(&request("fifo")).unwrap();
    thread::sleep(Duration::from_secs(1));
    let mut back = request("vtime");
    back.params = vec!["slice_us=5000".into()];
    swap(&back).unwrap();
    load.hog("new-hog", Some(2));
    load.assert_all_progress();
    let shares = shares(Duration::from_secs(5), [|| nice(0), || nice(5)]);
    assert_ratio(shares, 1024.0 / 335.0, 0.05);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn vtime_sleepers_do_not_starve_behind_a_task_with_a_cpu_to_itself() {
    let running = Running::start(&["--policy", "vtime", "--stats", "0"]);
    let mut load = Threads::new();
    // Alone on its CPU it gets further and further ahead of those that share the others.
    let cpu_time_of_loner = Arc::new(AtomicU64::new(0));
    let time = cpu_time_of_loner.clone();
    load.add("loner", Some(3), move || {
        spin();
        time.store(cpu_time(), Ordering::Relaxed);
    });
    for n in 0..6 {
        load.hog(&format!("hog{n}"), Some(n % 3));
    }
    load.add("sleeper", Some(0), || thread::sleep(Duration::from_millis(1)));
    load.assert_all_progress();
    eventually("the loner is seconds ahead", || cpu_time_of_loner.load(Ordering::Relaxed) > 3_000_000_000);

    // It gets its turn about once in a slice of each of two hogs. Without the bound it would wait for these to
    // catch up with the loner, longer each time.
    let ran = |time: &AtomicU64| time.load(Ordering::Relaxed);
    let (naps, since) = (load.progress()[7], ran(&cpu_time_of_loner));
    eventually("two more seconds of the loner's", || ran(&cpu_time_of_loner) > since + 2_000_000_000);
    let naps = load.progress()[7] - naps;
    println!("{naps} naps while the loner ran for two seconds");
    assert!(naps >= 10, "{naps}");
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_slice_ends_though_a_real_time_thread_keeps_preempting() {
    for how in [&[] as &[&str], &["--direct"]] {
        let _running = Running::start(&[&["--policy", "fifo", "--stats", "0"], how].concat());
        let mut load = Threads::new();
        load.add_after("real-time", Some(CPU), real_time, || thread::sleep(Duration::from_millis(1)));
        load.assert_all_progress();
        // Neither gives the CPU to the other before its slice ends.
        let times = [(); 2].map(|()| Arc::<AtomicU64>::default());
        for (n, time) in times.iter().enumerate() {
            let time = time.clone();
            load.add(&format!("hog{n}"), Some(CPU), move || {
                spin();
                time.store(cpu_time(), Ordering::Relaxed);
            });
        }
        let ran = || times.each_ref().map(|time| time.load(Ordering::Relaxed));
        eventually("both hogs run", || ran().iter().all(|ns| *ns > 100_000_000));
        let before = ran();
        thread::sleep(Duration::from_secs(4));
        let after = ran();
        assert_ratio([after[0] - before[0], after[1] - before[1]], 1.0, 0.2);
    }
}

/// Fails if a sleeper, prepared like this, does not get the CPU of a hog at once, whose slice this is.
fn sleeper_takes_the_cpu_of_a_hog(slice: Duration, prepare: fn()) {
    let mut load = Threads::new();
    let time = Arc::<AtomicU64>::default();
    let ran = time.clone();
    load.add("hog", Some(CPU), move || {
        spin();
        ran.store(cpu_time(), Ordering::Relaxed);
    });
    load.add_after("sleeper", Some(CPU), prepare, || thread::sleep(Duration::from_millis(1)));
    load.assert_all_progress();
    let (naps, before) = (load.progress()[1], time.load(Ordering::Relaxed));
    eventually("the sleeper has slept a hundred times", || load.progress()[1] >= naps + 100);
    let ran = time.load(Ordering::Relaxed) - before;
    println!("the hog ran for {ran} ns while the sleeper slept a hundred times");
    assert!(u128::from(ran) < 20 * slice.as_nanos(), "not a fifth of a slice for each: {ran} ns");
}

/// Eight threads on one CPU, `order0` and so on, each of which waits to be woken, runs a little and waits again. Each
/// has prepared itself by its number.
fn sleepers(prepare: fn(usize)) -> Vec<Sender<()>> {
    let sleeper = |n| {
        let (wake, woken) = channel::<()>();
        let body = move || {
            pin(CPU);
            prepare(n);
            while woken.recv().is_ok() {
                spin();
            }
        };
        thread::Builder::new().name(format!("order{n}")).spawn(body).unwrap();
        wake
    };
    let wake = (0..8).map(sleeper).collect();
    all_sleep();
    wake
}

/// Waits until the sleepers do: whoever does not is not woken by a message.
fn all_sleep() {
    eventually("all sleep", || {
        let all = threads_of("order");
        all.len() == 8 && all.iter().all(|fields| fields[0] == "S")
    });
}

/// Wakes the sleepers in an order that is another one in each round; 3 and 8 have no common divisor.
fn wake_all(sleepers: &[Sender<()>], round: usize) {
    for n in 0..8 {
        sleepers[(n * 3 + round) % 8].send(()).unwrap();
    }
}

/// The thread that a line is about, by the event's field `key`, if the line is of this event and the name starts so.
fn named<'a>(line: &'a str, event: &str, key: &str, prefix: &str) -> Option<&'a str> {
    line.contains(event).then(|| field(line, key)).flatten().filter(|name| name.starts_with(prefix))
}

/// Order in which the named threads were woken and in which they ran then, from a trace. One whose CPU somebody else
/// has for a moment in between, say a kernel thread, counts once.
fn orders<'a>(lines: &'a [String], prefix: &str) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut woken, mut ran, mut waiting) = (Vec::new(), Vec::new(), HashSet::new());
    for line in lines {
        if let Some(name) = named(line, "sched_wakeup:", "comm", prefix) {
            waiting.insert(name);
            woken.push(name);
        } else if let Some(name) = named(line, "sched_switch:", "next_comm", prefix)
            && waiting.remove(name)
        {
            ran.push(name);
        }
    }
    (woken, ran)
}

/// Fails if forty wakeups on one CPU, beside a hog, are not served in their order.
fn assert_order_of_arrival() {
    let mut load = Threads::new();
    load.hog("blocker", Some(CPU));
    load.assert_all_progress();
    let sleepers = sleepers(|_| ());

    let trace = Trace::start(&["sched_wakeup", "sched_switch"]);
    for round in 0..5 {
        wake_all(&sleepers, round);
        all_sleep();
    }
    let lines = trace.stop();
    let (woken, ran) = orders(&lines, "order");
    assert_eq!(woken.len(), 40, "each wakeup is in the trace: {woken:?}");
    assert_eq!(woken, ran, "order of service is order of arrival");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn fifo_serves_in_order_of_arrival() {
    pin(0);
    let _running = Running::start(&["--policy", "fifo", "--param", "slice_us=50000", "--stats", "0"]);
    assert_order_of_arrival();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn fifo_hogs_take_turns() {
    pin(0);
    let _running = Running::start(&["--policy", "fifo", "--param", "slice_us=4000", "--stats", "0"]);
    let mut load = Threads::new();
    for n in 0..4 {
        load.hog(&format!("turn{n}"), Some(CPU));
    }
    load.assert_all_progress();
    let trace = Trace::start(&["sched_switch"]);
    thread::sleep(Duration::from_secs(1));
    let lines = trace.stop();
    let ran: Vec<_> =
        lines.iter().filter_map(|line| named(line, "sched_switch:", "next_comm", "turn")).collect();
    assert!(ran.len() >= 40, "only {} turns", ran.len());
    // A kernel thread in between lets the same hog go on: that is no turn.
    let mut turns = ran.clone();
    turns.dedup();
    for window in turns.windows(5) {
        assert_eq!(window[0], window[4], "turns go round in the same order: {turns:?}");
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn fifo_percpu_steals_for_idle_cpus_and_only_then() {
    for (params, expected) in [(&[] as &[&str], CPUS), (&["--param", "steal=0"], 1)] {
        let running = Running::start(&[&["--policy", "fifo_percpu", "--stats", "0"], params].concat());
        let load = born_together("stolen");
        match expected {
            1 => assert_eq!(cpus_of("stolen"), 1, "{params:?}"),
            _ => eventually("each CPU runs one of them", || cpus_of("stolen") == expected),
        }
        load.assert_all_progress();
        drop(load);
        assert!(running.stop().0.success());
    }
}

/// As many hogs as there are CPUs, which begin on one of these and may use all.
fn born_together(name: &str) -> Threads {
    let mut load = Threads::new();
    for n in 0..CPUS {
        load.add_after(&format!("{name}{n}"), Some(CPU), || allow(0, CPUS - 1), spin);
    }
    load
}

/// What proc_pid_stat(5) says of the threads of ours with such names, from its third field, the state.
fn threads_of(prefix: &str) -> Vec<Vec<String>> {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
    let fields = |stat: String| {
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        name.starts_with(prefix).then(|| fields.split(' ').map(str::to_owned).collect())
    };
    stats.filter_map(fields).collect()
}

/// Number of CPUs on which threads with such names are seen for a while.
fn cpus_of(prefix: &str) -> usize {
    let mut cpus = HashSet::new();
    for _ in 0..50 {
        // The CPU is field 39.
        cpus.extend(threads_of(prefix).into_iter().map(|fields| fields[36].clone()));
        thread::sleep(Duration::from_millis(10));
    }
    cpus.len()
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn the_example_of_the_docs_does_what_it_says() {
    let polite = object("polite");
    let _running = Running::start(&["--policy", &polite, "--param", "share=8", "--stats", "0"]);
    // Of eight picks one is the polite thread's.
    let shares = shares(Duration::from_secs(4), [|| nice(0), || nice(5)]);
    println!("busy and polite: {shares:?}");
    assert!(shares[0] > 3 * shares[1], "the other one comes first: {shares:?}");
    assert!(shares[1] > 0, "and the polite one does not starve: {shares:?}");
}
