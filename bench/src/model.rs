// SPDX-License-Identifier: GPL-2.0-only
//! What is measured, as it is kept in report.json. `docs/report-json.md` describes it for other programs;
//! [`SCHEMA`] counts its incompatible changes.

use std::collections::BTreeMap;

use framework::latency::Histogram;
use framework::report::SwapReport;
use serde::{Deserialize, Serialize};

/// Version of the format of report.json.
pub const SCHEMA: u32 = 1;

/// Which command made a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Contenders under workloads.
    Compare,
    /// Ways to replace a policy.
    Swap,
    /// Instructions an operation.
    Cost,
    /// Contenders under workloads, on more and more CPUs.
    Scale,
}

/// Everything that one run of scx_bench has measured, without what follows from it (see [`crate::analysis`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which command made it.
    pub kind: Kind,
    /// When it began, RFC 3339. The only field that differs between two equal deterministic runs.
    pub created: String,
    /// What is needed to repeat it.
    pub settings: Settings,
    /// Where it ran; `None` if nothing got so far.
    pub machine: Option<Machine>,
    /// The workloads and their metrics, in order.
    pub workloads: Vec<WorkloadSpec>,
    /// What was measured: a contender under a workload in a round each.
    pub cells: Vec<Cell>,
    /// Swaps, for [`Kind::Swap`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swaps: Vec<SwapCell>,
    /// What did not work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Whether it was interrupted before it was complete.
    pub interrupted: bool,
}

/// What is needed to repeat a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of scx_bench.
    pub version: String,
    /// Command line.
    pub command: Vec<String>,
    /// `host`, `vm` (throughput), `deterministic`.
    pub mode: Mode,
    /// Contenders in the order given, the baseline first.
    pub contenders: Vec<String>,
    /// Rounds (throughput) or seeds (deterministic).
    pub runs: u32,
    /// First seed of the generators; a round or seed counts on from there.
    pub seed: u64,
    /// Seconds that each workload is measured in a run; a family shares them among its members.
    pub seconds: f64,
}

/// How a report came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On this machine.
    Host,
    /// In a virtual machine, as fast as it goes.
    Vm,
    /// In virtual machines whose time is the instruction count.
    Deterministic,
}

/// The machine (or guest) that was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// What executes it: `KVM` or `TCG` (QEMU's emulation) if it is a virtual machine of `scripts/vm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel command line.
    pub cmdline: String,
    /// Iterations of the generators' loop that take a microsecond here when all CPUs are busy.
    pub spins_per_us: u64,
    /// Versions of the external workloads, by program.
    pub programs: BTreeMap<String, String>,
}

/// A workload and what it measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Name, such as `schbench-half`.
    pub name: String,
    /// Family that it belongs to, such as `schbench`; its own name if it is alone.
    pub family: String,
    /// One line.
    pub description: String,
    /// The command line of an external program, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What it measures itself. The [kernel's view](crate::kernel_view) comes on top, the same for all.
    pub metrics: Vec<MetricSpec>,
}

/// Which way a metric should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Latency, cost.
    Lower,
    /// Throughput.
    Higher,
    /// Neither is better; it explains others.
    Neither,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricSpec {
    /// Name, unique in its workload, such as `request_p99`.
    pub name: String,
    /// Unit of its values, such as `us` or `ops/s`.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// Where its values come from.
    pub source: Source,
}

/// Where a metric's values come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `Cell::values` has one a run.
    Value,
    /// A percentile of a histogram. Over several runs it is that of the merged histogram, never an average.
    Percentile {
        /// Key in `Cell::histograms`.
        histogram: String,
        /// 0 to 100; 100 is the maximum.
        p: f64,
        /// Unit of the histogram times this is the unit of the metric.
        scale: f64,
    },
}

/// What one contender did under one workload in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The contender, as in [`Settings::contenders`].
    pub contender: String,
    /// The workload, as in [`WorkloadSpec::name`].
    pub workload: String,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Round, from 0.
    pub round: u32,
    /// Seed of the generators.
    pub seed: u64,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// What a run of a workload gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Metrics with [`Source::Value`].
    pub values: BTreeMap<String, f64>,
    /// Distributions, in ns unless the metric's `scale` says otherwise.
    pub histograms: BTreeMap<String, Distribution>,
}

/// A histogram as it is kept: `[bucket, count]` for each bucket that is not empty, with the buckets of
/// [`framework::latency::bucket_range`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Non-empty buckets, ascending.
    pub buckets: Vec<(u32, u64)>,
    /// Sum of all samples.
    pub sum: u64,
    /// The longest, exact.
    pub max: u64,
}

impl From<&Histogram> for Distribution {
    fn from(hist: &Histogram) -> Self {
        Distribution { buckets: hist.non_empty().collect(), sum: hist.sum(), max: hist.max() }
    }
}

impl From<&Distribution> for Histogram {
    fn from(distribution: &Distribution) -> Self {
        Histogram::from_parts(distribution.buckets.iter().copied(), distribution.sum, distribution.max)
    }
}

/// Something that did not work, while the rest went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The contender.
    pub contender: String,
    /// The workload, if it was running or is what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Round, from 0.
    pub round: u32,
    /// One line: cause and, if there is one, cure. The contender's own last lines may follow.
    pub message: String,
}

/// One replacement of a policy by another, and what tasks felt of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwapCell {
    /// `slots`, `reload`, or the two commands of an exit and start.
    pub via: String,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Round, from 0.
    pub round: u32,
    /// Seed of the generators.
    pub seed: u64,
    /// The figures.
    pub report: SwapReport,
    /// Worst run-queue wait and context switches around the swap, in equal steps.
    pub timeline: Vec<TimelinePoint>,
}

/// A step of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// End of the step, ms after the flip (negative: before).
    pub at_ms: f64,
    /// Worst run-queue wait that ended in it, ns.
    pub worst_wait_ns: u64,
    /// Context switches a second.
    pub switches_per_second: f64,
    /// Whether a sched_ext scheduler was in charge at its end.
    pub enabled: bool,
}
