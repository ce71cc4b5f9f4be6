// SPDX-License-Identifier: GPL-2.0-only
//! A metric against the number of CPUs.

use plotters::prelude::*;

use super::{Axis, Drawn, frame, line, px, series, svg};

/// A contender.
pub struct Curve {
    /// Its place in the order of contenders.
    pub series: usize,
    /// CPUs, estimate.
    pub points: Vec<(u32, f64)>,
}

/// A chart of a metric; CPUs are on a binary logarithmic axis.
pub fn chart(label: &str, unit: &str, curves: &[Curve]) -> String {
    svg((350, 230), label, |area| {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let mut cpus: Vec<u32> = points().map(|(cpus, _)| *cpus).collect();
        cpus.sort_unstable();
        cpus.dedup();
        let log = |cpus: u32| f64::from(cpus.max(1)).log2();
        let (first, last) = (cpus.first().copied().map_or(0.0, log), cpus.last().copied().map_or(1.0, log));
        let x = Axis {
            from: first - 0.15,
            to: last + 0.15,
            ticks: cpus.iter().map(|n| (log(*n), n.to_string())).collect(),
            title: "CPUs".into(),
        };
        let most = points().map(|(_, value)| *value).fold(0.0, f64::max);
        let y = Axis::linear(0.0, if most > 0.0 { most * 1.06 } else { 1.0 }, unit, "");
        let mut chart = frame(area, &x, &y)?;
        for curve in curves {
            let color = series(curve.series);
            let points = || curve.points.iter().map(|(cpus, value)| (log(*cpus), *value));
            chart.draw_series(LineSeries::new(points(), line(color, 2)))?;
            chart.draw_series(points().map(|at| Circle::new(at, px(3), color.filled())))?;
        }
        Drawn::Ok(())
    })
}
