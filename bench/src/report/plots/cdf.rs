// SPDX-License-Identifier: GPL-2.0-only
//! Cumulative distributions of durations: logarithmic time, and percentiles stretched towards the tail.

use framework::latency::{Histogram, bucket_range};
use plotters::prelude::*;

use super::{Axis, Drawn, frame, line, px, series, svg};

/// Percentiles that are marked, and the least that the axis shows.
const MARKS: [(f64, &str); 5] =
    [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];

/// The distribution of a contender.
pub struct Curve {
    /// Its place in the order of contenders.
    pub series: usize,
    /// All its runs, merged.
    pub histogram: Histogram,
}

/// Percentiles as the axis shows them: each further nine is as far from the last.
fn stretched(share: f64) -> f64 {
    -(1.0 - share).log10()
}

impl Curve {
    /// Value in the metric's unit, stretched share of the samples up to it.
    fn points(&self, scale: f64, top: f64) -> Vec<(f64, f64)> {
        let (mut seen, count) = (0, self.histogram.count());
        let mut points = Vec::new();
        for (bucket, n) in self.histogram.non_empty() {
            let range = bucket_range(bucket as usize);
            if points.is_empty() {
                points.push(((*range.start() as f64 * scale).max(scale).log10(), 0.0));
            }
            seen += n;
            let share = stretched(seen as f64 / count as f64).min(top);
            let end = (*range.end()).min(self.histogram.max());
            points.push(((end as f64 * scale).max(scale).log10(), share));
        }
        points
    }
}

/// A chart of distributions. `unit` is that of a sample times `scale`.
pub fn chart(label: &str, unit: &str, scale: f64, curves: &[Curve]) -> String {
    svg((620, 340), label, |area| {
        let with_samples = || curves.iter().filter(|c| c.histogram.count() > 0);
        let samples = with_samples().map(|c| c.histogram.count()).max().unwrap_or(1);
        // A percentile that rests on less than a sample is none.
        let top = stretched(1.0 - 1.0 / samples as f64).clamp(2.0, 4.3);
        let low = with_samples().filter_map(|c| c.histogram.percentile(0.5)).min().unwrap_or(1).max(1);
        let high = with_samples().map(|c| c.histogram.max()).max().unwrap_or(1).max(low + 1);

        let x = Axis::log10(low as f64 * scale, high as f64 * scale, unit, "");
        let ticks = MARKS.iter().map(|(p, name)| (stretched(p / 100.0), (*name).to_owned()));
        let ticks = ticks.filter(|(at, _)| *at <= top).collect();
        let y = Axis { from: 0.0, to: top, ticks, title: String::new() };
        let mut chart = frame(area, &x, &y)?;
        for curve in with_samples() {
            let points = curve.points(scale, top);
            let points = points.into_iter().filter(|(at, _)| *at >= x.from);
            chart.draw_series(LineSeries::new(points, line(series(curve.series), 2)))?;
            chart.draw_series(marks(curve, scale, top))?;
        }
        Drawn::Ok(())
    })
}

/// p50, p99 and p99.9 of a curve.
fn marks(curve: &Curve, scale: f64, top: f64) -> Vec<Circle<(f64, f64), i32>> {
    [50.0, 99.0, 99.9]
        .into_iter()
        .filter(|p| stretched(p / 100.0) <= top)
        .filter_map(|p| Some((p, curve.histogram.percentile(p)?)))
        .map(|(p, value)| {
            let at = ((value as f64 * scale).max(scale).log10(), stretched(p / 100.0));
            Circle::new(at, px(3), series(curve.series).filled())
        })
        .collect()
}
