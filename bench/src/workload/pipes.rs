// SPDX-License-Identifier: GPL-2.0-only
//! Pairs on all CPUs pass bytes to and fro, all at once: what switching costs when every CPU does it.

use anyhow::{Context as _, Result};
use framework::affinity;

use super::pingpong;
use super::results::Results;
use super::sys::allow_open_files;
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Pairs on each CPU where they may not leave it: most wait for that CPU and no other.
const PINNED_PAIRS: u32 = 8;
/// Name of the workload in which they may not.
pub const PINNED: &str = "pinned";
/// Most CPUs for that in deterministic mode: the emulator runs one after the other until it waits for something, and
/// with more that are never idle, a sleep of a second takes a minute.
pub const PINNED_UP_TO: u32 = 32;
/// Descriptors that a pair keeps open.
const FILES_OF_A_PAIR: u64 = 4;
/// Descriptors for everything else.
const OTHER_FILES: u64 = 512;

/// Ping-pong on every CPU.
pub enum Pipes {
    /// As many pairs as there are CPUs, which go wherever they are put.
    Free,
    /// Several pairs a CPU, kept to it: a queue that all CPUs share is full of tasks that a given CPU cannot run.
    Pinned,
}

impl Workload for Pipes {
    fn spec(&self) -> WorkloadSpec {
        let (name, pairs) = match self {
            Pipes::Free => ("pipes", "a pair of threads a CPU passes".to_owned()),
            Pipes::Pinned => (PINNED, format!("{PINNED_PAIRS} pairs of threads a CPU, kept to it, pass")),
        };
        WorkloadSpec {
            name: name.into(),
            family: "pipes".into(),
            description: format!(
                "{pairs} a byte to and fro: switches of all pairs, and the time between two of them on the machine \
                 (deterministic: instructions a switch)"
            ),
            command: None,
            metrics: vec![
                value("per_switch", "ns", Better::Lower),
                value("pair_switches", "switches/s", Better::Higher),
            ],
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let places = self.places(context.cpus)?;
        allow_open_files(places.len() as u64 * FILES_OF_A_PAIR + OTHER_FILES)?;
        let mut bodies = Vec::new();
        for place in places {
            let (ping, pong) = pingpong::pair()?;
            let stay = move || place.map_or(Ok(()), affinity::keep_to);
            bodies.push(Body::new("pipes-ping", move |phase: &PhaseCell| {
                stay()?;
                let mut trips = 0;
                ping.serve(phase, || trips += u64::from(phase.measuring()));
                Ok(trips)
            }));
            bodies.push(Body::new("pipes-pong", move |_: &PhaseCell| {
                stay()?;
                pong.return_all();
                Ok(0)
            }));
        }
        let (trips, took) = run_threads(context, bodies)?;
        let trips: Vec<u64> = trips.into_iter().collect::<Result<_>>()?;
        let switches = 2.0 * trips.iter().sum::<u64>() as f64;
        let results = Results::default().rate("pair_switches", switches, took)?;
        Ok(results.value("per_switch", took.as_nanos() as f64 / switches)?.measured())
    }
}

impl Pipes {
    /// For each pair the CPU that it is kept to, if it is.
    fn places(&self, cpus: u32) -> Result<Vec<Option<usize>>> {
        match self {
            Pipes::Free => Ok(vec![None; cpus as usize]),
            Pipes::Pinned => {
                let allowed = affinity::allowed().context("cannot keep threads to CPUs")?;
                let each = |cpu| std::iter::repeat_n(Some(cpu), PINNED_PAIRS as usize);
                Ok(allowed.into_iter().flat_map(each).collect())
            }
        }
    }
}
