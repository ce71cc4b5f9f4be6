// SPDX-License-Identifier: GPL-2.0-only
//! `balance`, the half in user space: measures the load of each task and wishes tasks to where there is less.
//! See balance.bpf.c for the whole, moves.rs for the decision.

mod moves;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use framework::slow_path::{Bpf, Settings, SlowPath};

use moves::{Task, moves};

/// A task whose part of the time has fallen below this has no load any more.
const IDLE: f64 = 0.01;
/// How much the last period counts against what was measured before: loads are averages over about four periods.
const NEWS: f64 = 0.25;
/// LLCs that fit into a word.
const LLCS: u64 = 64;

/// What was measured of the tasks lately, by pid.
#[derive(Default)]
struct Loads(HashMap<u64, Task>);

struct Balance {
    period: Duration,
    sampled: Option<Instant>,
    loads: Loads,
}

/// Makes the half.
pub fn new(settings: &Settings) -> Box<dyn SlowPath> {
    let period = Duration::from_millis(settings.param("period_ms"));
    Box::new(Balance { period, sampled: None, loads: Loads::default() })
}

impl SlowPath for Balance {
    fn period(&self) -> Duration {
        self.period
    }

    fn round(&mut self, bpf: &Bpf) -> Result<()> {
        let cpus = bpf.llcs().online()?;
        if cpus.len() < 2 {
            return Ok(());
        }
        let records = bpf.records("balance_sample")?;
        let Some(before) = self.sampled.replace(Instant::now()) else { return Ok(()) };
        self.loads.take(&records, before.elapsed());
        for wish in moves(&cpus, &self.loads.tasks()) {
            // A task that is gone meanwhile, or may not go there any more, is not moved.
            bpf.call("balance_wish", &mut [wish.pid, wish.to as u64])?;
        }
        Ok(())
    }
}

impl Loads {
    /// Takes the records of a sample: the tasks that were runnable since the one before.
    fn take(&mut self, records: &[[u64; 5]], since: Duration) {
        for task in self.0.values_mut() {
            task.duty *= 1.0 - NEWS;
        }
        for [pid, runnable_ns, weight, llc, allowed] in records {
            let now = (*runnable_ns as f64 / since.as_nanos().max(1) as f64).min(1.0);
            // Of a new one there is nothing before.
            let duty = self.0.get(pid).map_or(now, |task| task.duty + NEWS * now);
            let llc = (*llc % LLCS) as usize;
            self.0.insert(*pid, Task { pid: *pid, llc, weight: *weight, duty, allowed: *allowed });
        }
        self.0.retain(|_, task| task.duty > IDLE);
    }

    /// In the order of their pids, so that equal loads make equal decisions.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<_> = self.0.values().copied().collect();
        tasks.sort_unstable_by_key(|task| task.pid);
        tasks
    }
}
