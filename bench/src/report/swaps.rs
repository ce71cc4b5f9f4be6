// SPDX-License-Identifier: GPL-2.0-only
//! The figures of swaps, by the way they were done.

use framework::report::SwapReport;

use crate::model::SwapCell;
use crate::stats;

/// A figure of a swap.
pub struct Figure {
    /// Heading.
    pub title: &'static str,
    /// Column in swaps.csv, with the unit.
    pub column: &'static str,
    /// Unit; none for a number of tasks.
    pub unit: &'static str,
    /// Whether anything but 0 is a bug.
    pub must_be_zero: bool,
    /// Its value.
    pub of: fn(&SwapReport) -> Option<f64>,
}

/// All figures, in the order of tables.
pub const FIGURES: [Figure; 8] = [
    figure("flip", "flip_ns", "ns", |r| Some(r.flip_ns as f64)),
    figure("outside sched_ext", "outside_ns", "ns", |r| Some(r.outside_ns as f64)),
    figure("worst wait before", "worst_before_ns", "ns", |r| r.worst_before_ns.map(|ns| ns as f64)),
    figure("worst wait across", "worst_across_ns", "ns", |r| r.worst_across_ns.map(|ns| ns as f64)),
    figure("drain", "drain_ms", "ms", |r| Some(r.drain_ms)),
    figure("carried", "carried", "", |r| Some(f64::from(r.carried))),
    Figure { must_be_zero: true, ..figure("lost", "lost", "", |r| Some(f64::from(r.lost))) },
    figure("verify", "verify_ms", "ms", |r| Some(r.verify_ms)),
];

const fn figure(
    title: &'static str,
    column: &'static str,
    unit: &'static str,
    of: fn(&SwapReport) -> Option<f64>,
) -> Figure {
    Figure { title, column, unit, must_be_zero: false, of }
}

/// The swaps that were done the same way between the same policies.
pub struct Way<'a> {
    /// How.
    pub via: &'a str,
    /// The policy that was replaced.
    pub from: &'a str,
    /// The policy that replaced it.
    pub to: &'a str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// The swaps.
    pub swaps: Vec<&'a SwapCell>,
}

impl Way<'_> {
    /// Median and worst of a figure, if it was measured.
    pub fn median_and_worst(&self, figure: &Figure) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.swaps.iter().filter_map(|swap| (figure.of)(&swap.report)).collect();
        Some((stats::median(&values)?, values.iter().copied().fold(f64::MIN, f64::max)))
    }

    /// Swaps that were undone.
    pub fn undone(&self) -> usize {
        self.swaps.iter().filter(|swap| swap.report.undone.is_some()).count()
    }
}

/// Groups swaps by the way they were done, in the order in which they first occur.
pub fn ways(swaps: &[SwapCell]) -> Vec<Way<'_>> {
    let mut ways: Vec<Way> = Vec::new();
    for swap in swaps {
        let (via, from, to, cpus) =
            (swap.via.as_str(), swap.report.from.as_str(), swap.report.to.as_str(), swap.cpus);
        match ways.iter_mut().find(|w| (w.via, w.from, w.to, w.cpus) == (via, from, to, cpus)) {
            Some(way) => way.swaps.push(swap),
            None => ways.push(Way { via, from, to, cpus, swaps: vec![swap] }),
        }
    }
    ways
}
