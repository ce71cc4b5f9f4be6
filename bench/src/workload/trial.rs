// SPDX-License-Identifier: GPL-2.0-only
//! Each workload once, under whatever scheduler is in charge.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use framework::latency::{Histogram, LatencyMeter};

use super::{Context, Workload, all};
use crate::machine::calibrate;
use crate::model::{Machine, Source};

/// Settings of the trial come from the environment, since they have to get into a virtual machine.
fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one and prints what it measured; returns what is wrong with it.
fn trial(workload: &dyn Workload, machine: &Machine, seconds: Duration) -> Result<(), String> {
    let spec = workload.spec();
    if let Some(missing) = workload.missing() {
        println!("{}: left out: {missing}", spec.name);
        return Ok(());
    }
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut meter = LatencyMeter::start(None).map_err(|error| format!("{error:#}"))?;
    let mut context = Context::new(machine, seconds, 1, scratch.path().to_owned(), Some(&mut meter));
    let begun = Instant::now();
    let measured = workload.run(&mut context).map_err(|error| format!("{error:#}"))?;
    println!("{} ({:.3} s)", spec.name, begun.elapsed().as_secs_f64());
    context.into_kernel_view().ok_or("the kernel's view is missing")?;
    for metric in &spec.metrics {
        let value = match &metric.source {
            Source::Value => measured.values.get(&metric.name).copied(),
            Source::Percentile { histogram, p, scale } => measured
                .histograms
                .get(histogram)
                .and_then(|kept| Histogram::from(kept).percentile(*p).map(|sample| sample as f64 * scale)),
        };
        let value = value.ok_or_else(|| format!("{} has no value", metric.name))?;
        println!("    {:20} {value} {}", metric.name, metric.unit);
    }
    for (name, kept) in &measured.histograms {
        let count: u64 = kept.buckets.iter().map(|(_, n)| n).sum();
        println!("    {name}: {count} samples, sum {}, longest {}", kept.sum, kept.max);
    }
    Ok(())
}

/// `SCX_SECONDS` each, `SCX_SPINS` a microsecond, `SCX_ONLY` those with that in their names.
#[test]
#[ignore = "needs root"]
fn each_workload() {
    let cpus = thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let machine = Machine {
        kernel: String::new(),
        cpu: String::new(),
        accelerator: None,
        cpus,
        memory_mib: 0,
        cmdline: String::new(),
        spins_per_us: setting("SCX_SPINS").unwrap_or_else(|| calibrate(cpus)),
        programs: BTreeMap::new(),
    };
    let seconds = Duration::from_secs_f64(setting("SCX_SECONDS").unwrap_or(1.0));
    let only: String = setting("SCX_ONLY").unwrap_or_default();
    println!("{cpus} CPUs, {} spins/us", machine.spins_per_us);
    let mut wrong = Vec::new();
    for workload in all().iter().filter(|workload| workload.spec().name.contains(&only)) {
        if let Err(error) = trial(*workload, &machine, seconds) {
            println!("{}: {error}", workload.spec().name);
            wrong.push(workload.spec().name);
        }
    }
    assert!(wrong.is_empty(), "failed: {wrong:?}");
}

#[test]
fn names_are_unique_and_families_together() {
    let specs: Vec<_> = all().iter().map(|workload| workload.spec()).collect();
    for (n, spec) in specs.iter().enumerate() {
        assert!(specs[..n].iter().all(|other| other.name != spec.name), "{} twice", spec.name);
        assert!(
            n == 0
                || specs[n - 1].family == spec.family
                || specs[..n].iter().all(|other| other.family != spec.family),
            "{} is apart from its family",
            spec.name
        );
        let metrics: Vec<_> = spec.metrics.iter().map(|metric| &metric.name).collect();
        assert!((1..metrics.len()).all(|n| !metrics[..n].contains(&metrics[n])), "{metrics:?}");
    }
}
