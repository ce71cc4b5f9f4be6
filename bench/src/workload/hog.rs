// SPDX-License-Identifier: GPL-2.0-only
//! Batch work: a thread that always wants a CPU.

use super::{PhaseCell, spin};

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
