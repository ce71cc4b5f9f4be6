// SPDX-License-Identifier: GPL-2.0-only
//! cyclictest with threads of the ordinary class, one a CPU: how late a timer's thread runs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use framework::latency::Histogram;
use serde::Deserialize;

use super::hog::beside_hogs;
use super::results::Results;
use super::{Context, Workload, command, percentiles, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Time between a thread's wakeups, us.
const INTERVAL_US: &str = "1000";
/// Latencies are told apart up to here, us; see [`histogram`] for longer ones.
const HISTOGRAM_US: &str = "20000";

/// The program, and what runs beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cyclictest {
    /// Nothing.
    Idle,
    /// Batch work on all CPUs.
    Hogs,
}

fn args(threads: &str, seconds: &str, results: &str) -> Vec<String> {
    let json = format!("--json={results}");
    let threads = format!("--threads={threads}");
    command::args(&[
        "--policy=other",
        // Settings of its own would be a different machine from that of other workloads.
        "--default-system",
        "--quiet",
        "--interval",
        INTERVAL_US,
        "--histogram",
        HISTOGRAM_US,
        &threads,
        "--duration",
        seconds,
        &json,
    ])
}

impl Workload for Cyclictest {
    fn spec(&self) -> WorkloadSpec {
        let mut metrics = percentiles("wakeup", &[50.0, 99.0, 99.9, 100.0]);
        let (name, beside) = match self {
            Cyclictest::Idle => ("cyclictest", ""),
            Cyclictest::Hogs => {
                metrics.push(value("hog_throughput", "Mspins/s", Better::Higher));
                ("cyclictest-hogs", ", beside a CPU hog a CPU")
            }
        };
        WorkloadSpec {
            name: name.into(),
            family: "cyclictest".into(),
            description: format!(
                "cyclictest, a SCHED_OTHER thread a CPU that a timer wakes every ms (at least 1 s){beside}"
            ),
            command: Some(format!("cyclictest {}", args("CPUS", "SECONDS", "FILE").join(" "))),
            metrics,
        }
    }

    fn missing(&self) -> Option<String> {
        command::missing("cyclictest", "rt-tests")
    }

    fn programs(&self) -> &'static [&'static str] {
        &["cyclictest"]
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let file = context.scratch.join("cyclictest.json");
        let seconds = context.whole_seconds();
        let args = args(&context.cpus.to_string(), &seconds.as_secs().to_string(), &file.to_string_lossy());
        let run = |context: &mut Context<'_>| {
            context.measure_while(|context| command::run(context, seconds, "cyclictest", &args))
        };
        let results = Results::default();
        let results = match self {
            Cyclictest::Idle => run(context).map(|_| results)?,
            Cyclictest::Hogs => {
                let (_, spins, took) = beside_hogs(context, run)?;
                results.rate("hog_throughput", spins, took)?
            }
        };
        let text = fs::read_to_string(&file).context("cyclictest has written no results")?;
        let histogram = histogram(&text).context("cannot make sense of cyclictest's results")?;
        Ok(results.histogram("wakeup", &histogram)?.measured())
    }
}

#[derive(Deserialize)]
struct Written {
    thread: BTreeMap<u32, Thread>,
}

/// Latencies in us.
#[derive(Deserialize)]
struct Thread {
    /// How often each occurred.
    histogram: BTreeMap<u64, u64>,
    /// All wakeups, those beyond the histogram too.
    cycles: u64,
    max: u64,
}

/// All threads' latencies, in ns.
///
/// Of those beyond its own histogram cyclictest tells only the number and the longest, so each counts as the
/// longest of its thread: too long rather than too short.
fn histogram(json: &str) -> Result<Histogram> {
    let written: Written = serde_json::from_str(json)?;
    let mut all = Histogram::default();
    for thread in written.thread.values() {
        let told: u64 = thread.histogram.values().sum();
        let beyond = (thread.max, thread.cycles.saturating_sub(told));
        for (us, n) in thread.histogram.iter().map(|(us, n)| (*us, *n)).chain([beyond]) {
            (0..n).for_each(|_| all.record(us * 1000));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    // As written by cyclictest 2.40, shortened.
    const RESULTS: &str = r#"{
  "file_version": 1,
  "cmdline:": "cyclictest --policy other -t 2 -D 1 -q -h 2000",
  "return_code": 0,
  "sysinfo": { "sysname": "Linux", "realtime": 0 },
  "num_threads": 2,
  "resolution_in_ns": 0,
  "thread": {
    "0": {
      "histogram": { "66": 1, "67": 2 },
      "cycles": 5, "min": 66, "max": 90414, "avg": 297.24, "cpu": 0, "node": 0
    },
    "1": {
      "histogram": { "64": 4 },
      "cycles": 4, "min": 64, "max": 64, "avg": 64.00, "cpu": 1, "node": 0
    }
  }
}"#;

    #[test]
    fn reads_all_threads_and_what_is_beyond() {
        let expected: Histogram =
            [66, 67, 67, 90_414, 90_414, 64, 64, 64, 64].into_iter().map(|us| us * 1000).collect();
        assert_eq!(histogram(RESULTS).unwrap(), expected);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(histogram("").is_err());
        assert!(histogram("{}").is_err());
    }
}
