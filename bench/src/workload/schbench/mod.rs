// SPDX-License-Identifier: GPL-2.0-only
//! schbench, by Chris Mason: message threads wake workers, which serve a request each.
//!
//! If the program is in PATH, it runs ([`program`]). Otherwise our [own](own) load with its model does. The two
//! are not comparable with each other, and the metrics' sources tell which it was. What ours does differently:
//!
//! * A message thread looks through its workers in order for those that ask to be woken. schbench's workers
//!   put themselves on a list, the last one first.
//! * The work is five multiplications of 32 x 32 matrices (24 KiB), schbench's by default five of 104 x 104
//!   (256 KiB). Ours takes a fraction of a millisecond instead of many, so that an emulated machine gets through
//!   enough requests for a 99.9th percentile. The program is run with `-F 24`.
//! * Waits end after 200 ms without being woken, so that nothing can hang. Who was not woken waits on, and a
//!   wakeup's latency counts from its own wake time.
//! * Times are in ns from CLOCK_MONOTONIC, not in us from gettimeofday, and a latency of 0 counts.
//! * Requests a second are those that ended while it was measured over that time. schbench prints the mean over
//!   its nominal runtime, its warm-up included.
//! * There is no request queue (-R), automatic rate (-A), pipe mode (-p), pinning (-M, -W) or shared matrix
//!   (--split).

mod matrix;
mod own;
mod program;

use anyhow::Result;

use super::{Context, Workload, find_program, percentiles, value};
use crate::model::{Better, Measured, MetricSpec, WorkloadSpec};

/// How much of the machine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schbench {
    /// A worker for every eight CPUs, with long pauses: only the wakeup itself costs.
    Idle,
    /// A worker for every two CPUs that hardly pauses.
    Half,
    /// Four workers a CPU that hardly pause.
    Overload,
    /// A worker for every two CPUs, with pauses that keep it below its fair share, and batch work on all CPUs beside.
    Hogs,
}

/// Threads of a load and how the workers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Message threads.
    messengers: u32,
    /// Workers of each message thread.
    workers: u32,
    /// Think time of a request before the work, us.
    sleep_us: u32,
    /// Threads beside that always want a CPU.
    hogs: u32,
}

impl Schbench {
    fn name(self) -> &'static str {
        match self {
            Schbench::Idle => "idle",
            Schbench::Half => "half",
            Schbench::Overload => "overload",
            Schbench::Hogs => "hogs",
        }
    }

    fn shape(self, cpus: u32) -> Shape {
        let (workers, sleep_us, hogs) = match self {
            Schbench::Idle => (cpus.div_ceil(8), 1000, 0),
            Schbench::Half => (cpus.div_ceil(2), 100, 0),
            Schbench::Overload => (4 * cpus, 100, 0),
            Schbench::Hogs => (cpus.div_ceil(2), 5000, cpus),
        };
        // One message thread can wake a hundred workers or so.
        let messengers = workers.div_ceil(64);
        Shape { messengers, workers: workers.div_ceil(messengers), sleep_us, hogs }
    }
}

impl Workload for Schbench {
    fn spec(&self) -> WorkloadSpec {
        let mut metrics: Vec<MetricSpec> = percentiles("wakeup", &[50.0, 99.0, 99.9]);
        metrics.extend(percentiles("request", &[50.0, 99.0]));
        metrics.push(value("rps", "req/s", Better::Higher));
        let program = find_program(program::NAME).is_some();
        if program {
            metrics.iter_mut().for_each(program::as_value);
        }
        if *self == Schbench::Hogs {
            metrics.push(value("hog_throughput", "Mspins/s", Better::Higher));
        }
        let load = match self {
            Schbench::Idle => "few workers that mostly sleep",
            Schbench::Half => "workers for half of the CPUs",
            Schbench::Overload => "4 workers a CPU",
            Schbench::Hogs => "workers for half of the CPUs that pause for 5 ms, beside a CPU hog a CPU",
        };
        let by = if program { "schbench" } else { "schbench's model, own generator" };
        WorkloadSpec {
            name: format!("schbench-{}", self.name()),
            family: "schbench".into(),
            description: format!("{by}: message threads wake {load}"),
            command: program.then(|| program::command_line(*self)),
            metrics,
        }
    }

    fn programs(&self) -> &'static [&'static str] {
        // Not in every distribution: it is taken where it is, and nothing is missing without it.
        if find_program(program::NAME).is_some() { &[program::NAME] } else { &[] }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let shape = self.shape(context.cpus);
        match find_program(program::NAME) {
            Some(_) => program::run(context, shape),
            None => own::run(context, shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert_eq!(Schbench::Idle.shape(4), Shape { messengers: 1, workers: 1, sleep_us: 1000, hogs: 0 });
        assert_eq!(Schbench::Half.shape(4), Shape { messengers: 1, workers: 2, sleep_us: 100, hogs: 0 });
        assert_eq!(Schbench::Overload.shape(4), Shape { messengers: 1, workers: 16, sleep_us: 100, hogs: 0 });
        assert_eq!(
            Schbench::Overload.shape(64),
            Shape { messengers: 4, workers: 64, sleep_us: 100, hogs: 0 }
        );
        assert_eq!(Schbench::Hogs.shape(4), Shape { messengers: 1, workers: 2, sleep_us: 5000, hogs: 4 });
    }
}
