// SPDX-License-Identifier: GPL-2.0-only
//! The summary: every metric of every contender.

use maud::{Markup, html};

use super::class;
use crate::analysis::{Comparison, Flag, Verdict, cpu_counts};
use crate::model::{Better, Kind, WorkloadSpec};
use crate::report::numbers::{p, percent, quantity, ratio, three};
use crate::report::view::{View, symbol, words};
use crate::stats::Interval;

/// The section. With several numbers of CPUs, each is folded.
pub fn section(view: &View<'_>) -> Markup {
    let cpus = cpu_counts(view.report);
    html! {
        section {
            h2 { "Summary" }
            p {
                "The baseline in its units, the others as a ratio to it with the 95 % interval, and their value. "
                "✓ better, ✗ worse, ≠ changed, ≈ no difference shown, ? too few runs or no ratio. "
                "↓ lower is better, ↑ higher is better."
            }
            @match cpus.as_slice() {
                [one] => (matrices(view, *one)),
                several => @for cpus in several {
                    details { summary { (cpus) " CPUs" } (matrices(view, *cpus)) }
                },
            }
            p { small { sup { "n" } " noisy: the runs vary, their MAD exceeds 5 % of their median. "
                sup { "o" } " a run is an outlier: its modified z-score exceeds 3.5 and it is more than 5 % off the median." } }
        }
    }
}

fn matrices(view: &View<'_>, cpus: u32) -> Markup {
    html! {
        @for workload in &view.report.workloads {
            @let (own, kernel) = view.metrics(cpus, workload);
            @if !own.is_empty() || !kernel.is_empty() {
                h3 { (workload.name) small { (workload.description) } }
                @if !own.is_empty() { (matrix(view, cpus, workload, &own)) }
                @if !kernel.is_empty() {
                    details {
                        summary { "The kernel's view of " (workload.name) }
                        (matrix(view, cpus, workload, &kernel))
                    }
                }
            }
        }
    }
}

fn matrix(view: &View<'_>, cpus: u32, workload: &WorkloadSpec, metrics: &[&str]) -> Markup {
    html! {
        div.scroll {
            table.matrix style={ "--min:" (190 + 178 * view.contenders.len()) "px" } {
                colgroup { col.name; @for _ in &view.contenders { col; } }
                thead { tr {
                    th scope="col" { "metric" }
                    @for name in &view.contenders { th scope="col" { (name) } }
                } }
                tbody {
                    @for metric in metrics {
                        @let row = view.row(cpus, &workload.name, metric);
                        tr {
                            th scope="row" { (metric) " " (arrow(&row)) }
                            @for cell in row { (result(cell, view.report.kind)) }
                        }
                    }
                }
            }
        }
    }
}

fn arrow(row: &[Option<&Comparison>]) -> Markup {
    let (sign, meaning) = match row.iter().flatten().next().map(|c| c.better) {
        Some(Better::Lower) => ("↓", "lower is better"),
        Some(Better::Higher) => ("↑", "higher is better"),
        _ => ("", ""),
    };
    html! { span.arrow title=(meaning) { (sign) } }
}

fn result(comparison: Option<&Comparison>, kind: Kind) -> Markup {
    let Some((c, estimate)) = comparison.and_then(|c| Some((c, c.estimate?))) else {
        return html! { td.none title="not measured" { "–" } };
    };
    let value = quantity(estimate, &c.unit);
    let shown = match c.ratio {
        Some(r) if kind == Kind::Cost => percent(r),
        Some(r) => ratio(r),
        None => value.clone(),
    };
    html! {
        td class=(class(c.verdict)) title=(hint(c)) {
            b {
                @if c.verdict != Verdict::Baseline { span.mark { (symbol(c.verdict)) } }
                (shown)
            }
            @for flag in &c.flags {
                @match flag { Flag::Noisy => sup { " n" }, Flag::Outliers => sup { " o" } }
            }
            @if c.ratio.is_some() {
                small {
                    @if let Some(i) = c.interval { (ends(i, kind)) " · " }
                    (value)
                }
            }
        }
    }
}

fn ends(interval: Interval, kind: Kind) -> String {
    let end = if kind == Kind::Cost { percent } else { three };
    let (low, high) = (end(interval.low), end(interval.high));
    if low == high { low } else { format!("{low}–{high}").replace(" %–", "–") }
}

/// What is shown where the pointer rests.
fn hint(c: &Comparison) -> String {
    let values: Vec<String> = c.values.iter().map(|value| three(*value)).collect();
    let mut hint = format!("{}; {} runs: {} {}", words(c.verdict), c.n, values.join(", "), c.unit);
    if let Some(probability) = c.p {
        hint += &format!("; corrected p {}", p(probability));
    }
    hint
}
