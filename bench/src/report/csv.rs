// SPDX-License-Identifier: GPL-2.0-only
//! NAME.csv for each workload: a row for each run and metric. swaps.csv: a row for each swap.

use anyhow::{Context as _, Result};
use csv::Writer;

use super::swaps;
use crate::analysis::{metrics_of, value_of};
use crate::model::{Report, WorkloadSpec};

/// The files: name and content.
pub fn files(report: &Report) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for workload in &report.workloads {
        files.push((file_name(&workload.name), of_workload(report, workload)?));
    }
    if !report.swaps.is_empty() {
        files.push(("swaps.csv".to_owned(), of_swaps(report)?));
    }
    Ok(files)
}

/// Names come from files too: they must not lead out of the folder.
fn file_name(workload: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("{}.csv", workload.chars().map(safe).collect::<String>().trim_start_matches('.'))
}

fn of_workload(report: &Report, workload: &WorkloadSpec) -> Result<Vec<u8>> {
    let mut out = Writer::from_writer(Vec::new());
    out.write_record(["contender", "cpus", "round", "seed", "metric", "unit", "value"])?;
    let metrics = metrics_of(workload);
    for cell in report.cells.iter().filter(|cell| cell.workload == workload.name) {
        for metric in &metrics {
            if let Some(value) = value_of(cell, metric) {
                let (cpus, round, seed) =
                    (cell.cpus.to_string(), cell.round.to_string(), cell.seed.to_string());
                let value = value.to_string();
                let row = [&cell.contender, &cpus, &round, &seed, &metric.name, &metric.unit, &value];
                out.write_record(row)?;
            }
        }
    }
    out.into_inner().context("cannot write CSV")
}

fn of_swaps(report: &Report) -> Result<Vec<u8>> {
    let mut out = Writer::from_writer(Vec::new());
    let figures = swaps::FIGURES.map(|figure| figure.column);
    out.write_record(
        ["via", "from", "to", "cpus", "round", "seed"].iter().chain(&figures).chain(&["undone"]),
    )?;
    for swap in &report.swaps {
        let mut row = vec![swap.via.clone(), swap.report.from.clone(), swap.report.to.clone()];
        row.extend([swap.cpus.to_string(), swap.round.to_string(), swap.seed.to_string()]);
        let value = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        row.extend(swaps::FIGURES.map(|figure| value((figure.of)(&swap.report))));
        row.push(swap.report.undone.clone().unwrap_or_default());
        out.write_record(row)?;
    }
    out.into_inner().context("cannot write CSV")
}
