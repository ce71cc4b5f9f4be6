// SPDX-License-Identifier: GPL-2.0-only
//! The schbench program.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::matrix::FOOTPRINT_KIB;
use super::{Schbench, Shape};
use crate::model::{Measured, MetricSpec, Source};
use crate::workload::hog::beside_hogs;
use crate::workload::results::Results;
use crate::workload::{Context, command};

/// Its name in PATH.
pub const NAME: &str = "schbench";

/// Seconds that it runs before it forgets the latencies that it has measured. They are part of its runtime, and
/// of what it calculates the rate from.
const WARM_UP: u32 = 1;

/// Metrics and what they are called in its JSON.
const KEYS: [(&str, &str); 5] = [
    ("wakeup_p50", "wakeup_latency_pct50.0"),
    ("wakeup_p99", "wakeup_latency_pct99.0"),
    ("wakeup_p999", "wakeup_latency_pct99.9"),
    ("request_p50", "request_latency_pct50.0"),
    ("request_p99", "request_latency_pct99.0"),
];

/// It tells percentiles, which cannot be merged like histograms: a value a run each.
pub fn as_value(metric: &mut MetricSpec) {
    metric.source = Source::Value;
}

/// What the report shows; numbers that depend on the machine by name.
pub fn command_line(load: Schbench) -> String {
    let (workers, sleep_us) = match load {
        Schbench::Idle => ("CPUS/8", "1000"),
        Schbench::Half => ("CPUS/2", "100"),
        Schbench::Hogs => ("CPUS/2", "5000"),
        Schbench::Overload => ("4*CPUS", "100"),
    };
    format!("{NAME} {}", args(["1", workers, sleep_us, "SECONDS+1", "FILE"]).join(" "))
}

fn args([messengers, workers, sleep_us, seconds, file]: [&str; 5]) -> Vec<String> {
    let (footprint, warm_up) = (FOOTPRINT_KIB.to_string(), WARM_UP.to_string());
    command::args(&[
        "-m", messengers, "-t", workers, "-s", sleep_us, "-F", &footprint, "-w", &warm_up, "-r", seconds,
        "-j", file,
    ])
}

pub fn run(context: &mut Context<'_>, shape: Shape) -> Result<Measured> {
    let file = context.scratch.join("schbench.json");
    let seconds = context.whole_seconds() + Duration::from_secs(WARM_UP.into());
    let args = args([
        &shape.messengers.to_string(),
        &shape.workers.to_string(),
        &shape.sleep_us.to_string(),
        &seconds.as_secs().to_string(),
        &file.to_string_lossy(),
    ]);
    let run = |context: &mut Context<'_>| {
        context.measure_while(|context| command::run(context, seconds, NAME, &args))
    };
    let (output, hogs) = if shape.hogs > 0 {
        let (output, spins, took) = beside_hogs(context, run)?;
        (output, Some((spins, took)))
    } else {
        (run(context)?, None)
    };
    let json = fs::read_to_string(&file).context("schbench has written no results")?;
    let results = percentiles(Results::default(), &json)?;
    let rps = rps(&output.stderr).context("schbench printed no average rps: it served no request")?;
    let results = results.value("rps", rps)?;
    Ok(match hogs {
        Some((spins, took)) => results.rate("hog_throughput", spins, took)?,
        None => results,
    }
    .measured())
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "int")]
    numbers: BTreeMap<String, f64>,
}

fn percentiles(mut results: Results, json: &str) -> Result<Results> {
    let written: Written = serde_json::from_str(json).context("cannot make sense of schbench's results")?;
    for (metric, key) in KEYS {
        let us = written.numbers.get(key).with_context(|| format!("schbench's results have no {key}"))?;
        results = results.value(metric, *us)?;
    }
    Ok(results)
}

/// Its JSON has percentiles of the rates of whole intervals; a short run has no such interval.
fn rps(stderr: &str) -> Option<f64> {
    let rps = stderr.lines().find_map(|line| line.strip_prefix("average rps:"))?.trim().parse().ok()?;
    (rps > 0.0).then_some(rps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"normal": {"version": "6.18.15","hostname": "scx-vm","sched_ext": "disabled",
"cmdline": "schbench -m 1 -t 2 -r 1 -j FILE"},"int": {"time": 1767225600, "wakeup_latency_pct20.0": 4,
"wakeup_latency_pct50.0": 7, "wakeup_latency_pct90.0": 20, "wakeup_latency_pct99.0": 272,
"wakeup_latency_pct99.9": 1266, "wakeup_latency_min": 1,"wakeup_latency_max": 10481,
"request_latency_pct20.0": 301, "request_latency_pct50.0": 312, "request_latency_pct90.0": 400,
"request_latency_pct99.0": 1112, "request_latency_pct99.9": 2222, "request_latency_min": 280,
"request_latency_max": 3000, "rps_pct20.0": 3020, "rps_min": 3017,"rps_max": 3017, "runtime": 1}}"#;

    #[test]
    fn reads_percentiles() {
        let measured = percentiles(Results::default(), JSON).unwrap().measured();
        assert_eq!(measured.values["wakeup_p999"], 1266.0);
        assert_eq!(measured.values["request_p50"], 312.0);
        assert!(percentiles(Results::default(), "{}").is_err());
    }

    #[test]
    fn reads_the_rate() {
        assert_eq!(rps("RPS percentiles ...\n\t  min=3017, max=3017\naverage rps: 3024.60\n"), Some(3024.6));
        assert_eq!(rps("average rps: 0.00\n"), None);
    }
}
