// SPDX-License-Identifier: GPL-2.0-only
//! The decision and the measuring, without a kernel.

use std::time::Duration;

use proptest::prelude::*;

use super::Loads;
use super::moves::{MAX_MOVES, Task, imbalance, moves};

const ANYWHERE: u64 = u64::MAX;

/// Hogs with these LLCs and weights.
fn hogs(hogs: &[(usize, u64)]) -> Vec<Task> {
    let task = |(n, (llc, weight)): (usize, &(usize, u64))| Task {
        pid: n as u64 + 1,
        llc: *llc,
        weight: *weight,
        duty: 1.0,
        allowed: ANYWHERE,
    };
    hogs.iter().enumerate().map(task).collect()
}

fn after(cpus: &[u32], tasks: &[Task]) -> Vec<Task> {
    let mut tasks = tasks.to_vec();
    for one in moves(cpus, &tasks) {
        tasks.iter_mut().find(|task| task.pid == one.pid).unwrap().llc = one.to;
    }
    tasks
}

fn in_llc(tasks: &[Task], llc: usize) -> usize {
    tasks.iter().filter(|task| task.llc == llc).count()
}

#[test]
fn hogs_that_begin_on_one_llc_are_spread() {
    let tasks = after(&[2, 2], &hogs(&[(0, 100); 8]));
    assert_eq!((in_llc(&tasks, 0), in_llc(&tasks, 1)), (4, 4));
    let tasks = after(&[6, 2], &hogs(&[(1, 100); 16]));
    assert_eq!((in_llc(&tasks, 0), in_llc(&tasks, 1)), (12, 4), "by the number of CPUs");
}

#[test]
fn weights_are_spread_and_not_tasks() {
    let tasks = after(&[2, 2], &hogs(&[(0, 300), (0, 300), (0, 100), (0, 100), (0, 100), (0, 100)]));
    // 300 is more than a CPU can be worth: it counts as 200, what the others have on a CPU.
    let load = |llc| tasks.iter().filter(|task| task.llc == llc).map(|task| task.weight.min(200)).sum::<u64>();
    assert_eq!((load(0), load(1)), (400, 400), "{tasks:?}");
}

#[test]
fn a_weight_that_nobody_can_use_does_not_drag_the_rest_away() {
    // One CPU is the heavy one's, and the seven others have three: two of them beside it, five on the other LLC.
    let fair = [vec![(0, 1_000_000)], vec![(0, 100); 2], vec![(1, 100); 5]].concat();
    assert_eq!(moves(&[2, 2], &hogs(&fair)), []);
    let crowded = [vec![(0, 1_000_000)], vec![(0, 100); 7]].concat();
    let tasks = after(&[2, 2], &hogs(&crowded));
    // The heavy one moves and four stay, or the other way round.
    let beside = in_llc(&tasks, tasks[0].llc) - 1;
    assert!((2..=3).contains(&beside), "{tasks:?}");
}

#[test]
fn while_there_are_cpus_for_all_weights_do_not_matter() {
    assert_eq!(moves(&[2, 2], &hogs(&[(0, 10_000), (0, 100), (1, 1)])), []);
    // Three on two CPUs: one has to go, whichever.
    assert_eq!(moves(&[2, 2], &hogs(&[(0, 10_000), (0, 100), (0, 100)])).len(), 1);
    assert_eq!(moves(&[2, 2], &[]), []);
}

#[test]
fn what_whole_tasks_cannot_even_out_is_left_alone() {
    assert_eq!(moves(&[2, 2], &hogs(&[(0, 100), (0, 100), (0, 100), (1, 100), (1, 100)])), []);
}

#[test]
fn nothing_moves_where_there_is_one_llc_or_no_cpu() {
    assert_eq!(moves(&[4], &hogs(&[(0, 100); 9])), []);
    assert_eq!(moves(&[4, 0], &hogs(&[(0, 100); 9])), []);
    assert_eq!(moves(&[0, 0], &hogs(&[(0, 100); 9])), []);
}

#[test]
fn a_task_in_an_llc_that_there_is_not_is_no_reason_to_panic() {
    assert_eq!(moves(&[2, 2], &hogs(&[(7, 100), (0, 100)])), []);
}

#[test]
fn loads_follow_what_is_measured() {
    let second = Duration::from_secs(1);
    let mut loads = Loads::default();
    loads.take(&[[5, 500_000_000, 100, 1, 3]], second);
    assert_eq!(loads.tasks(), [Task { pid: 5, llc: 1, weight: 100, duty: 0.5, allowed: 3 }]);
    // A clock that is a little off makes nobody more than busy all the time.
    loads.take(&[[5, 1_100_000_000, 200, 0, 3]], second);
    assert_eq!(loads.tasks(), [Task { pid: 5, llc: 0, weight: 200, duty: 0.625, allowed: 3 }]);
    for _ in 0..20 {
        loads.take(&[], second);
    }
    assert_eq!(loads.tasks(), [], "who sleeps is forgotten");
}

/// A machine on which BPF keeps to its word: an LLC's tasks share its CPUs by weight, and get their wishes.
struct Machine {
    cpus: Vec<u32>,
    hogs: Vec<Task>,
    loads: Loads,
}

impl Machine {
    fn period(&mut self) -> usize {
        let period = Duration::from_millis(100);
        let record = |hog: &Task| [hog.pid, 99_000_000, hog.weight, hog.llc as u64, hog.allowed];
        self.loads.take(&self.hogs.iter().map(record).collect::<Vec<_>>(), period);
        let wishes = moves(&self.cpus, &self.loads.tasks());
        for wish in &wishes {
            self.hogs.iter_mut().find(|hog| hog.pid == wish.pid).unwrap().llc = wish.to;
        }
        wishes.len()
    }

    /// CPUs that each hog gets.
    fn shares(&self) -> Vec<f64> {
        let share = |hog: &Task| {
            let mates = || self.hogs.iter().filter(|mate| mate.llc == hog.llc);
            feasible(f64::from(self.cpus[hog.llc]), hog.weight, mates().map(|mate| mate.weight))
        };
        self.hogs.iter().map(share).collect()
    }

    /// CPUs that each would get if all shared all.
    fn entitled(&self) -> Vec<f64> {
        let cpus = f64::from(self.cpus.iter().sum::<u32>());
        let weights = || self.hogs.iter().map(|hog| hog.weight);
        self.hogs.iter().map(|hog| feasible(cpus, hog.weight, weights())).collect()
    }

    /// How far shares are from what they should be, together, against all there is.
    fn unfairness(&self) -> f64 {
        let pairs = self.shares().into_iter().zip(self.entitled());
        pairs.map(|(share, entitled)| (share - entitled).abs()).sum::<f64>()
            / self.entitled().iter().sum::<f64>()
    }
}

/// CPUs for a hog of this weight among these, none of which gets more than one.
fn feasible(cpus: f64, weight: u64, among: impl Iterator<Item = u64>) -> f64 {
    let mut weights: Vec<_> = among.collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let (mut left, mut sum) = (cpus, weights.iter().sum::<u64>() as f64);
    for heaviest in weights {
        if heaviest as f64 * left <= sum {
            break;
        }
        if heaviest <= weight {
            return 1.0;
        }
        left -= 1.0;
        sum -= heaviest as f64;
    }
    (weight as f64 * left / sum).min(1.0)
}

#[test]
fn on_a_simulated_machine_shares_come_to_follow_weights_and_then_nothing_moves() {
    let crowded = [vec![(0, 100); 2], vec![(0, 33); 4], vec![(1, 33); 2]].concat();
    let mut machine = Machine { cpus: vec![2, 2], hogs: hogs(&crowded), loads: Loads::default() };
    let before = machine.unfairness();
    let moved: Vec<_> = (0..20).map(|_| machine.period()).collect();
    println!("unfairness {before:.3} -> {:.3}, moves {moved:?}", machine.unfairness());
    assert!(before > 0.3 && machine.unfairness() < 0.02, "{before} -> {}", machine.unfairness());
    assert!(moved[0] > 0 && moved[1..].iter().all(|moved| *moved == 0), "{moved:?}");
}

fn any_machine() -> impl Strategy<Value = (Vec<u32>, Vec<Task>)> {
    prop::collection::vec(0..9_u32, 1..7).prop_flat_map(|cpus| {
        let task = (
            0..cpus.len(),
            prop_oneof![Just(100), 1..1_000_u64, 1..2_000_000_u64],
            prop_oneof![Just(1.0), 0.01..1.0_f64],
            prop_oneof![Just(ANYWHERE), any::<u64>()],
        );
        (Just(cpus), prop::collection::vec(task, 0..60)).prop_map(|(cpus, tasks)| {
            let task = |(n, (llc, weight, duty, allowed))| Task { pid: n as u64, llc, weight, duty, allowed };
            (cpus, tasks.into_iter().enumerate().map(task).collect())
        })
    })
}

proptest! {
    #[test]
    fn imbalance_never_grows((cpus, tasks) in any_machine()) {
        let moved = after(&cpus, &tasks);
        prop_assert!(imbalance(&cpus, &moved) <= imbalance(&cpus, &tasks) * (1.0 + 1e-6) + 1e-6);
    }

    #[test]
    fn nothing_moves_where_it_may_not((cpus, tasks) in any_machine()) {
        for one in moves(&cpus, &tasks) {
            let task = tasks.iter().find(|task| task.pid == one.pid).unwrap();
            prop_assert!(cpus[one.to] > 0 && task.allowed >> one.to & 1 == 1 && task.llc != one.to);
        }
    }

    #[test]
    fn who_has_been_moved_is_left_alone((cpus, tasks) in any_machine()) {
        let first = moves(&cpus, &tasks);
        prop_assume!(first.len() < MAX_MOVES);
        prop_assert_eq!(moves(&cpus, &after(&cpus, &tasks)), []);
    }

    #[test]
    fn a_balanced_machine_is_left_alone(
        llcs in 1..6_usize,
        cpus in 1..9_u32,
        each in prop::collection::vec((1..100_000_u64, 0.01..1.0_f64), 0..20),
    ) {
        let tasks: Vec<_> = (0..llcs)
            .flat_map(|llc| each.iter().map(move |(weight, duty)| (llc, *weight, *duty)))
            .enumerate()
            .map(|(n, (llc, weight, duty))| Task { pid: n as u64, llc, weight, duty, allowed: ANYWHERE })
            .collect();
        prop_assert_eq!(moves(&vec![cpus; llcs], &tasks), []);
    }

    #[test]
    fn however_heavy_one_is_the_others_are_spread_alike(weight in 100_000..2_000_000_u64, factor in 2..1000_u64) {
        let with = |weight| {
            let mut all = hogs(&[(0, 100); 12]);
            all[0].weight = weight;
            moves(&[2, 2, 2], &all)
        };
        prop_assert_eq!(with(weight), with(weight * factor));
    }
}
