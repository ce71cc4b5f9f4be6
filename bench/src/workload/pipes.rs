// SPDX-License-Identifier: GPL-2.0-only
//! A pair a CPU passes a byte to and fro, all at once: what switching costs when every CPU does it.

use anyhow::Result;

use super::pingpong;
use super::results::Results;
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Ping-pong of as many pairs as there are CPUs.
pub struct Pipes;

impl Workload for Pipes {
    fn spec(&self) -> WorkloadSpec {
        WorkloadSpec {
            name: "pipes".into(),
            family: "pipes".into(),
            description:
                "a pair of threads a CPU passes a byte to and fro: switches of all pairs, and the time \
                          between two of them on the machine (deterministic: instructions a switch)"
                    .into(),
            command: None,
            metrics: vec![
                value("per_switch", "ns", Better::Lower),
                value("pair_switches", "switches/s", Better::Higher),
            ],
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let mut bodies = Vec::new();
        for _ in 0..context.cpus {
            let (ping, pong) = pingpong::pair()?;
            bodies.push(Body::new("pipes-ping", move |phase: &PhaseCell| {
                let mut trips = 0;
                ping.serve(phase, || trips += u64::from(phase.measuring()));
                trips
            }));
            bodies.push(Body::new("pipes-pong", move |_: &PhaseCell| {
                pong.return_all();
                0
            }));
        }
        let (trips, took) = run_threads(context, bodies)?;
        let switches = 2.0 * trips.iter().sum::<u64>() as f64;
        let results = Results::default().rate("pair_switches", switches, took)?;
        Ok(results.value("per_switch", took.as_nanos() as f64 / switches)?.measured())
    }
}
