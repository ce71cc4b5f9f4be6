// SPDX-License-Identifier: GPL-2.0-only
//! layers: each layer gets its share of the CPUs that it may use, whatever its tasks do.

use std::fs;
use std::sync::atomic::AtomicU64;

use super::*;

/// Threads called after their layer, that never sleep but for what `step` does, and the CPU time of each layer.
struct Layers {
    names: Vec<String>,
    times: Vec<Vec<Arc<AtomicU64>>>,
    threads: Threads,
}

impl Layers {
    fn new() -> Self {
        Layers { names: Vec::new(), times: Vec::new(), threads: Threads::new() }
    }

    fn add(&mut self, name: &str, count: usize, step: fn()) {
        let mut times = Vec::new();
        for _ in 0..count {
            let time = Arc::<AtomicU64>::default();
            times.push(time.clone());
            self.threads.add(name, None, move || {
                step();
                time.store(cpu_time(), Ordering::Relaxed);
            });
        }
        self.names.push(name.into());
        self.times.push(times);
    }

    fn ran(&self) -> Vec<u64> {
        let of = |times: &Vec<Arc<AtomicU64>>| times.iter().map(|time| time.load(Ordering::Relaxed)).sum();
        self.times.iter().map(of).collect()
    }

    /// What each layer gets of what all get, in the order in which they were added.
    fn assert_parts(&self, expected: &[f64], tolerance: f64) {
        self.threads.assert_all_progress();
        thread::sleep(Duration::from_millis(300));
        let before = self.ran();
        thread::sleep(Duration::from_secs(3));
        let ran: Vec<_> = self.ran().iter().zip(before).map(|(now, before)| now - before).collect();
        let all: u64 = ran.iter().sum();
        let parts: Vec<_> = ran.iter().map(|ran| *ran as f64 / all as f64).collect();
        println!("{:?}: {parts:.4?}, expected {expected:.4?}", self.names);
        for (part, expected) in parts.iter().zip(expected) {
            assert!((part - expected).abs() <= tolerance, "{parts:.4?} instead of {expected:.4?}");
        }
    }
}

/// A layer for each of these names.
fn rules(layers: &[(&str, &str)]) -> String {
    let one = |(name, rest): &(&str, &str)| {
        format!("[[layer]]\nname = '{name}'\nmatch = [{{ comm = '{name}' }}]\n{rest}\n")
    };
    let path = std::env::temp_dir().join("layers.toml");
    fs::write(&path, layers.iter().map(one).collect::<String>()).unwrap();
    path.display().to_string()
}

fn layers(config: &str) -> Running {
    Running::start(&["--policy", "layers", "--config", config, "--stats", "0", "--no-latency"])
}

/// A bit of work and a short sleep, over and over.
fn work_and_nap() {
    (0..50).for_each(|_| spin());
    thread::sleep(Duration::from_micros(50));
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_layers_get_their_shares() {
    let running =
        layers(&rules(&[("big", "share = 300"), ("small", "share = 100"), ("slow", "slice = '20ms'")]));
    let mut load = Layers::new();
    load.add("big", 1, spin);
    load.add("small", 3, spin);
    load.add("slow", 2, spin);
    load.assert_parts(&[0.6, 0.2, 0.2], 0.02);
    // Another one that comes is owed nothing, and who leaves leaves his part to all.
    load.add("other", 2, spin);
    load.assert_parts(&[3.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0], 0.02);
    drop(load);
    // Who preempts gets no more for it.
    let text = rules(&[("eager", "share = 100\npreempt = true"), ("calm", "share = 300")]);
    assert!(scx_run(&["swap", "layers", "--config", &text]).status.success());
    let mut load = Layers::new();
    load.add("eager", 4, work_and_nap);
    load.add("calm", 2, spin);
    load.assert_parts(&[0.25, 0.75], 0.03);
    drop(load);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn four_cpus_layers_get_their_shares_of_the_cpus_that_they_may_use() {
    let running = layers(&rules(&[("big", "share = 300"), ("small", "share = 100")]));
    let mut load = Layers::new();
    load.add("big", 4, spin);
    load.add("small", 8, spin);
    load.assert_parts(&[0.75, 0.25], 0.02);
    drop(load);
    // Of CPU 0 each has its share; the others are the second one's.
    let text = rules(&[("kept", "cpus = '0'\nshare = 300"), ("free", "share = 100")]);
    assert!(scx_run(&["swap", "layers", "--config", &text]).status.success());
    let mut load = Layers::new();
    load.add("kept", 2, spin);
    load.add("free", 8, spin);
    load.assert_parts(&[0.75 / 4.0, 3.25 / 4.0], 0.01);
    drop(load);
    assert!(running.stop().0.success());
}
