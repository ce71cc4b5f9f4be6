// SPDX-License-Identifier: GPL-2.0-only
//! The CPUs that the calling thread may run on.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) fn get() -> Result<CpuSet> {
    sched_getaffinity(None).context("reading this thread's affinity")
}

pub(crate) fn set(cpus: &CpuSet) -> Result<()> {
    sched_setaffinity(None, cpus).context("setting this thread's affinity")
}

/// All of them, ascending.
pub fn allowed() -> Result<Vec<usize>> {
    let cpus = get()?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).collect())
}

/// Keeps it to one CPU, below `CpuSet::MAX_CPU` (1024).
///
/// # Panics
///
/// If the number is not below that.
pub fn keep_to(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    set(&one).with_context(|| format!("cannot keep a thread to CPU {cpu}"))
}
