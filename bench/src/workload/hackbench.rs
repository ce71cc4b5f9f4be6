// SPDX-License-Identifier: GPL-2.0-only
//! hackbench: groups of senders and receivers, each sender writes to each receiver of its group.

use anyhow::{Context as _, Result};

use super::results::Results;
use super::{Context, Workload, command, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Senders, and receivers, of a group. With a group for every two CPUs there are ten tasks a CPU.
const FDS: &str = "10";
/// Messages from each sender to each receiver of its group: about a second on 4 emulated CPUs.
const LOOPS: &str = "300";

/// The program.
pub struct Hackbench;

fn args(groups: &str) -> Vec<String> {
    command::args(&["--groups", groups, "--fds", FDS, "--loops", LOOPS])
}

impl Workload for Hackbench {
    fn spec(&self) -> WorkloadSpec {
        WorkloadSpec {
            name: "hackbench".into(),
            family: "hackbench".into(),
            description: "time for a number of messages among groups of processes, mean of the runs".into(),
            command: Some(format!("hackbench {}", args("CPUS/2").join(" "))),
            metrics: vec![value("time", "s", Better::Lower)],
        }
    }

    fn missing(&self) -> Option<String> {
        command::missing("hackbench", "rt-tests")
    }

    fn programs(&self) -> &'static [&'static str] {
        &["hackbench"]
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let args = args(&context.cpus.div_ceil(2).to_string());
        let time = context.measure_while(|context| {
            command::repeat(context, "hackbench", &args, |output| {
                time(&output.stdout)
                    .with_context(|| format!("hackbench printed no time: {}", output.stdout.trim()))
            })
        })?;
        Ok(Results::default().value("time", time)?.measured())
    }
}

/// The time that it printed, s.
fn time(stdout: &str) -> Option<f64> {
    stdout.lines().find_map(|line| line.strip_prefix("Time:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time() {
        let printed = "Running in process mode with 1 groups using 40 file descriptors each (== 40 tasks)\n\
                       Each sender will pass 50 messages of 100 bytes\nTime: 0.139\n";
        assert_eq!(time(printed), Some(0.139));
        assert_eq!(time("SENDER: write (error: Broken pipe)\n"), None);
    }
}
