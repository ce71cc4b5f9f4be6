// SPDX-License-Identifier: GPL-2.0-only
//! flatcg: each cgroup gets its part of what the one above it gets, and no more than its cpu.max.

use std::fs;
use std::time::Instant;

use super::*;
use crate::support::cgroups::{hogs_in, limit, usage_of, write};

/// A leaf of the tree: its path, the weights from the top down to it, and its part of the machine.
struct Leaf {
    path: &'static str,
    weights: &'static [u32],
    part: f64,
    hogs: usize,
}

/// Three levels. How many tasks a cgroup has does not matter.
const TREE: [Leaf; 4] = [
    Leaf { path: "tree/a/a1", weights: &[10_000, 300, 100], part: 0.75 / 4.0, hogs: 3 },
    Leaf { path: "tree/a/a2", weights: &[10_000, 300, 300], part: 0.75 * 3.0 / 4.0, hogs: 1 },
    Leaf { path: "tree/b/b1", weights: &[10_000, 100, 100], part: 0.25 / 2.0, hogs: 1 },
    Leaf { path: "tree/b/b2", weights: &[10_000, 100, 100], part: 0.25 / 2.0, hogs: 4 },
];

/// Makes the cgroups down to the leaf and gives them their weights.
fn grow(leaf: &Leaf) {
    let mut dir = String::from("/sys/fs/cgroup");
    for (name, weight) in leaf.path.split('/').zip(leaf.weights) {
        write(format!("{dir}/cgroup.subtree_control"), "+cpu");
        dir = format!("{dir}/{name}");
        fs::create_dir_all(&dir).unwrap();
        write(format!("{dir}/cpu.weight"), &weight.to_string());
    }
}

fn usage(leaf: &Leaf) -> u64 {
    usage_of(leaf.path)
}

fn hogs(leaf: &Leaf) -> Background {
    hogs_in(leaf.path, leaf.hogs)
}

/// What each leaf gets of what all of them get.
fn parts(leaves: &[Leaf]) -> Vec<f64> {
    // Who has just come or gone does not count.
    thread::sleep(Duration::from_millis(300));
    let before: Vec<_> = leaves.iter().map(usage).collect();
    thread::sleep(Duration::from_secs(3));
    let ran: Vec<_> = leaves.iter().zip(before).map(|(leaf, before)| usage(leaf) - before).collect();
    let all: u64 = ran.iter().sum();
    ran.into_iter().map(|ran| ran as f64 / all as f64).collect()
}

fn assert_parts(leaves: &[Leaf], expected: &[f64]) {
    let parts = parts(leaves);
    println!("parts {parts:.4?}, expected {expected:.4?}");
    for ((leaf, part), expected) in leaves.iter().zip(&parts).zip(expected) {
        assert!((part - expected).abs() <= 0.005, "{}: {part:.4} instead of {expected:.4}", leaf.path);
    }
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_flatcg_shares_follow_the_weights_of_three_levels() {
    TREE.iter().for_each(grow);
    let running =
        Running::start(&["--policy", "flatcg", "--param", "slice_us=2000", "--stats", "0", "--no-latency"]);
    let mut load: Vec<_> = TREE.iter().map(hogs).collect();
    eventually("all have begun", || TREE.iter().all(|leaf| usage(leaf) > 100_000));
    assert_parts(&TREE, &TREE.each_ref().map(|leaf| leaf.part));

    // What a cgroup leaves to others goes to its siblings first.
    drop(load.remove(0));
    assert_parts(&TREE[1..], &[0.75, 0.125, 0.125]);
    // A weight that changes counts from then on.
    write("/sys/fs/cgroup/tree/b/cpu.weight".into(), "300");
    assert_parts(&TREE[1..], &[0.5, 0.25, 0.25]);
    drop(load);
    assert!(running.stop().0.success());
}

/// CPUs that each of these cgroups uses on average.
fn cpus_used(paths: &[&str]) -> Vec<f64> {
    // A new limit counts from the next period on.
    thread::sleep(Duration::from_millis(300));
    let (start, before) = (Instant::now(), paths.iter().map(|path| usage_of(path)).collect::<Vec<_>>());
    thread::sleep(Duration::from_secs(4));
    let time = start.elapsed().as_micros() as f64;
    paths.iter().zip(before).map(|(path, before)| (usage_of(path) - before) as f64 / time).collect()
}

/// Cgroups that use as much as their limits say, and others that do by weight, with the CPUs that
/// they should use.
fn assert_cpus(limited: &[(&str, f64)], by_weight: &[(&str, f64)]) {
    let all = [limited, by_weight].concat();
    let used = cpus_used(&all.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    println!("{all:?}: {used:.4?}");
    for (n, ((path, expected), used)) in all.iter().zip(used).enumerate() {
        // What weights are worth varies with who is parked.
        let tolerance = if n < limited.len() { 0.05 } else { 0.1 };
        assert!(
            (used / expected - 1.0).abs() <= tolerance,
            "{path}: {used:.4} CPUs instead of {expected:.4}"
        );
    }
}

fn flatcg() -> Running {
    Running::start(&["--policy", "flatcg", "--stats", "0", "--no-latency"])
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_flatcg_honours_cpu_max() {
    limit(&[
        ("single", "20000 100000"),
        ("outer", "max 100000"),
        ("outer/a", "max 100000"),
        ("outer/b", "10000 100000"),
        ("free", "max 100000"),
    ]);
    let running = flatcg();
    // Nobody else would have the CPU.
    let single = hogs_in("single", 3);
    assert_cpus(&[("single", 0.2)], &[]);
    let free = hogs_in("free", 1);
    assert_cpus(&[("single", 0.2)], &[("free", 0.8)]);
    // What one may not have its siblings get, by weight.
    let outer = [hogs_in("outer/a", 1), hogs_in("outer/b", 2)];
    assert_cpus(&[("single", 0.2), ("outer/b", 0.1)], &[("outer/a", 0.3), ("free", 0.4)]);
    // Limits within limits. By weight alone it would be much more.
    write("/sys/fs/cgroup/outer/cpu.weight".into(), "300");
    write("/sys/fs/cgroup/outer/cpu.max".into(), "30000 100000");
    assert_cpus(&[("single", 0.2), ("outer", 0.3)], &[("free", 0.5)]);
    // Who sleeps and dies all the time pays, too.
    drop(outer);
    let script = "echo $$ >/sys/fs/cgroup/outer/a/cgroup.procs; while :; do true & wait; done";
    let forks = Background::start("sh", &["-c", script]);
    assert_cpus(&[("outer", 0.3)], &[]);
    drop(forks);
    // A limit that changes counts from then on, and one that goes does not count any more.
    write("/sys/fs/cgroup/single/cpu.max".into(), "40000 100000");
    assert_cpus(&[("single", 0.4)], &[("free", 0.6)]);
    write("/sys/fs/cgroup/single/cpu.max".into(), "max");
    assert_cpus(&[], &[("single", 0.5), ("free", 0.5)]);
    drop((single, free));
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn four_cpus_flatcg_honours_cpu_max() {
    limit(&[("wide", "150000 100000")]);
    let running = flatcg();
    let wide = hogs_in("wide", 4);
    assert_cpus(&[("wide", 1.5)], &[]);
    drop(wide);
    assert!(running.stop().0.success());
}
