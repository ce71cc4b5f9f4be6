// SPDX-License-Identifier: GPL-2.0-only
//! edf: admitted tasks meet their deadlines, and those that want more than they said delay nobody.

use super::*;

/// A task that has something to do again and again, and what it says of that.
struct Periodic {
    name: &'static str,
    /// between two jobs
    period: Duration,
    /// CPU time of a job
    work: Duration,
    /// what its hint says
    deadline: Duration,
    slice: Duration,
}

impl Periodic {
    const fn of(name: &'static str, period: u64, work: u64, deadline: u64, slice_us: u64) -> Self {
        let ms = Duration::from_millis;
        let slice = Duration::from_micros(slice_us);
        Periodic { name, period: ms(period), work: ms(work), deadline: ms(deadline), slice }
    }

    /// Runs jobs until `end`. Returns how long each took from its release.
    fn run(&self, end: Instant) -> Vec<Duration> {
        let (mut release, mut took) = (Instant::now(), Vec::new());
        while release < end {
            thread::sleep(release.saturating_duration_since(Instant::now()));
            let done = cpu_time() + self.work.as_nanos() as u64;
            while cpu_time() < done {
                spin();
            }
            took.push(release.elapsed());
            release += self.period;
        }
        took
    }
}

/// Runs the tasks beside two hogs for some seconds, each with its hint. Returns how long each of their jobs took.
fn response_times<const N: usize>(tasks: [&'static Periodic; N]) -> [Vec<Duration>; N] {
    let mut hogs = Threads::new();
    (0..2).for_each(|n| hogs.hog(&format!("hog{n}"), None));
    let go = Arc::new(AtomicBool::new(false));
    let start = |task: &'static Periodic| {
        let go = go.clone();
        let body = move || {
            while !go.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            task.run(Instant::now() + Duration::from_secs(3))
        };
        thread::Builder::new().name(task.name.into()).spawn(body).unwrap()
    };
    let threads = tasks.map(start);
    for task in tasks {
        let deadline = format!("deadline={}us", task.deadline.as_micros());
        let slice = format!("slice={}us", task.slice.as_micros());
        let hinted = scx_run(&["hint", "--comm", task.name, &deadline, &slice]);
        assert!(hinted.status.success(), "{}", stderr(&hinted));
    }
    // So that each has asked before the first job counts.
    thread::sleep(Duration::from_millis(200));
    let before = hogs.progress();
    go.store(true, Ordering::Relaxed);
    let times = threads.map(|thread| thread.join().unwrap());
    for (task, times) in tasks.iter().zip(&times) {
        println!("{}: {} jobs, the longest took {:?}", task.name, times.len(), times.iter().max().unwrap());
    }
    assert!(hogs.progress().iter().zip(before).all(|(now, before)| *now > before), "the rest starves");
    times
}

fn misses(task: &Periodic, times: &[Duration]) -> usize {
    times.iter().filter(|took| **took > task.deadline).count()
}

fn counter(name: &str) -> u64 {
    status().slots[0].counts[name]
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_edf_misses_no_deadline_at_ninety_percent() {
    let running =
        Running::start(&["--policy", "edf", "--param", "admit_pct=95", "--stats", "0", "--no-latency"]);
    static TASKS: [Periodic; 3] = [
        Periodic::of("fast", 40, 12, 40, 12_600),
        Periodic::of("middle", 60, 18, 60, 18_900),
        Periodic::of("slow", 100, 30, 100, 31_500),
    ];
    let [fast, middle, slow] = &TASKS;
    let times = response_times([fast, middle, slow]);
    for (task, times) in TASKS.iter().zip(&times) {
        assert_eq!(misses(task, times), 0, "{}: {times:?}", task.name);
    }
    assert_eq!(counter("refused"), 0);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_edf_bounds_what_is_late_and_delays_nobody_else() {
    let running = Running::start(&["--policy", "edf", "--stats", "0", "--no-latency"]);
    static HONEST: Periodic = Periodic::of("honest", 40, 8, 40, 8_400);
    // It says 30 ms in 100 ms and wants 60: two periods, if nobody else had anything to give.
    static LIAR: Periodic = Periodic::of("liar", 400, 60, 100, 30_000);
    // More than is left.
    static GREEDY: Periodic = Periodic::of("greedy", 100, 10, 100, 50_000);
    let [honest, liar, _] = response_times([&HONEST, &LIAR, &GREEDY]);
    assert_eq!(misses(&HONEST, &honest), 0, "{honest:?}");
    let late = liar.iter().max().unwrap();
    assert!(*late > LIAR.deadline, "the test shows nothing: {liar:?}");
    assert!(*late < LIAR.deadline * 5 / 2, "{liar:?}");
    assert_eq!(counter("refused"), 1);
    assert!(counter("depleted") >= liar.len() as u64);
    assert!(running.stop().0.success());
}
