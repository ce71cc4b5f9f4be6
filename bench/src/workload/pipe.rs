// SPDX-License-Identifier: GPL-2.0-only
//! Two threads pass a byte to and fro through pipes: the cost of a blocking context switch.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::pingpong::{self, Side};
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Ping-pong through pipes.
pub struct Pipe;

impl Workload for Pipe {
    fn spec(&self) -> WorkloadSpec {
        WorkloadSpec {
            name: "pipe".into(),
            family: "pipe".into(),
            description: "two threads pass a byte to and fro: time (deterministic: instructions) a switch"
                .into(),
            command: None,
            metrics: vec![value("per_switch", "ns", Better::Lower)],
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let (ping, pong) = pingpong::pair()?;
        let bodies = vec![
            Body::new("pipe-ping", move |phase| per_switch(ping, phase)),
            Body::new("pipe-pong", move |_| {
                pong.return_all();
                None
            }),
        ];
        let (per_switch, _) = run_threads(context, bodies)?;
        let per_switch = per_switch[0].context("no byte came back while it was measured")?;
        Ok(Measured { values: [("per_switch".to_owned(), per_switch)].into(), ..Measured::default() })
    }
}

/// Returns the time a switch, ns: there are two a round trip.
fn per_switch(ping: Side, phase: &PhaseCell) -> Option<f64> {
    let (mut begun, mut trips) = (None, 0u64);
    ping.serve(phase, || {
        if begun.is_some() {
            trips += 1;
        } else if phase.measuring() {
            begun = Some(Instant::now());
        }
    });
    // The last trip may have ended late: its end is now, not when the phase was over.
    (trips > 0).then(|| begun.map(|at| at.elapsed().as_nanos() as f64 / (2 * trips) as f64)).flatten()
}
