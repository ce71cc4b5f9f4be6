// SPDX-License-Identifier: GPL-2.0-only
//! Threads of a load: started together, measured, ended together.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::{Context, PhaseCell};

/// What a thread of a load does, until the phase is over; returns what it has counted.
pub struct Body<'a, T> {
    name: String,
    run: Box<dyn FnOnce(&PhaseCell) -> T + Send + 'a>,
}

impl<'a, T> Body<'a, T> {
    /// A thread called `name` (15 characters are seen).
    ///
    /// `run` looks at the phase at least every few milliseconds of its CPU time. What it blocks on is its own
    /// matter: another thread that ends must wake it.
    pub fn new(name: impl Into<String>, run: impl FnOnce(&PhaseCell) -> T + Send + 'a) -> Self {
        Body { name: name.into(), run: Box::new(run) }
    }
}

/// Starts the threads, measures, ends them. Returns what they counted, in order, and for how long it counted.
pub fn run_threads<'a, T: Send + 'a>(
    context: &mut Context<'_>,
    bodies: Vec<Body<'a, T>>,
) -> Result<(Vec<T>, Duration)> {
    run_beside(bodies, |phase| context.measure(phase))
}

/// Starts the threads, does `load`, ends them. Returns what they counted, in order, and the outcome of `load`.
pub fn run_beside<'a, T: Send + 'a, U>(
    bodies: Vec<Body<'a, T>>,
    load: impl FnOnce(&PhaseCell) -> Result<U>,
) -> Result<(Vec<T>, U)> {
    let phase = PhaseCell::default();
    thread::scope(|scope| {
        let phase = &phase;
        let mut threads = Vec::new();
        let mut started = Ok(());
        for Body { name, run } in bodies {
            match thread::Builder::new().name(name).spawn_scoped(scope, move || run(phase)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    started = Err(error).context("cannot start the threads of the load");
                    break;
                }
            }
        }
        let outcome = started.and_then(|()| load(phase));
        // Whatever failed, those that run must end or the scope would wait for ever.
        phase.set(super::Phase::Over);
        let counted = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread of the load panicked")))
            .collect::<Result<Vec<T>>>();
        Ok((counted?, outcome?))
    })
}
