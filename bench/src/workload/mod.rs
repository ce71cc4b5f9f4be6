// SPDX-License-Identifier: GPL-2.0-only
//! Workloads: loads with metrics. Each is a small module; [`all`] lists them.

mod antagonist;
mod arrivals;
mod bursty;
pub mod command;
mod cost;
mod cyclictest;
mod fairness;
mod forkstorm;
mod hackbench;
mod hog;
mod mixed;
mod perf;
mod pingpong;
mod pipe;
pub mod pipes;
mod results;
mod schbench;
mod server;
mod stress_ng;
pub mod sys;
mod threads;
#[cfg(test)]
mod trial;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use framework::latency::{LatencyMeter, Sample};

pub use hog::hog;

use crate::model::{Better, Measured, MetricSpec, Source, WorkloadSpec};
pub use crate::programs::find_program;

/// A load with metrics.
pub trait Workload: Sync {
    /// Name, family, description, metrics.
    fn spec(&self) -> WorkloadSpec;

    /// What this machine lacks to run it: one line with the cure.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Programs outside that it runs, for the versions in the report and to be taken into a virtual machine.
    fn programs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether each op of the contender is to be counted while it runs, which costs time at every call.
    fn counts_ops(&self) -> bool {
        false
    }

    /// Prepares the load, lets `context` [warm up and measure](Context::measure), ends the load.
    ///
    /// The contender is in charge from before this call until after it. All threads and processes that it
    /// starts have ended when it returns, whether or not it fails.
    fn run(&self, context: &mut Context) -> Result<Measured>;
}

/// All workloads, in the order of reports.
pub fn all() -> &'static [&'static dyn Workload] {
    use schbench::Schbench;
    &[
        &Schbench::Idle,
        &Schbench::Half,
        &Schbench::Overload,
        &Schbench::Hogs,
        &stress_ng::StressNg("switch"),
        &stress_ng::StressNg("context"),
        &stress_ng::StressNg("fork"),
        &stress_ng::StressNg("futex"),
        &stress_ng::StressNg("pipe"),
        &stress_ng::StressNg("cpu"),
        &hackbench::Hackbench,
        &cyclictest::Cyclictest::Idle,
        &cyclictest::Cyclictest::Hogs,
        &perf::Perf::Pipe,
        &perf::Perf::Messaging,
        &pipe::Pipe,
        &pipes::Pipes::Free,
        &pipes::Pipes::Pinned,
        &mixed::Mixed,
        &forkstorm::Forkstorm,
        &fairness::FairThreads,
        &fairness::FairGroups,
        &bursty::Bursty(50),
        &bursty::Bursty(70),
        &bursty::Bursty(80),
        &bursty::Bursty(90),
        &antagonist::Antagonist,
        &cost::Cost::Wakeup,
        &cost::Cost::Spawn,
        &cost::Cost::Ops,
    ]
}

/// Where a run stands. Threads of a load look at it to know what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The load runs, nothing counts.
    WarmUp,
    /// What is done now counts.
    Measuring,
    /// It is over: threads end.
    Over,
}

/// The phase, shared with the threads of a load.
#[derive(Debug, Default)]
pub struct PhaseCell(AtomicU8);

impl PhaseCell {
    /// The present phase.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measuring,
            _ => Phase::Over,
        }
    }

    /// Whether what is done now counts.
    pub fn measuring(&self) -> bool {
        self.get() == Phase::Measuring
    }

    /// Whether to end.
    pub fn over(&self) -> bool {
        self.get() == Phase::Over
    }

    /// Goes on to another.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }
}

/// What a run of a workload is given.
pub struct Context<'a> {
    /// Online CPUs.
    pub cpus: u32,
    /// How long to measure.
    pub seconds: Duration,
    /// How long the load runs before; a tenth of `seconds`.
    pub warm_up: Duration,
    /// Seed of everything random.
    pub seed: u64,
    /// Iterations of [`spin`] that take a microsecond when all CPUs are busy.
    pub spins_per_us: u64,
    /// An empty folder for files, removed after the run.
    pub scratch: PathBuf,
    /// `None` where the probes' own cost would count.
    meter: Option<&'a mut LatencyMeter>,
    kernel: Option<Sample>,
}

impl<'a> Context<'a> {
    /// A context for a run.
    pub fn new(
        machine: &crate::model::Machine,
        seconds: Duration,
        seed: u64,
        scratch: PathBuf,
        meter: Option<&'a mut LatencyMeter>,
    ) -> Self {
        Context {
            cpus: machine.cpus,
            seconds,
            warm_up: seconds / 10,
            seed,
            spins_per_us: machine.spins_per_us,
            scratch,
            meter,
            kernel: None,
        }
    }

    /// Warms up, measures, and says for how long it really was. `phase` tells the load, which must be running.
    pub fn measure(&mut self, phase: &PhaseCell) -> Result<Duration> {
        std::thread::sleep(self.warm_up);
        self.begin_window()?;
        phase.set(Phase::Measuring);
        let start = Instant::now();
        std::thread::sleep(self.seconds);
        phase.set(Phase::Over);
        let took = start.elapsed();
        self.end_window()?;
        Ok(took)
    }

    fn begin_window(&mut self) -> Result<()> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.rotate().map(drop))
    }

    fn end_window(&mut self) -> Result<()> {
        self.kernel = self.meter.as_mut().map(|meter| meter.rotate()).transpose()?;
        Ok(())
    }

    /// Measures while `load` runs, for programs that cannot be told when to begin. No warm-up.
    pub fn measure_while<T>(&mut self, load: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.begin_window()?;
        let outcome = load(self);
        self.end_window()?;
        outcome
    }

    /// [`seconds`](Self::seconds) for programs that take none but whole ones: rounded, at least one.
    pub fn whole_seconds(&self) -> Duration {
        Duration::from_secs((self.seconds.as_secs_f64().round() as u64).max(1))
    }

    /// What the kernel's probes have seen while it was measured.
    pub fn into_kernel_view(self) -> Option<Sample> {
        self.kernel
    }
}

/// Computes for `iterations`; see [`Context::spins_per_us`].
pub fn spin(iterations: u64) {
    for n in 0..iterations {
        std::hint::black_box(n);
    }
}

/// A metric with a value a run.
pub fn value(name: &str, unit: &str, better: Better) -> MetricSpec {
    MetricSpec { name: name.into(), unit: unit.into(), better, source: Source::Value }
}

/// Percentiles of a histogram of nanoseconds, in microseconds: `NAME_p50`, `NAME_p999`, `NAME_max`. Lower is better.
pub fn percentiles(histogram: &str, ps: &[f64]) -> Vec<MetricSpec> {
    ps.iter()
        .map(|p| MetricSpec {
            // p99.9 is p999, p100 is max.
            name: match p {
                100.0 => format!("{histogram}_max"),
                p => format!("{histogram}_p{}", p.to_string().replace('.', "")),
            },
            unit: "us".into(),
            better: Better::Lower,
            source: Source::Percentile { histogram: histogram.into(), p: *p, scale: 1e-3 },
        })
        .collect()
}
