// SPDX-License-Identifier: GPL-2.0-only
//! report.md: what goes into a pull request.

use std::fmt::Write as _;

use super::numbers::{p, percent, quantity, ratio};
use super::swaps;
use super::view::{View, about_mode, command_line, mode_name, symbol};
use crate::analysis::{Comparison, Flag, Verdict, cpu_counts};
use crate::model::Kind;

/// How much to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The workloads' own metrics: for a terminal.
    Brief,
    /// The kernel's view of each workload too.
    Full,
}

/// The content of report.md.
pub fn page(view: &View<'_>, detail: Detail) -> String {
    let mut out = String::from("# scx_bench\n");
    for cpus in cpu_counts(view.report) {
        summary(&mut out, view, cpus, detail);
    }
    if !view.report.swaps.is_empty() {
        swap_table(&mut out, view);
    }
    if !view.comparisons.is_empty() {
        let _ = writeln!(
            out,
            "\n✓ better, ✗ worse, ≠ changed, ≈ no difference shown, ? too few runs or no ratio; in brackets the \
             95 % interval of the ratio to the baseline. ~ noisy runs, ! outliers.",
        );
    }
    failures(&mut out, view);
    settings(&mut out, view);
    out
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

fn row(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn heading(out: &mut String, cells: &[String]) {
    out.push('\n');
    row(out, cells);
    let rules: Vec<String> =
        (0..cells.len()).map(|n| if n == 0 { "---".into() } else { "---:".into() }).collect();
    row(out, &rules);
}

fn summary(out: &mut String, view: &View<'_>, cpus: u32, detail: Detail) {
    let _ = writeln!(out, "\n## {cpus} CPUs");
    let names = view.contenders.iter().map(|name| cell(name));
    heading(out, &std::iter::once("metric".to_owned()).chain(names).collect::<Vec<_>>());
    for workload in &view.report.workloads {
        let (own, kernel) = view.metrics(cpus, workload);
        let kernel = if detail == Detail::Full { kernel } else { Vec::new() };
        for metric in own.into_iter().chain(kernel) {
            let cells =
                view.row(cpus, &workload.name, metric).into_iter().map(|c| result(c, view.report.kind));
            let name = cell(&format!("{} {metric}", workload.name));
            row(out, &std::iter::once(name).chain(cells).collect::<Vec<_>>());
        }
    }
}

fn result(comparison: Option<&Comparison>, kind: Kind) -> String {
    let Some((c, estimate)) = comparison.and_then(|c| Some((c, c.estimate?))) else { return "-".into() };
    let value = quantity(estimate, &c.unit);
    let mut text = match (c.verdict, c.ratio, c.interval) {
        (Verdict::Baseline, ..) => value,
        // Of a cost one wants to know the number, and it repeats so well that the interval says little.
        (_, Some(r), _) if kind == Kind::Cost => format!("{} {value} ({})", symbol(c.verdict), percent(r)),
        (_, Some(r), Some(i)) => {
            format!("{} {} [{}, {}]", symbol(c.verdict), ratio(r), ratio(i.low), ratio(i.high))
        }
        _ => format!("{} {value}", symbol(c.verdict)),
    };
    for flag in &c.flags {
        text += match flag {
            Flag::Noisy => " ~",
            Flag::Outliers => " !",
        };
    }
    text
}

fn swap_table(out: &mut String, view: &View<'_>) {
    out.push_str("\n## Swaps\n\nMedian (worst).\n");
    let titles = swaps::FIGURES.iter().map(|figure| figure.title.to_owned());
    heading(out, &["way".to_owned(), "swaps".to_owned()].into_iter().chain(titles).collect::<Vec<_>>());
    for way in swaps::ways(&view.report.swaps) {
        let name = cell(&format!("{}: {} → {}, {} CPUs", way.via, way.from, way.to, way.cpus));
        let figures = swaps::FIGURES.iter().map(|figure| match way.median_and_worst(figure) {
            Some((median, worst)) => {
                format!("{} ({})", quantity(median, figure.unit), quantity(worst, figure.unit))
            }
            None => "-".into(),
        });
        row(out, &[name, way.swaps.len().to_string()].into_iter().chain(figures).collect::<Vec<_>>());
    }
}

fn failures(out: &mut String, view: &View<'_>) {
    if view.report.interrupted {
        out.push_str("\n**Interrupted: not all rounds were measured.**\n");
    }
    if view.report.failures.is_empty() {
        return;
    }
    out.push_str("\n## Failures\n\n");
    for failure in &view.report.failures {
        let workload = failure.workload.as_deref().unwrap_or("start");
        let (contender, message) = (cell(&failure.contender), cell(&failure.message));
        let _ = writeln!(out, "- {contender}, {}, round {}: {message}", cell(workload), failure.round);
    }
}

fn settings(out: &mut String, view: &View<'_>) {
    out.push_str("\n## Settings\n\n");
    for origin in &view.origins {
        let s = &origin.settings;
        if !origin.label.is_empty() {
            let _ = writeln!(out, "**{}**\n", cell(&origin.label));
        }
        // In code, so that an option remains as it was typed.
        let _ = writeln!(out, "- command: `{}`", command_line(s).replace('`', "'"));
        let _ = writeln!(
            out,
            "- scx_bench {}, mode {}, {} runs of {} s, seed {}, {}",
            s.version,
            mode_name(s.mode),
            s.runs,
            s.seconds,
            s.seed,
            origin.created
        );
        if let Some(m) = &origin.machine {
            let _ = writeln!(
                out,
                "- Linux {}, {}{}, {} CPUs, {} MiB, {} spins/us",
                m.kernel,
                m.cpu,
                m.accelerator.as_ref().map_or(String::new(), |accelerator| format!(" ({accelerator})")),
                m.cpus,
                m.memory_mib,
                m.spins_per_us
            );
            for (program, version) in &m.programs {
                let _ = writeln!(out, "- {} {}", cell(program), cell(version));
            }
        }
    }
    let limit = p(crate::analysis::ALPHA);
    let _ = writeln!(
        out,
        "\nA difference is called where p < {limit} after Holm's correction over all comparisons of its kind, the interval \
         excludes 1 and it is at least 1 %. {}",
        about_mode(view.report.settings.mode)
    );
}
