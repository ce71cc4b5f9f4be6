// SPDX-License-Identifier: GPL-2.0-only
//! What tasks felt of a swap: the worst wait and the context switches around it.

use plotters::prelude::*;

use super::{Area, Axis, Drawn, INK, SHADE, frame, line, series, svg};
use crate::model::{SwapCell, TimelinePoint};

/// The ranges of charts that are to be compared.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    ms: (f64, f64),
    wait_ns: (f64, f64),
    switches: f64,
}

impl Ranges {
    /// Those that hold all swaps, if there are timelines.
    pub fn of(swaps: &[SwapCell]) -> Option<Self> {
        let points = || swaps.iter().flat_map(|swap| &swap.timeline);
        let least = |of: fn(&TimelinePoint) -> f64| points().map(of).reduce(f64::min);
        let most = |of: fn(&TimelinePoint) -> f64| points().map(of).reduce(f64::max);
        // A step without a wait has no place on a logarithmic axis: it is at the bottom.
        let wait = |p: &TimelinePoint| if p.worst_wait_ns == 0 { f64::MAX } else { p.worst_wait_ns as f64 };
        let low = least(wait)?;
        let low = if low == f64::MAX { 1.0 } else { low };
        let high = most(|p| p.worst_wait_ns as f64)?.max(low * 2.0);
        let (from, to) = (least(|p| p.at_ms)?, most(|p| p.at_ms)?);
        Some(Ranges {
            ms: (from, to.max(from + 1.0)),
            wait_ns: (low * 0.8, high * 1.2),
            switches: most(|p| p.switches_per_second)?.max(1.0) * 1.08,
        })
    }
}

/// A chart of the swaps of one way, one over the other.
pub fn chart(label: &str, ranges: Ranges, swaps: &[&SwapCell]) -> String {
    svg((560, 360), label, |area| {
        let (above, below) = area.split_vertically(FRACTION);
        panel(
            &above,
            ranges,
            swaps,
            &Panel {
                y: Axis::log10(ranges.wait_ns.0, ranges.wait_ns.1, "ns", "worst wait"),
                x_title: "",
                of: |point| (point.worst_wait_ns as f64).max(1.0).log10(),
            },
        )?;
        panel(
            &below,
            ranges,
            swaps,
            &Panel {
                y: Axis::linear(0.0, ranges.switches, "", "switches/s"),
                x_title: "ms after the flip",
                of: |point| point.switches_per_second,
            },
        )
    })
}

/// The upper panel's height, drawn.
const FRACTION: i32 = 400;

struct Panel {
    y: Axis,
    x_title: &'static str,
    of: fn(&TimelinePoint) -> f64,
}

fn panel(area: &Area<'_>, ranges: Ranges, swaps: &[&SwapCell], panel: &Panel) -> Drawn {
    let x = Axis::linear(ranges.ms.0, ranges.ms.1, "", panel.x_title);
    let y = &panel.y;
    let mut chart = frame(area, &x, y)?;
    // Several swaps one over the other come to about the same shade, however many there are.
    let shade = SHADE.mix(0.35 / swaps.len().max(1) as f64);
    for swap in swaps {
        let outside = outside(&swap.timeline);
        chart.draw_series(
            outside
                .into_iter()
                .map(|(from, to)| Rectangle::new([(from, y.from), (to, y.to)], shade.filled())),
        )?;
    }
    chart.draw_series([PathElement::new([(0.0, y.from), (0.0, y.to)], line(INK, 1))])?;
    for swap in swaps {
        let points = swap.timeline.iter().map(|point| (point.at_ms, (panel.of)(point).clamp(y.from, y.to)));
        let style = ShapeStyle { color: series(0).mix(0.55), filled: false, stroke_width: 3 };
        chart.draw_series(LineSeries::new(points, style))?;
    }
    Ok(())
}

/// When no sched_ext scheduler was in charge: from the step before to the last such step.
fn outside(timeline: &[TimelinePoint]) -> Vec<(f64, f64)> {
    let mut spans: Vec<(f64, f64)> = Vec::new();
    for pair in timeline.windows(2).filter(|pair| !pair[1].enabled) {
        match spans.last_mut() {
            Some(span) if span.1 == pair[0].at_ms => span.1 = pair[1].at_ms,
            _ => spans.push((pair[0].at_ms, pair[1].at_ms)),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_outside() {
        let timeline: Vec<TimelinePoint> = [true, true, false, false, true, false]
            .into_iter()
            .zip(0..)
            .map(|(enabled, n)| TimelinePoint {
                at_ms: f64::from(n),
                worst_wait_ns: 0,
                switches_per_second: 0.0,
                enabled,
            })
            .collect();
        assert_eq!(outside(&timeline), [(1.0, 3.0), (4.0, 5.0)]);
        assert!(outside(&[]).is_empty());
    }
}
