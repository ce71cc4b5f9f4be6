// SPDX-License-Identifier: GPL-2.0-only
//! Which tasks should have another home: a function of what was measured, and of nothing else.

use std::collections::BTreeMap;

use framework::llc::MAX_LLCS;
use scx_utils::{LoadAggregator, LoadLedger};

/// A task that has been runnable lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Task {
    pub pid: u64,
    /// LLC that is its home.
    pub llc: usize,
    pub weight: u64,
    /// Part of the time that it is runnable, 0 to 1.
    pub duty: f64,
    /// LLCs that it may have for a home, a bit each.
    pub allowed: u64,
}

/// A task and the home that it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub pid: u64,
    pub to: usize,
}

/// Least gain for which a task is moved, in loads of an average CPU: a move costs it its cache.
const WORTHWHILE: f64 = 0.2;
/// An LLC has CPUs to spare, and gives none of its tasks away, up to this much more than their number.
const SLACK: f64 = 0.1;
/// Moves of one round; what is left is left for the next.
pub const MAX_MOVES: usize = 64;

/// Evens out the load of LLCs with so many CPUs each.
pub fn moves(cpus: &[u32], tasks: &[Task]) -> Vec<Move> {
    let mut tasks = tasks.to_vec();
    let Some(mut machine) = Machine::of(cpus, &tasks) else { return Vec::new() };
    let mut moves = Vec::new();
    while moves.len() < MAX_MOVES
        && let Some((task, to)) = machine.best_move(&tasks)
    {
        machine.carry_out(&mut tasks[task], to);
        moves.push(Move { pid: tasks[task].pid, to });
    }
    moves
}

/// How uneven the loads are: the sum over all LLCs of what they have too much or too little.
#[cfg(test)]
pub fn imbalance(cpus: &[u32], tasks: &[Task]) -> f64 {
    Machine::of(cpus, tasks).map_or(0.0, |machine| machine.llcs.iter().map(|llc| llc.excess.abs()).sum())
}

#[derive(Debug, Clone, Copy)]
struct Llc {
    cpus: f64,
    /// Sum of the duties of its tasks.
    duty: f64,
    /// Load beyond what its CPUs should have.
    excess: f64,
}

/// The machine as a round sees it.
#[derive(Debug)]
struct Machine {
    llcs: Vec<Llc>,
    /// Weights count up to this.
    cap: f64,
    /// Load of an average CPU.
    average: f64,
}

impl Machine {
    /// `None` if there is nothing to even out.
    fn of(cpus: &[u32], tasks: &[Task]) -> Option<Self> {
        let total: u32 = cpus.iter().sum();
        let duty: f64 = tasks.iter().map(|task| task.duty).sum();
        if cpus.iter().filter(|cpus| **cpus > 0).count() < 2 || duty <= 0.0 {
            return None;
        }
        // While there are CPUs for all, weights give nobody more: what counts is who needs a CPU.
        let (ledger, cap) = if duty < f64::from(total) {
            (ledger(cpus.len(), total, tasks, |_| 1)?, 1.0)
        } else {
            let ledger = ledger(cpus.len(), total, tasks, |task| task.weight)?;
            let raw: f64 = tasks.iter().map(|task| task.weight as f64 * task.duty).sum();
            // The ledger has a greatest weight even if it did not have to lower any.
            let lowered = ledger.global_load_sum() < raw * (1.0 - 1e-9);
            let cap = if lowered { ledger.effective_max_weight() } else { f64::INFINITY };
            (ledger, cap)
        };
        let average = ledger.global_load_sum() / f64::from(total);
        if !(average.is_finite() && average > 0.0) {
            return None;
        }
        let sums = ledger.dom_load_sums().iter().zip(ledger.dom_dcycle_sums());
        let llcs = cpus.iter().zip(sums).map(|(cpus, (load, duty))| {
            let cpus = f64::from(*cpus);
            Llc { cpus, duty: *duty, excess: load - average * cpus }
        });
        Some(Machine { llcs: llcs.collect(), cap, average })
    }

    fn load(&self, task: &Task) -> f64 {
        (task.weight as f64).min(self.cap) * task.duty
    }

    /// How much less uneven the loads are after a move; less than 0 if they are more so.
    fn gain(&self, task: &Task, to: usize) -> f64 {
        let load = self.load(task);
        let (from, to) = (self.llcs[task.llc].excess, self.llcs[to].excess);
        from.abs() + to.abs() - (from - load).abs() - (to + load).abs()
    }

    /// The move that gains most: of the LLCs with too much, from that with most which has a worthwhile one.
    fn best_move(&self, tasks: &[Task]) -> Option<(usize, usize)> {
        let mut sources: Vec<_> = (0..self.llcs.len()).filter(|llc| self.gives(*llc)).collect();
        sources.sort_by(|a, b| self.llcs[*b].excess.total_cmp(&self.llcs[*a].excess));
        sources.into_iter().find_map(|source| self.best_move_from(source, tasks))
    }

    /// Whether an LLC has too much. One that has a CPU for each of its tasks has not.
    fn gives(&self, llc: usize) -> bool {
        let Llc { cpus, duty, excess } = self.llcs[llc];
        excess > 0.0 && duty > cpus + SLACK
    }

    fn best_move_from(&self, source: usize, tasks: &[Task]) -> Option<(usize, usize)> {
        let mut best = None;
        let mut most = WORTHWHILE * self.average;
        for (index, task) in tasks.iter().enumerate().filter(|(_, task)| task.llc == source) {
            for to in (0..self.llcs.len()).filter(|to| self.takes(*to) && task.allowed >> to & 1 == 1) {
                let gain = self.gain(task, to);
                if gain > most {
                    (best, most) = (Some((index, to)), gain);
                }
            }
        }
        best
    }

    fn takes(&self, llc: usize) -> bool {
        self.llcs[llc].excess < 0.0 && self.llcs[llc].cpus > 0.0
    }

    fn carry_out(&mut self, task: &mut Task, to: usize) {
        let load = self.load(task);
        for (llc, sign) in [(task.llc, -1.0), (to, 1.0)] {
            self.llcs[llc].excess += sign * load;
            self.llcs[llc].duty += sign * task.duty;
        }
        task.llc = to;
    }
}

/// The loads of LLCs, of which weights that nobody can make use of are no part: a single task gets a CPU at most.
fn ledger(llcs: usize, cpus: u32, tasks: &[Task], weight: impl Fn(&Task) -> u64) -> Option<LoadLedger> {
    let mut duties: BTreeMap<(usize, u64), f64> = BTreeMap::new();
    for task in tasks {
        *duties.entry((task.llc, weight(task).max(1))).or_default() += task.duty;
    }
    let mut loads = LoadAggregator::new(cpus as usize, false);
    (0..llcs.min(MAX_LLCS)).for_each(|llc| loads.init_domain(llc));
    for ((llc, weight), duty) in duties {
        loads.record_dom_load(llc, usize::try_from(weight).ok()?, duty).ok()?;
    }
    let ledger = loads.calculate();
    // A task in an LLC that there is not would have made one more.
    (ledger.dom_load_sums().len() == llcs).then_some(ledger)
}
