// SPDX-License-Identifier: GPL-2.0-only
//! flatcg: each cgroup gets its part of what the one above it gets.

use std::fs;

use super::*;

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

fn write(path: String, text: &str) {
    fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

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

/// CPU time of a leaf, us.
fn usage(leaf: &Leaf) -> u64 {
    let stat = fs::read_to_string(format!("/sys/fs/cgroup/{}/cpu.stat", leaf.path)).unwrap();
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    usage.unwrap().parse().unwrap()
}

/// Processes that never sleep.
fn hogs(leaf: &Leaf) -> Background {
    let one = "while :; do :; done &".repeat(leaf.hogs);
    let script = format!("echo $$ >/sys/fs/cgroup/{}/cgroup.procs; {one} wait", leaf.path);
    Background::start("sh", &["-c", &script])
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
