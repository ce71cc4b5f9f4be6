// SPDX-License-Identifier: GPL-2.0-only
//! What was measured in a window.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::hist::Histogram;
use crate::intf;

/// Lines of a breakdown that are reported.
pub(super) const WORST: usize = 10;

const WAKEUP: usize = intf::lat_kind_LAT_WAKEUP as usize;
const REQUEUE: usize = intf::lat_kind_LAT_REQUEUE as usize;
const SLICE: usize = intf::lat_kind_LAT_SLICE as usize;

/// What was measured in a window, over all CPUs. A wait or slice counts in the window in which it ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// From a wakeup (or fork) until the task runs.
    pub wakeup: Histogram,
    /// Every time that a runnable task waited for a CPU: after a wakeup, a preemption, a yield.
    pub wait: Histogram,
    /// From running to leaving the CPU.
    pub slice: Histogram,
    /// Moves of a task to another CPU.
    pub migrations: u64,
    /// Context switches, those from and to the idle task included.
    pub switches: u64,
    /// Length of the window.
    pub duration_ns: u64,
    /// The breakdown, worst first; empty unless the meter was started with one. Only the worst are serialized.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_worst")]
    pub per: Vec<PerEntry>,
    /// Waits that are missing in the breakdown since it was full.
    #[serde(skip_serializing_if = "is_zero")]
    pub per_missed: u64,
}

/// What waits are broken down by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Name of the thread.
    Comm,
    /// Cgroup (version 2 hierarchy).
    Cgroup,
    /// Process.
    Tgid,
}

/// One line of the breakdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PerEntry {
    /// The comm, the cgroup's path below /sys/fs/cgroup, or the process id, for people to read.
    pub name: String,
    /// Cgroup id or process id, 0 for a breakdown by comm.
    pub id: u64,
    /// Name of a thread that waited longest: of those with the longest wait after a wakeup and after a preemption,
    /// the later one.
    pub comm: String,
    /// Wakeup latency.
    pub wakeup: Waits,
    /// Run-queue wait.
    pub wait: Waits,
}

/// A few exact figures on waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// How many.
    pub count: u64,
    /// How long altogether.
    pub sum_ns: u64,
    /// How long at most.
    pub max_ns: u64,
}

impl Waits {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The mean in ns, 0 if there were none.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }
}

impl From<&intf::lat_per_stat> for Waits {
    fn from(stat: &intf::lat_per_stat) -> Self {
        Self { count: stat.count, sum_ns: stat.sum, max_ns: stat.max }
    }
}

impl PerEntry {
    pub(super) fn new(per: Per, key: &intf::lat_per_key, entry: &intf::lat_per_entry) -> Self {
        let comm = comm_of(&entry.comm);
        let wakeup = Waits::from(&entry.stat[WAKEUP]);
        let mut wait = Waits::from(&entry.stat[REQUEUE]);
        wait.merge(&wakeup);
        let name = match per {
            Per::Comm => comm_of(&key.comm),
            // The meter finds the path of those that it reports.
            Per::Cgroup => format!("cgroup {}", key.id),
            Per::Tgid => key.id.to_string(),
        };
        Self { name, id: key.id, comm, wakeup, wait }
    }

    /// What entries of different windows have in common: the name of a cgroup may become unknown, its id stays.
    fn identity(&self) -> (u64, String) {
        (self.id, if self.id == 0 { self.name.clone() } else { String::new() })
    }
}

impl Sample {
    /// Adds one CPU's share.
    pub(super) fn add_kernel(&mut self, cpu: &intf::lat_window) {
        self.wakeup.add_kernel(&cpu.hist[WAKEUP]);
        self.wait.add_kernel(&cpu.hist[WAKEUP]);
        self.wait.add_kernel(&cpu.hist[REQUEUE]);
        self.slice.add_kernel(&cpu.hist[SLICE]);
        self.migrations += cpu.migrations;
        self.switches += cpu.switches;
    }

    /// Adds another window, as if the two had been one.
    pub fn merge(&mut self, other: &Self) {
        self.wakeup.merge(&other.wakeup);
        self.wait.merge(&other.wait);
        self.slice.merge(&other.slice);
        self.migrations += other.migrations;
        self.switches += other.switches;
        self.duration_ns += other.duration_ns;
        self.per_missed += other.per_missed;

        let mut theirs: HashMap<_, _> = other.per.iter().map(|e| (e.identity(), e)).collect();
        for entry in &mut self.per {
            if let Some(other) = theirs.remove(&entry.identity()) {
                entry.wakeup.merge(&other.wakeup);
                entry.wait.merge(&other.wait);
            }
        }
        self.per.extend(theirs.into_values().cloned());
        worst_first(&mut self.per);
    }

    /// Context switches per second.
    pub fn switches_per_second(&self) -> f64 {
        if self.duration_ns == 0 { 0.0 } else { self.switches as f64 * 1e9 / self.duration_ns as f64 }
    }
}

/// Sorts a breakdown by the longest wait.
pub(super) fn worst_first(entries: &mut [PerEntry]) {
    entries.sort_by(|a, b| {
        (b.wait.max_ns, b.wait.sum_ns, &a.name).cmp(&(a.wait.max_ns, a.wait.sum_ns, &b.name))
    });
}

fn comm_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn serialize_worst<S: Serializer>(entries: &[PerEntry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().take(WORST))
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn entry(name: &str, waits: &[u64]) -> PerEntry {
        let wait = Waits {
            count: waits.len() as u64,
            sum_ns: waits.iter().sum(),
            max_ns: waits.iter().copied().max().unwrap_or(0),
        };
        PerEntry { name: name.into(), id: 0, comm: name.into(), wakeup: wait, wait }
    }

    #[test]
    fn wait_is_wakeup_and_requeue() {
        // SAFETY: the struct consists of integers, for which all-zeroes is valid.
        let mut cpu: intf::lat_window = unsafe { std::mem::zeroed() };
        for (kind, ns) in [(WAKEUP, 10), (REQUEUE, 20), (SLICE, 30)] {
            cpu.hist[kind].buckets[ns as usize] = 2;
            cpu.hist[kind].sum = 2 * ns;
            cpu.hist[kind].max = ns;
        }
        cpu.switches = 7;
        let mut sample = Sample::default();
        sample.add_kernel(&cpu);
        sample.add_kernel(&cpu);
        assert_eq!(sample.wakeup, [10; 4].into_iter().collect());
        assert_eq!(sample.wait, [10, 10, 10, 10, 20, 20, 20, 20].into_iter().collect());
        assert_eq!(sample.slice, [30; 4].into_iter().collect());
        assert_eq!(sample.switches, 14);
    }

    #[test]
    fn merge_joins_entries_and_sorts_worst_first() {
        let mut a =
            Sample { per: vec![entry("x", &[9, 1]), entry("y", &[5])], duration_ns: 1, ..Sample::default() };
        let b =
            Sample { per: vec![entry("y", &[20]), entry("z", &[7])], duration_ns: 2, ..Sample::default() };
        a.merge(&b);
        assert_eq!(a.duration_ns, 3);
        assert_eq!(a.per, [entry("y", &[5, 20]), entry("x", &[9, 1]), entry("z", &[7])]);
    }
}
