// SPDX-License-Identifier: GPL-2.0-only
//! perf's own scheduler benchmarks, when perf is present.

use anyhow::{Context as _, Result};

use super::results::Results;
use super::{Context, Workload, command, value};
use crate::model::{Better, Measured, MetricSpec, WorkloadSpec};

/// One of `perf bench sched`.
pub enum Perf {
    /// Two processes play ping-pong through pipes.
    Pipe,
    /// Groups of senders and receivers, as hackbench.
    Messaging,
}

/// Round trips of a run of `pipe`.
const TRIPS: u32 = 2000;
/// Messages from each sender to each receiver in a run of `messaging`; it has 20 of either a group.
const LOOPS: u32 = 10;

impl Perf {
    fn args(&self, groups: &str) -> Vec<String> {
        let (trips, loops) = (TRIPS.to_string(), LOOPS.to_string());
        // --format is perf bench's own and comes before the collection.
        let mut args = command::args(&["bench", "--format", "simple", "sched"]);
        args.extend(match self {
            Perf::Pipe => command::args(&["pipe", "--loop", &trips]),
            Perf::Messaging => command::args(&["messaging", "--group", groups, "--nr_loops", &loops]),
        });
        args
    }

    fn metric(&self) -> MetricSpec {
        match self {
            Perf::Pipe => value("per_trip", "us", Better::Lower),
            Perf::Messaging => value("time", "s", Better::Lower),
        }
    }
}

impl Workload for Perf {
    fn spec(&self) -> WorkloadSpec {
        let (name, description) = match self {
            Perf::Pipe => ("pipe", "perf bench: time of a round trip through pipes, mean of the runs"),
            Perf::Messaging => {
                ("messaging", "perf bench: time for messages among groups of processes, mean of the runs")
            }
        };
        WorkloadSpec {
            name: format!("perf-sched-{name}"),
            family: "perf".into(),
            description: description.into(),
            command: Some(format!("perf {}", self.args("CPUS/4").join(" "))),
            metrics: vec![self.metric()],
        }
    }

    fn missing(&self) -> Option<String> {
        command::missing("perf", "linux-perf")
    }

    fn programs(&self) -> &'static [&'static str] {
        &["perf"]
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let args = self.args(&context.cpus.div_ceil(4).to_string());
        let seconds = context.measure_while(|context| {
            command::repeat(context, "perf", &args, |output| {
                seconds(&output.stdout)
                    .with_context(|| format!("perf bench printed no time: {}", output.stdout.trim()))
            })
        })?;
        let value = match self {
            Perf::Pipe => seconds * 1e6 / f64::from(TRIPS),
            Perf::Messaging => seconds,
        };
        Ok(Results::default().value(&self.metric().name, value)?.measured())
    }
}

/// What `--format simple` prints: nothing but seconds.
fn seconds(stdout: &str) -> Option<f64> {
    stdout.lines().rev().find_map(|line| line.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_seconds() {
        assert_eq!(seconds("0.088\n"), Some(0.088));
        assert_eq!(seconds("# Running 'sched/pipe' benchmark:\n"), None);
    }
}
