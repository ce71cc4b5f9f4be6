// SPDX-License-Identifier: GPL-2.0-only
//! Batch work: a thread that always wants a CPU.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::threads::{Body, run_beside};
use super::{Context, Phase, PhaseCell, spin};

/// What it does between two looks at the phase, us of work.
const CHUNK_US: u64 = 100;

/// Spins until the phase is over; returns the millions of iterations that ended while it was measured.
pub fn hog(phase: &PhaseCell, spins_per_us: u64) -> f64 {
    let chunk = CHUNK_US * spins_per_us;
    let mut done = 0;
    while !phase.over() {
        spin(chunk);
        if phase.measuring() {
            done += chunk;
        }
    }
    done as f64 / 1e6
}

/// Has a program run beside a hog a CPU. Returns its outcome, what the hogs did meanwhile, in millions of iterations,
/// and for how long.
pub fn beside_hogs<T>(
    context: &mut Context<'_>,
    program: impl FnOnce(&mut Context<'_>) -> Result<T>,
) -> Result<(T, f64, Duration)> {
    let spins_per_us = context.spins_per_us;
    let hogs = (0..context.cpus).map(|_| Body::new("hog", move |phase| hog(phase, spins_per_us))).collect();
    let (spins, (outcome, took)) = run_beside(hogs, |phase| {
        phase.set(Phase::Measuring);
        let begun = Instant::now();
        Ok((program(context)?, begun.elapsed()))
    })?;
    Ok((outcome, spins.iter().sum(), took))
}
