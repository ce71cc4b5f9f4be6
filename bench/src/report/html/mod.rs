// SPDX-License-Identifier: GPL-2.0-only
//! index.html: one file that needs nothing else, no script and no network.

mod about;
mod charts;
mod summary;
mod swap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots::series;
use super::view::{View, mode_name, symbol, words};
use crate::analysis::Verdict;
use crate::model::Kind;

/// The content of index.html.
pub fn page(view: &View<'_>) -> String {
    let title = title(view.report.kind);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "scx_bench " (view.report.settings.version) };
                title { "scx_bench: " (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header { (head(view, title)) }
                main {
                    @if view.report.interrupted {
                        p.warn { "It was interrupted: this is what had been measured until then." }
                    }
                    @if !view.report.failures.is_empty() {
                        p.warn { (view.report.failures.len()) " failed, see " a href="#failures" { "Failures" } "." }
                    }
                    (glance(view))
                    (sections(view))
                    (about::failures(view))
                    (about::reading(view))
                    (about::settings(view))
                }
                footer { "Written by scx_bench " (view.report.settings.version) ", " (view.report.created) "." }
            }
        }
    };
    page.into_string()
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Compare => "policies under load",
        Kind::Swap => "ways to replace a policy",
        Kind::Cost => "instructions an operation",
        Kind::Scale => "policies on more and more CPUs",
    }
}

fn head(view: &View<'_>, title: &str) -> Markup {
    html! {
        h1 { "scx_bench: " (title) }
        @for origin in &view.origins {
            p.lead {
                @if !origin.label.is_empty() { strong { (origin.label) } ": " }
                @if let Some(m) = &origin.machine { "Linux " (m.kernel) " · " (m.cpu) ", " (m.cpus) " CPUs · " }
                "mode " (mode_name(origin.settings.mode)) " · "
                (origin.settings.runs) " runs of " (origin.settings.seconds) " s · " (origin.created)
            }
        }
    }
}

/// How many verdicts of each kind every contender has.
fn glance(view: &View<'_>) -> Markup {
    if view.comparisons.is_empty() {
        return html! {};
    }
    let shown = [Verdict::Better, Verdict::Worse, Verdict::Changed, Verdict::Same, Verdict::Unknown];
    html! {
        ul.glance {
            @for (index, contender) in view.contenders.iter().enumerate() {
                li style={ "--c: var(--s" (index % 8) ")" } {
                    strong { (contender) }
                    @if index == 0 {
                        span { "the baseline" }
                    } @else {
                        @for verdict in shown.iter().filter(|v| view.count(contender, **v) > 0) {
                            span class=(class(*verdict)) {
                                (symbol(*verdict)) " " (view.count(contender, *verdict)) " " (words(*verdict))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn sections(view: &View<'_>) -> Markup {
    let kind = view.report.kind;
    html! {
        @if !view.report.swaps.is_empty() { (swap::section(view)) }
        @if kind == Kind::Scale { (charts::scaling(view)) }
        @if !view.comparisons.is_empty() { (summary::section(view)) }
        @if kind == Kind::Cost {
            (charts::costs(view))
        } @else if kind != Kind::Scale && !view.comparisons.is_empty() {
            (charts::throughput(view))
            (charts::distributions(view))
        }
    }
}

/// The style of a verdict.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Baseline => "baseline",
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Changed => "changed",
        Verdict::Same => "same",
        Verdict::Unknown => "unknown",
    }
}

/// Which line is which contender.
fn legend(view: &View<'_>, shown: impl Fn(usize) -> bool) -> Markup {
    html! {
        ul.legend {
            @for (index, contender) in view.contenders.iter().enumerate().filter(|(index, _)| shown(*index)) {
                li { (swatch(index)) (contender) }
            }
        }
    }
}

fn swatch(index: usize) -> Markup {
    let color = series(index);
    let hex = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
    html! {
        svg viewBox="0 0 60 20" aria-hidden="true" {
            line x1="0" y1="10" x2="60" y2="10" stroke=(hex) stroke-width="5" {}
        }
    }
}
