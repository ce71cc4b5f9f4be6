// SPDX-License-Identifier: GPL-2.0-only
//! A report against an earlier one: what has become worse.

use serde::{Deserialize, Serialize};

use super::{Comparison, Contrast, Verdict, cells_of, contenders, cpu_counts, draft, judge, metrics_of};
use crate::analysis::Runs;
use crate::model::{Mode, Report};

/// A report against an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// What has become worse.
    pub regressions: Vec<Regression>,
    /// What was measured in the earlier report and was not in this: `CONTENDER, WORKLOAD METRIC, N CPUs`.
    pub missing: Vec<String>,
}

/// A metric that has become worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// The contender in the report, with its ratio to itself in the earlier one.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Estimate in the earlier report, in the same unit.
    pub was: Option<f64>,
}

/// Compares each contender of the report with itself in the earlier one, metric by metric, with the statistics of
/// [`analyse`](super::analyse). Runs are paired if both reports are deterministic.
pub fn against(current: &Report, baseline: &Report) -> Against {
    let (drafts, missing) = contrasts(current, baseline);
    let was: Vec<Option<f64>> = drafts.iter().map(|(_, _, was)| *was).collect();
    let judged = judge(drafts.into_iter().map(|(d, c, _)| (d, Some(c))).collect());
    let all = judged.into_iter().zip(was).map(|(comparison, was)| Regression { comparison, was });
    let regressions = all.filter(|regression| regression.comparison.verdict == Verdict::Worse).collect();
    Against { regressions, missing }
}

type Draft = (Comparison, Contrast, Option<f64>);

fn contrasts(current: &Report, baseline: &Report) -> (Vec<Draft>, Vec<String>) {
    let paired = [current, baseline].iter().all(|report| report.settings.mode == Mode::Deterministic);
    let (mut drafts, mut missing) = (Vec::new(), Vec::new());
    for cpus in cpu_counts(baseline) {
        for workload in &baseline.workloads {
            for metric in metrics_of(workload) {
                for contender in contenders(baseline) {
                    let side = |of| Runs::collect(cells_of(of, cpus, &workload.name, contender), &metric);
                    let (now, then) = (side(current), side(baseline));
                    if then.values.is_empty() {
                        continue;
                    }
                    if now.values.is_empty() {
                        missing.push(format!("{contender}, {} {}, {cpus} CPUs", workload.name, metric.name));
                        continue;
                    }
                    let draft = draft(cpus, workload, &metric, contender, &now);
                    drafts.push((draft, Contrast::new(&now, &then, paired), then.estimate()));
                }
            }
        }
    }
    (drafts, missing)
}
