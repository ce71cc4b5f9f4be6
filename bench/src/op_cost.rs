// SPDX-License-Identifier: GPL-2.0-only
//! What each op of the attached scheduler costs, by the kernel's own accounting of BPF programs
//! (`kernel.bpf_stats_enabled`).
//!
//! Its clock is read before and after each call, which adds some tens of instructions to every figure. A program
//! that the root tail-calls into counts for the root's.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use libbpf_rs::query::ProgInfoIter;

use crate::model::{Better, MetricSpec};
use crate::workload::value;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Ops that are called often enough to cost anything.
const OPS: &[&str] = &[
    "select_cpu",
    "enqueue",
    "dequeue",
    "dispatch",
    "runnable",
    "running",
    "stopping",
    "quiescent",
    "tick",
    "yield",
    "init_task",
    "exit_task",
    "enable",
    "disable",
    "set_weight",
    "set_cpumask",
    "update_idle",
];

/// Length of a program's name in the kernel, without the NUL.
const NAME_LEN: usize = 15;

/// The metrics that come of it. An op that the scheduler lacks has none.
pub fn metrics() -> Vec<MetricSpec> {
    OPS.iter().map(|op| value(&format!("op_{op}"), "ns", Better::Lower)).collect()
}

/// Calls and their time so far, ns, by op.
type Totals = BTreeMap<&'static str, (u64, u64)>;

/// Counts while it lives.
pub struct Counting {
    before: Totals,
    switch: Switch,
}

struct Switch;

impl Drop for Switch {
    fn drop(&mut self) {
        // It was possible to switch it on, so this works too.
        let _ = fs::write(SWITCH, "0");
    }
}

impl Counting {
    /// Begins to count. Costs time at each call, so what else is measured meanwhile is not comparable.
    pub fn start() -> Result<Self> {
        fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Counting { switch: Switch, before: totals() })
    }

    /// Time a call, ns, of each op that was called.
    pub fn finish(self) -> Result<Vec<(String, f64)>> {
        let after = totals();
        drop(self.switch);
        let mean = |(op, (calls, time)): (&&'static str, &(u64, u64))| {
            let (calls_before, time_before) = self.before.get(op).copied().unwrap_or_default();
            let calls = calls.saturating_sub(calls_before);
            (calls > 0).then(|| (format!("op_{op}"), time.saturating_sub(time_before) as f64 / calls as f64))
        };
        Ok(after.iter().filter_map(mean).collect())
    }
}

fn totals() -> Totals {
    let mut totals = Totals::new();
    for program in ProgInfoIter::default() {
        if program.ty != libbpf_rs::ProgramType::StructOps {
            continue;
        }
        if let Some(op) = op_of(&program.name.to_string_lossy()) {
            let total = totals.entry(op).or_default();
            total.0 += program.run_cnt;
            total.1 += program.run_time_ns;
        }
    }
    totals
}

/// The op that a program implements, by its name, such as `fifo_enqueue`; the kernel cuts names off.
fn op_of(name: &str) -> Option<&'static str> {
    let tails: Vec<_> = name.match_indices('_').map(|(at, _)| &name[at + 1..]).collect();
    let whole = OPS.iter().copied().find(|op| tails.contains(op));
    whole.or_else(|| {
        let cut_off = tails.iter().filter(|tail| name.len() == NAME_LEN && !tail.is_empty());
        // Only what can be one op alone: "run" may be runnable and running.
        cut_off.into_iter().find_map(|tail| {
            let mut fitting = OPS.iter().copied().filter(|op| op.starts_with(tail));
            fitting.next().filter(|_| fitting.next().is_none())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_are_known_by_name() {
        assert_eq!(op_of("root_select_cpu"), Some("select_cpu"));
        assert_eq!(op_of("vtime_select_cp"), Some("select_cpu"));
        assert_eq!(op_of("fifo_percpu_enq"), Some("enqueue"));
        assert_eq!(op_of("fifo_percpu_run"), None, "runnable or running");
        assert_eq!(op_of("bpfland_running"), Some("running"));
        assert_eq!(op_of("root_drain"), None);
        assert_eq!(op_of("main"), None);
    }
}
