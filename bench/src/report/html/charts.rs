// SPDX-License-Identifier: GPL-2.0-only
//! The sections with charts.

use framework::latency::{Histogram, grouped};
use maud::{Markup, PreEscaped, html};

use super::legend;
use crate::analysis::{Comparison, Verdict, cells_of, cpu_counts, metrics_of, scaling_limits};
use crate::model::{Better, MetricSpec, Source, WorkloadSpec};
use crate::report::numbers::three;
use crate::report::plots::bars::{self, Bar, Group};
use crate::report::plots::{cdf, scaling};
use crate::report::view::View;

/// Metrics of which more is better, as bars.
pub fn throughput(view: &View<'_>) -> Markup {
    bar_section(view, "Throughput", "Relative to the baseline, with 95 % intervals; longer is better.", |c| {
        c.better == Better::Higher
    })
}

/// Costs as bars.
pub fn costs(view: &View<'_>) -> Markup {
    bar_section(view, "Costs", "Relative to the baseline; shorter is better.", |c| c.better == Better::Lower)
}

fn bar_section(view: &View<'_>, title: &str, about: &str, shown: impl Fn(&Comparison) -> bool) -> Markup {
    let cpus = cpu_counts(view.report);
    let charts: Vec<(u32, Vec<Group>)> = cpus
        .into_iter()
        .map(|cpus| (cpus, groups(view, cpus, &shown)))
        .filter(|(_, g)| !g.is_empty())
        .collect();
    html! {
        @if !charts.is_empty() {
            section {
                h2 { (title) }
                @for (cpus, groups) in &charts {
                    figure {
                        figcaption { (cpus) " CPUs" small { (about) } }
                        (legend(view, |_| true))
                        (PreEscaped(bars::chart(&format!("{title} relative to the baseline"), groups)))
                    }
                }
            }
        }
    }
}

fn groups(view: &View<'_>, cpus: u32, shown: &impl Fn(&Comparison) -> bool) -> Vec<Group> {
    let mut groups = Vec::new();
    for workload in &view.report.workloads {
        for metric in &workload.metrics {
            let row = view.row(cpus, &workload.name, &metric.name);
            let bar = |(series, c): (usize, &Option<&Comparison>)| {
                let c = c.filter(|c| shown(c))?;
                let baseline = c.verdict == Verdict::Baseline && c.estimate.is_some_and(|e| e > 0.0);
                let ratio = if baseline { 1.0 } else { c.ratio? };
                Some(Bar { series, ratio, interval: c.interval })
            };
            let bars: Vec<Bar> = row.iter().enumerate().filter_map(bar).collect();
            if !bars.is_empty() {
                let label = match (view.report.workloads.len(), workload.metrics.len()) {
                    (1, _) => metric.name.clone(),
                    (_, 1) => workload.name.clone(),
                    _ => format!("{} {}", workload.name, metric.name),
                };
                groups.push(Group { label, bars });
            }
        }
    }
    groups
}

/// The histograms of all workloads, merged over the runs: the workloads' own, and folded those of the kernel's view.
pub fn distributions(view: &View<'_>) -> Markup {
    let cpus = cpu_counts(view.report);
    let figures = |own: bool| -> Vec<Markup> {
        let of = |cpus: &u32| {
            let of_workload = |w| distribution_figures(view, *cpus, w, own);
            view.report.workloads.iter().flat_map(of_workload).collect::<Vec<_>>()
        };
        cpus.iter().flat_map(of).collect()
    };
    let (own, kernel) = (figures(true), figures(false));
    html! {
        section {
            h2 { "Latency distributions" }
            p {
                "The share of samples (upwards, each nine as high as the last) that did not exceed a latency "
                "(rightwards, logarithmic). A curve further left is better. Dots mark p50, p99 and p99.9. "
                "All runs of a contender are merged."
            }
            @if !own.is_empty() { div.charts { @for figure in own { (figure) } } }
            @if !kernel.is_empty() {
                details {
                    summary { "The kernel's view: wake-up latency and run-queue wait of all tasks" }
                    div.charts { @for figure in kernel { (figure) } }
                }
            }
        }
    }
}

fn distribution_figures(view: &View<'_>, cpus: u32, workload: &WorkloadSpec, own: bool) -> Vec<Markup> {
    let mut seen: Vec<String> = Vec::new();
    let mut figures = Vec::new();
    for metric in metrics_of(workload) {
        let Source::Percentile { histogram, scale, .. } = &metric.source else { continue };
        let is_own = workload.metrics.contains(&metric);
        if is_own != own || seen.contains(histogram) {
            continue;
        }
        seen.push(histogram.clone());
        figures.extend(distribution_figure(view, cpus, workload, &metric, histogram, *scale));
    }
    figures
}

fn distribution_figure(
    view: &View<'_>,
    cpus: u32,
    workload: &WorkloadSpec,
    metric: &MetricSpec,
    histogram: &str,
    scale: f64,
) -> Option<Markup> {
    let merged = |contender: &str| {
        let mut merged = Histogram::default();
        cells_of(view.report, cpus, &workload.name, contender)
            .filter_map(|c| c.measured.histograms.get(histogram))
            .for_each(|distribution| merged.merge(&distribution.into()));
        merged
    };
    let curves: Vec<cdf::Curve> = view
        .contenders
        .iter()
        .enumerate()
        .map(|(series, name)| cdf::Curve { series, histogram: merged(name) })
        .filter(|curve| curve.histogram.count() > 0)
        .collect();
    let samples = curves.iter().map(|curve| curve.histogram.count()).min()?;
    let name = format!("{} · {}", workload.name, histogram.replace('_', " "));
    let label = format!("Distribution of {histogram} under {} for each contender", workload.name);
    Some(html! {
        figure {
            figcaption { (name) small { (cpus) " CPUs · " (grouped(samples)) " samples a contender or more" } }
            (legend(view, |index| curves.iter().any(|curve| curve.series == index)))
            (PreEscaped(cdf::chart(&label, &metric.unit, scale, &curves)))
        }
    })
}

/// Every metric against the number of CPUs.
pub fn scaling(view: &View<'_>) -> Markup {
    html! {
        section {
            h2 { "Scaling" }
            @for limit in scaling_limits(view.comparisons) {
                p.warn {
                    strong { (limit.contender) } " stops scaling at " (limit.cpus) " CPUs: under " (limit.workload)
                    " a switch costs " (three(limit.factor)) " times what it does at " (limit.from_cpus) " CPUs."
                }
            }
            (legend(view, |_| true))
            @for workload in &view.report.workloads {
                @let (own, kernel) = curves_of(view, workload);
                @if !own.is_empty() || !kernel.is_empty() {
                    h3 { (workload.name) small { (workload.description) } }
                    div.charts.small { @for figure in own { (figure) } }
                    @if !kernel.is_empty() {
                        details {
                            summary { "The kernel's view of " (workload.name) }
                            div.charts.small { @for figure in kernel { (figure) } }
                        }
                    }
                }
            }
        }
    }
}

fn curves_of(view: &View<'_>, workload: &WorkloadSpec) -> (Vec<Markup>, Vec<Markup>) {
    let (mut own, mut kernel) = (Vec::new(), Vec::new());
    for metric in metrics_of(workload) {
        let curve = |(series, name): (usize, &&str)| scaling::Curve {
            series,
            points: view
                .comparisons
                .iter()
                .filter(|c| c.workload == workload.name && c.metric == metric.name && c.contender == *name)
                .filter_map(|c| Some((c.cpus, c.estimate?)))
                .collect(),
        };
        let curves: Vec<_> = view.contenders.iter().enumerate().map(curve).collect();
        if curves.iter().all(|curve| curve.points.is_empty()) {
            continue;
        }
        let better = match metric.better {
            Better::Lower => "lower is better",
            Better::Higher => "higher is better",
            Better::Neither => "neither is better",
        };
        let label = format!("{} of {} against the number of CPUs", metric.name, workload.name);
        let figure = html! {
            figure {
                figcaption { (metric.name) small { (metric.unit) " · " (better) } }
                (PreEscaped(scaling::chart(&label, &metric.unit, &curves)))
            }
        };
        if workload.metrics.contains(&metric) { own.push(figure) } else { kernel.push(figure) }
    }
    (own, kernel)
}
