// SPDX-License-Identifier: GPL-2.0-only
//! The load under which schedulers are replaced: CPU hogs, so that tasks wait for every CPU, and sleepers.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::model::Machine;
use crate::workload::{Phase, PhaseCell, hog};

/// CPU hogs a CPU: on every CPU one runs and one waits.
const HOGS: u32 = 2;
/// How long a sleeper sleeps.
const NAP: Duration = Duration::from_millis(3);

/// Does `work` under the load.
pub fn under<T>(machine: &Machine, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let phase = PhaseCell::default();
    let nap = || {
        while !phase.over() {
            thread::sleep(NAP);
        }
    };
    let hog = || {
        hog(&phase, machine.spins_per_us);
    };
    thread::scope(|scope| {
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        let mut started = Ok(());
        for _ in 0..machine.cpus {
            for _ in 0..HOGS {
                started = started.and_then(|()| spawn("swap-hog").spawn_scoped(scope, hog).map(drop));
            }
            started = started.and_then(|()| spawn("swap-sleep").spawn_scoped(scope, nap).map(drop));
        }
        let outcome = started.context("cannot start the threads of the load").and_then(|()| work());
        // Whatever failed, they must end or the scope would wait for ever.
        phase.set(Phase::Over);
        outcome
    })
}
