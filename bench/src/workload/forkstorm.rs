// SPDX-License-Identifier: GPL-2.0-only
//! As many compilers would: jobs that start a short process, wait for it, and start the next.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use framework::latency::Histogram;

use super::results::{Results, merged};
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, find_program, percentiles, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Jobs a CPU.
const JOBS: u32 = 2;
/// What a process does: counts, for about half a millisecond with dash on a present-day CPU. A shell is on
/// every machine.
const SCRIPT: &str = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); done";

/// Jobs without end.
pub struct Forkstorm;

impl Workload for Forkstorm {
    fn spec(&self) -> WorkloadSpec {
        let mut metrics = vec![value("execs", "/s", Better::Higher)];
        metrics.extend(percentiles("exec", &[50.0, 99.0]));
        WorkloadSpec {
            name: "forkstorm".into(),
            family: "forkstorm".into(),
            description: format!(
                "{JOBS} jobs a CPU, each starts a short process (sh), waits for it and starts the next: \
                 processes a second, time from fork to exit"
            ),
            command: None,
            metrics,
        }
    }

    fn missing(&self) -> Option<String> {
        find_program("sh").is_none().then(|| "sh is not in PATH; install a shell".to_owned())
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let jobs = (0..JOBS * context.cpus).map(|_| Body::new("job", job)).collect();
        let (counted, took) = run_threads(context, jobs)?;
        let counted = counted.into_iter().collect::<Result<Vec<Histogram>>>()?;
        let exec = merged(&counted);
        let results = Results::default().rate("execs", exec.count() as f64, took)?;
        Ok(results.histogram("exec", &exec)?.measured())
    }
}

/// Returns the times from fork to exit, ns.
fn job(phase: &PhaseCell) -> Result<Histogram> {
    let mut times = Histogram::default();
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::null()).stdout(Stdio::null());
    while !phase.over() {
        let begun = Instant::now();
        let status = command.status().context("cannot start sh")?;
        let took = begun.elapsed();
        ensure!(status.success(), "sh failed ({status})");
        if phase.measuring() {
            times.record(took.as_nanos().try_into().unwrap_or(u64::MAX));
        }
    }
    Ok(times)
}
