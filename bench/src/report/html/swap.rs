// SPDX-License-Identifier: GPL-2.0-only
//! The section on swaps.

use maud::{Markup, PreEscaped, html};

use crate::report::numbers::quantity;
use crate::report::plots::timeline::{self, Ranges};
use crate::report::swaps::{self, FIGURES, Figure, Way};
use crate::report::view::View;

/// The table of all ways and a timeline of each.
pub fn section(view: &View<'_>) -> Markup {
    let ways = swaps::ways(&view.report.swaps);
    html! {
        section {
            h2 { "Swaps" }
            p {
                "The median and, below it, the worst of the swaps done the same way. “Outside” is the time "
                "without a sched_ext scheduler; “carried” are tasks queued by the old policy that the new one "
                "drained. A task lost is a bug."
            }
            div.scroll {
                table.swaps {
                    thead { tr {
                        th scope="col" { "way" }
                        th scope="col" { "swaps" }
                        @for figure in &FIGURES { th scope="col" { (figure.title) } }
                    } }
                    tbody { @for way in &ways { (row(way)) } }
                }
            }
            @if let Some(ranges) = Ranges::of(&view.report.swaps) {
                h3 { "Around the flip" }
                p {
                    "The worst run-queue wait (logarithmic) and the context switches in steps of equal length; a line "
                    "for each swap. Shaded: no sched_ext scheduler was in charge. All charts have the same axes."
                }
                div.charts { @for way in &ways { (figure(way, ranges)) } }
            }
        }
    }
}

fn row(way: &Way<'_>) -> Markup {
    html! {
        tr {
            th scope="row" { (way.via) small.arrow { br; (way.from) " → " (way.to) ", " (way.cpus) " CPUs" } }
            td {
                (way.swaps.len())
                @if way.undone() > 0 { small { (way.undone()) " undone" } }
            }
            @for figure in &FIGURES { (cell(way, figure)) }
        }
    }
}

fn cell(way: &Way<'_>, figure: &Figure) -> Markup {
    let Some((median, worst)) = way.median_and_worst(figure) else {
        return html! { td.none title="not measured" { "–" } };
    };
    let bug = figure.must_be_zero && worst > 0.0;
    html! {
        td class=[bug.then_some("worse")] {
            b { @if bug { span.mark { "✗" } } (quantity(median, figure.unit)) }
            small { (quantity(worst, figure.unit)) }
        }
    }
}

fn figure(way: &Way<'_>, ranges: Ranges) -> Markup {
    let label = format!("Worst wait and context switches around swaps via {}", way.via);
    html! {
        figure {
            figcaption { (way.via) small { (way.from) " → " (way.to) ", " (way.cpus) " CPUs, " (way.swaps.len()) " swaps" } }
            (PreEscaped(timeline::chart(&label, ranges, &way.swaps)))
        }
    }
}
