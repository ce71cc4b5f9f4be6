// SPDX-License-Identifier: GPL-2.0-only
//! Threads of different nice values.

use anyhow::Result;

use super::shares::weight_of_nice;
use crate::model::{Measured, WorkloadSpec};
use crate::workload::sys::{set_nice, thread_cpu_time};
use crate::workload::threads::{Body, run_threads};
use crate::workload::{Context, PhaseCell, Workload, spin};

/// Nice values of the threads, a set for each CPU. They are not pinned: sharing out is the contender's matter.
const NICES: [i32; 4] = [0, 0, 5, 10];
/// Work between two looks at the phase, us.
const CHUNK_US: u64 = 100;

/// Threads of different nice values that always want a CPU.
pub struct FairThreads;

impl Workload for FairThreads {
    fn spec(&self) -> WorkloadSpec {
        WorkloadSpec {
            name: "fairness".into(),
            family: "fairness".into(),
            description: format!(
                "always-running threads of nice {NICES:?} for each CPU: CPU time against the kernel's weights \
                 (Jain's index, largest relative error)"
            ),
            command: None,
            metrics: super::metrics(),
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let chunk = CHUNK_US * context.spins_per_us;
        let nices: Vec<i32> = (0..context.cpus).flat_map(|_| NICES).collect();
        let bodies = nices
            .iter()
            .map(|&nice| Body::new(format!("nice-{nice}"), move |phase| share(phase, nice, chunk)))
            .collect();
        let (times, took) = run_threads(context, bodies)?;
        let times = times.into_iter().collect::<Result<Vec<f64>>>()?;
        let weights: Vec<f64> = nices.iter().map(|&nice| weight_of_nice(nice)).collect();
        Ok(super::results(&times, &weights, took.as_nanos() as f64)?.measured())
    }
}

/// Returns the CPU time that the thread got while it was measured, ns.
///
/// It may see late that a phase has ended, for want of a CPU; that does not matter, since without a CPU its
/// CPU time stands still.
fn share(phase: &PhaseCell, nice: i32, chunk: u64) -> Result<f64> {
    set_nice(nice)?;
    let mut begun = None;
    while !phase.over() {
        if begun.is_none() && phase.measuring() {
            begun = Some(thread_cpu_time());
        }
        spin(chunk);
    }
    Ok(begun.map_or(0.0, |begun| (thread_cpu_time() - begun) as f64))
}
