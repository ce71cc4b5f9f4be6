// SPDX-License-Identifier: GPL-2.0-only
//! What follows from a report: which contender is better at what, and whether that is more than chance.

pub mod against;
mod runs;
mod scaling;

use serde::{Deserialize, Serialize};

pub use runs::{Runs, value_of};
pub use scaling::scaling_limits;

use crate::kernel_view;
use crate::model::{Better, Cell, MetricSpec, Mode, Report, WorkloadSpec};
use crate::stats::{self, Interval};

/// A difference is called below this p, corrected for the number of comparisons in the report.
///
/// A report has a few hundred comparisons of a few runs each. At the customary 5 % each, comparing a contender with
/// itself would call a dozen differences; Holm's correction, once over the workloads' own metrics and once over the
/// kernel's view, bounds the chance of a single one.
pub const ALPHA: f64 = 0.01;

/// A smaller difference than this share is not called, however certain: placement in memory makes as much.
pub const MIN_EFFECT: f64 = 0.01;

/// What report.json holds: what was measured, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What was measured.
    #[serde(flatten)]
    pub report: Report,
    /// What follows from it.
    pub comparisons: Vec<Comparison>,
}

impl Document {
    /// Analyses a report. Values that are no number, which JSON does not have, are left out.
    pub fn new(mut report: Report) -> Self {
        for cell in &mut report.cells {
            cell.measured.values.retain(|_, value| value.is_finite());
        }
        Document { comparisons: analyse(&report), report }
    }
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// This is what the others are compared with.
    Baseline,
    /// Better than the baseline.
    Better,
    /// Worse than the baseline.
    Worse,
    /// Different from the baseline, in a metric of which neither is better.
    Changed,
    /// No difference shown.
    Same,
    /// Too few runs, or no ratio.
    Unknown,
}

/// What to mind in the runs of a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// The runs' values vary: their MAD exceeds 5 % of their median.
    Noisy,
    /// A run is far from the others: its modified z-score exceeds 3.5, and it is more than 5 % off the median.
    Outliers,
}

/// One contender, one metric, against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// CPUs of the machine.
    pub cpus: u32,
    /// The workload.
    pub workload: String,
    /// The metric: the workload's own or of the kernel's view.
    pub metric: String,
    /// Unit of `values`, `estimate` and `mad`.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// The contender.
    pub contender: String,
    /// Runs.
    pub n: usize,
    /// One value a run, in the order of the report.
    pub values: Vec<f64>,
    /// Median of the values, or percentile of the runs' merged histograms. `None` if nothing was measured.
    pub estimate: Option<f64>,
    /// Median absolute deviation of the values.
    pub mad: Option<f64>,
    /// Estimate over that of the baseline, from the runs with equal seeds in deterministic mode. `None` for the
    /// baseline, and if one of them is not positive.
    pub ratio: Option<f64>,
    /// 95 % bootstrap interval of the ratio.
    pub interval: Option<Interval>,
    /// Probability of a difference like this by chance, corrected for the number of comparisons.
    pub p: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// What to mind.
    pub flags: Vec<Flag>,
}

/// Two sides of a comparison before it is known how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct Contrast {
    ratio: Option<f64>,
    interval: Option<Interval>,
    p: Option<f64>,
    identical: bool,
}

/// The metrics of a workload in the order of reports: its own, then the kernel's view.
pub fn metrics_of(workload: &WorkloadSpec) -> Vec<MetricSpec> {
    let own = |name: &str| workload.metrics.iter().any(|metric| metric.name == name);
    let mut kernel = kernel_view::metrics();
    kernel.retain(|metric| !own(&metric.name));
    workload.metrics.iter().cloned().chain(kernel).collect()
}

/// The contenders of a report, each once, the baseline first.
pub fn contenders(report: &Report) -> Vec<&str> {
    let cells = report.cells.iter().map(|cell| &cell.contender);
    unique(report.settings.contenders.iter().chain(cells).map(String::as_str))
}

/// The numbers of CPUs that were measured on, ascending.
pub fn cpu_counts(report: &Report) -> Vec<u32> {
    let mut cpus = unique(report.cells.iter().map(|cell| cell.cpus));
    cpus.sort_unstable();
    cpus
}

fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

/// The runs of a contender.
pub fn cells_of<'a>(
    report: &'a Report,
    cpus: u32,
    workload: &str,
    contender: &str,
) -> impl Iterator<Item = &'a Cell> {
    report
        .cells
        .iter()
        .filter(move |cell| cell.cpus == cpus && cell.workload == workload && cell.contender == contender)
}

/// Compares every contender with the first, metric by metric. Metrics that no contender has are left out.
pub fn analyse(report: &Report) -> Vec<Comparison> {
    let paired = report.settings.mode == Mode::Deterministic;
    let names = contenders(report);
    let mut drafts = Vec::new();
    for cpus in cpu_counts(report) {
        for workload in &report.workloads {
            for metric in metrics_of(workload) {
                let sides: Vec<Runs> = names
                    .iter()
                    .map(|name| Runs::collect(cells_of(report, cpus, &workload.name, name), &metric))
                    .collect();
                if sides.iter().all(|runs| runs.values.is_empty()) {
                    continue;
                }
                for (index, (runs, name)) in sides.iter().zip(&names).enumerate() {
                    let contrast = (index > 0).then(|| Contrast::new(runs, &sides[0], paired));
                    drafts.push((draft(cpus, workload, &metric, name, runs), contrast));
                }
            }
        }
    }
    judge(drafts)
}

/// Corrects for the number of comparisons and gives the verdicts.
fn judge(drafts: Vec<(Comparison, Option<Contrast>)>) -> Vec<Comparison> {
    // The kernel's view has most of the metrics: those that a report is made for are not to pay for it.
    let family = |kernel: bool| -> Vec<Option<f64>> {
        let of = |(comparison, contrast): &(Comparison, Option<Contrast>)| {
            contrast.filter(|_| kernel_view::is_one(&comparison.metric) == kernel).and_then(|c| c.p)
        };
        stats::holm(&drafts.iter().map(of).collect::<Vec<_>>())
    };
    let corrected: Vec<Option<f64>> =
        family(false).into_iter().zip(family(true)).map(|(own, kernel)| own.or(kernel)).collect();
    let give = |((comparison, contrast), p): ((Comparison, Option<Contrast>), Option<f64>)| {
        let Some(contrast) = contrast else { return comparison };
        let Contrast { ratio, interval, .. } = contrast;
        let verdict = contrast.verdict(comparison.better, p);
        Comparison { ratio, interval, p, verdict, ..comparison }
    };
    drafts.into_iter().zip(corrected).map(give).collect()
}

/// What can be said of a contender without the baseline.
fn draft(
    cpus: u32,
    workload: &WorkloadSpec,
    metric: &MetricSpec,
    contender: &str,
    runs: &Runs,
) -> Comparison {
    let mut flags = Vec::new();
    if stats::noisy(&runs.values) {
        flags.push(Flag::Noisy);
    }
    if !stats::outliers(&runs.values).is_empty() {
        flags.push(Flag::Outliers);
    }
    Comparison {
        cpus,
        workload: workload.name.clone(),
        metric: metric.name.clone(),
        unit: metric.unit.clone(),
        better: metric.better,
        contender: contender.into(),
        n: runs.values.len(),
        values: runs.values.clone(),
        estimate: runs.estimate(),
        mad: stats::mad(&runs.values),
        ratio: None,
        interval: None,
        p: None,
        verdict: Verdict::Baseline,
        flags,
    }
}

/// Whether all values of both are the same. Of zeros there may be more on one side.
fn constant(a: &[f64], b: &[f64]) -> bool {
    a.iter().chain(b).all(|value| *value == a[0])
}

impl Contrast {
    fn new(contender: &Runs, baseline: &Runs, paired: bool) -> Self {
        let all = |runs: &Runs| (0..runs.values.len()).collect::<Vec<_>>();
        let (a, b) = if paired { contender.pairs(baseline) } else { (all(contender), all(baseline)) };
        let values = |runs: &Runs, picks: &[usize]| picks.iter().map(|i| runs.values[*i]).collect::<Vec<_>>();
        let (va, vb) = (values(contender, &a), values(baseline, &b));
        let estimate = |runs: &Runs, of: &[usize], picks: &[usize]| {
            runs.estimate_of(&picks.iter().map(|pick| of[*pick]).collect::<Vec<_>>())
        };
        let drawn =
            if paired { stats::Runs::Paired(a.len()) } else { stats::Runs::Independent(a.len(), b.len()) };
        Contrast {
            ratio: contender
                .estimate_of(&a)
                .zip(baseline.estimate_of(&b))
                .and_then(|(a, b)| stats::ratio(a, b)),
            interval: stats::bootstrap_ratio(
                drawn,
                |picks| estimate(contender, &a, picks),
                |picks| estimate(baseline, &b, picks),
            ),
            p: if paired { stats::paired_p(&va, &vb) } else { stats::welch_p(&va, &vb) },
            identical: va.len() > 1 && vb.len() > 1 && (va == vb || constant(&va, &vb)),
        }
    }

    /// `p` is the corrected one.
    fn verdict(&self, better: Better, p: Option<f64>) -> Verdict {
        // Equal zeros have neither a ratio nor a p.
        if self.identical {
            return Verdict::Same;
        }
        let (Some(ratio), Some(interval), Some(p)) = (self.ratio, self.interval, p) else {
            return Verdict::Unknown;
        };
        if p >= ALPHA || interval.contains(1.0) || (ratio - 1.0).abs() < MIN_EFFECT {
            return Verdict::Same;
        }
        match (better, ratio > 1.0) {
            (Better::Neither, _) => Verdict::Changed,
            (Better::Higher, true) | (Better::Lower, false) => Verdict::Better,
            (Better::Higher, false) | (Better::Lower, true) => Verdict::Worse,
        }
    }
}

#[cfg(test)]
mod tests;
