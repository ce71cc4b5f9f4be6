// SPDX-License-Identifier: GPL-2.0-only
//! Where a contender stops scaling with the number of CPUs.

use super::Comparison;
use crate::model::Better;

/// The metric that should not grow with the number of CPUs.
const METRIC: &str = "per_switch";

/// CPUs from which growth counts; the fewest measured if these were not.
const FROM_CPUS: u32 = 4;

/// Growth that is too much.
const LIMIT: f64 = 1.5;

/// A contender whose cost a switch grows.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingLimit {
    /// The contender.
    pub contender: String,
    /// The workload.
    pub workload: String,
    /// CPUs that growth is counted from.
    pub from_cpus: u32,
    /// Fewest CPUs at which it is too much.
    pub cpus: u32,
    /// Cost there over cost at `from_cpus`.
    pub factor: f64,
}

/// The contenders whose cost a switch, at some number of CPUs, exceeds 1.5 times that at 4 CPUs.
pub fn scaling_limits(comparisons: &[Comparison]) -> Vec<ScalingLimit> {
    let of_interest = |c: &&Comparison| c.metric == METRIC && c.better == Better::Lower;
    let costs: Vec<&Comparison> = comparisons.iter().filter(of_interest).collect();
    let curves = super::unique(costs.iter().map(|c| (c.workload.as_str(), c.contender.as_str())));
    curves
        .into_iter()
        .filter_map(|(workload, contender)| {
            let mut curve: Vec<(u32, f64)> = costs
                .iter()
                .filter(|c| c.workload == workload && c.contender == contender)
                .filter_map(|c| Some((c.cpus, c.estimate?)))
                .collect();
            curve.sort_by_key(|(cpus, _)| *cpus);
            let (from_cpus, from) = *curve.iter().find(|(cpus, _)| *cpus == FROM_CPUS).or(curve.first())?;
            let too_much = |(cpus, cost): &&(u32, f64)| *cpus > from_cpus && *cost > LIMIT * from;
            let (cpus, cost) = curve.iter().find(too_much)?;
            Some(ScalingLimit {
                contender: contender.into(),
                workload: workload.into(),
                from_cpus,
                cpus: *cpus,
                factor: cost / from,
            })
        })
        .collect()
}
