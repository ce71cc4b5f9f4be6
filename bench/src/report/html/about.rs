// SPDX-License-Identifier: GPL-2.0-only
//! What did not work, how to read the page, and how to repeat it.

use maud::{Markup, html};

use crate::analysis::{ALPHA, MIN_EFFECT};
use crate::model::{Machine, Settings};
use crate::report::view::{Origin, View, about_mode, command_line, mode_name};
use crate::stats::RESAMPLES;

/// The section on failures, if there are any.
pub fn failures(view: &View<'_>) -> Markup {
    html! {
        @if !view.report.failures.is_empty() {
            section id="failures" {
                h2 { "Failures" }
                ul.failures {
                    @for failure in &view.report.failures {
                        li {
                            strong { (failure.contender) }
                            @if let Some(workload) = &failure.workload { ", " (workload) }
                            ", round " (failure.round)
                            pre { (failure.message) }
                        }
                    }
                }
            }
        }
    }
}

/// The section on verdicts and modes.
pub fn reading(view: &View<'_>) -> Markup {
    html! {
        section {
            h2 { "How to read this" }
            p { (about_mode(view.report.settings.mode)) }
            @if !view.comparisons.is_empty() {
                p {
                    "A value is the median of the runs, or a percentile of the histogram of all runs together; "
                    "percentiles are never averaged. The interval of a ratio is what 95 % of " (RESAMPLES)
                    " resamples of the runs give (bootstrap). The probability that a difference is chance is from "
                    "a t-test on the logarithms of the runs' values, with Holm's correction for the number of "
                    "comparisons, once over the workloads' own metrics and once over the kernel's view."
                }
                p {
                    "A difference is called, ✓ or ✗, only where all of these hold: the interval excludes 1, the "
                    "corrected probability is below " (ALPHA) ", and the difference is at least "
                    (MIN_EFFECT * 100.0) " %. With so many comparisons, anything less would call differences "
                    "between a policy and itself. ≈ therefore does not say that there is none: more runs may show one."
                }
            }
        }
    }
}

/// The section on what is needed to repeat it.
pub fn settings(view: &View<'_>) -> Markup {
    html! {
        section {
            h2 { "Settings" }
            @for origin in &view.origins {
                @if !origin.label.is_empty() { h3 { (origin.label) } }
                div.scroll { table.key { tbody {
                    (run(&origin.settings, origin))
                    @if let Some(machine) = &origin.machine { (on(machine)) }
                } } }
            }
            (workloads(view))
        }
    }
}

fn line(name: &str, value: &Markup) -> Markup {
    html! { tr { td { (name) } td { (value) } } }
}

fn run(settings: &Settings, origin: &Origin) -> Markup {
    let last = settings.seed.saturating_add(u64::from(settings.runs.saturating_sub(1)));
    let seeds = if last == settings.seed { last.to_string() } else { format!("{} to {last}", settings.seed) };
    html! {
        (line("command", &html! { code { (command_line(settings)) } }))
        (line("scx_bench", &html! { (settings.version) }))
        (line("mode", &html! { (mode_name(settings.mode)) }))
        (line("contenders", &html! {
            @for (index, name) in settings.contenders.iter().enumerate() {
                @if index > 0 { br; }
                code { (name) } @if index == 0 { " (baseline)" }
            }
        }))
        (line("runs", &html! { (settings.runs) }))
        (line("seeds", &html! { (seeds) }))
        (line("measured, each run", &html! { (settings.seconds) " s" }))
        (line("begun", &html! { (origin.created) }))
    }
}

fn on(machine: &Machine) -> Markup {
    html! {
        (line("kernel", &html! { "Linux " (machine.kernel) }))
        (line("kernel command line", &html! { code { (machine.cmdline) } }))
        (line("CPU", &html! { (machine.cpu) }))
        @if let Some(accelerator) = &machine.accelerator { (line("virtual machine", &html! { (accelerator) })) }
        (line("CPUs", &html! { (machine.cpus) }))
        (line("memory", &html! { (machine.memory_mib) " MiB" }))
        (line("spins a microsecond", &html! { (machine.spins_per_us) }))
        @for (program, version) in &machine.programs { (line(program, &html! { (version) })) }
    }
}

fn workloads(view: &View<'_>) -> Markup {
    html! {
        @if !view.report.workloads.is_empty() {
            h3 { "Workloads" }
            div.scroll { table.key { tbody {
                @for workload in &view.report.workloads {
                    (line(&workload.name, &html! {
                        (workload.description)
                        @if let Some(command) = &workload.command { br; code { (command) } }
                    }))
                }
            } } }
        }
    }
}
