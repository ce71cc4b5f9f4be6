// SPDX-License-Identifier: GPL-2.0-only
//! Several reports as one.

use anyhow::{Context as _, Result, bail};

use crate::analysis::contenders;
use crate::model::{Mode, Report, WorkloadSpec};
use crate::report::view::mode_name;

/// Makes one report out of several, whose contenders are then called `LABEL: CONTENDER`.
///
/// Fails if they cannot be compared: other commands, or deterministic ones beside others.
pub fn side_by_side(reports: Vec<(String, Report)>) -> Result<Report> {
    let mut reports = reports.into_iter().map(|(label, report)| labelled(&label, report));
    let mut whole = reports.next().context("no report to show")?;
    for report in reports {
        if report.kind != whole.kind {
            bail!("reports of different commands cannot be shown side by side");
        }
        let (a, b) = (whole.settings.mode, report.settings.mode);
        if (a == Mode::Deterministic) != (b == Mode::Deterministic) {
            let (a, b) = (mode_name(a), mode_name(b));
            bail!("reports of the modes {a} and {b} measure different things: not to be shown side by side");
        }
        whole.settings.contenders.extend(report.settings.contenders);
        whole.cells.extend(report.cells);
        whole.swaps.extend(report.swaps);
        whole.failures.extend(report.failures);
        whole.interrupted |= report.interrupted;
        report.workloads.into_iter().for_each(|workload| add_workload(&mut whole.workloads, workload));
    }
    Ok(whole)
}

fn labelled(label: &str, mut report: Report) -> Report {
    let name = |contender: &str| format!("{label}: {contender}");
    report.settings.contenders = contenders(&report).into_iter().map(name).collect();
    report.cells.iter_mut().for_each(|cell| cell.contender = name(&cell.contender));
    report.failures.iter_mut().for_each(|failure| failure.contender = name(&failure.contender));
    report.swaps.iter_mut().for_each(|swap| swap.via = name(&swap.via));
    report
}

fn add_workload(workloads: &mut Vec<WorkloadSpec>, workload: WorkloadSpec) {
    match workloads.iter_mut().find(|known| known.name == workload.name) {
        Some(known) => {
            for metric in workload.metrics {
                if known.metrics.iter().all(|m| m.name != metric.name) {
                    known.metrics.push(metric);
                }
            }
        }
        None => workloads.push(workload),
    }
}
