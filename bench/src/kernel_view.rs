// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's view of a run: what `bpf/latency.bpf.c` has seen of all tasks, the same for every contender.

use framework::latency::Sample;

use crate::model::{Better, Distribution, Measured, MetricSpec};
use crate::workload::{percentiles, value};

/// The metrics that every workload has besides its own.
pub fn metrics() -> Vec<MetricSpec> {
    let mut metrics = percentiles("kernel_wakeup", &[50.0, 99.0, 99.9]);
    metrics.extend(percentiles("kernel_wait", &[99.0, 100.0]));
    metrics.push(value("switches", "/s", Better::Neither));
    metrics.push(value("migrations", "/s", Better::Neither));
    metrics
}

/// Whether a metric is one of these.
pub fn is_one(metric: &str) -> bool {
    metrics().iter().any(|spec| spec.name == metric)
}

/// Adds them to what a workload has measured itself.
pub fn add(measured: &mut Measured, sample: &Sample) {
    let per_second = |n: u64| n as f64 * 1e9 / sample.duration_ns.max(1) as f64;
    measured.values.insert("switches".into(), per_second(sample.switches));
    measured.values.insert("migrations".into(), per_second(sample.migrations));
    for (name, hist) in
        [("kernel_wakeup", &sample.wakeup), ("kernel_wait", &sample.wait), ("kernel_slice", &sample.slice)]
    {
        measured.histograms.insert(name.into(), Distribution::from(hist));
    }
}
