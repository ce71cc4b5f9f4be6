// SPDX-License-Identifier: GPL-2.0-only
//! A sample as a table for people.

use std::fmt;

use super::hist::Histogram;
use super::sample::{PerEntry, Sample, WORST};

/// A duration with three significant digits in a unit that suits it.
pub fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        // Up to what would be rounded to 1000 of the unit.
        1_000..999_500 => (ns as f64 / 1e3, "us"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// A number with its thousands set apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.char_indices() {
        if i != 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first column aligned to the left, the others to the right, each as wide as its widest cell.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            line.trim_end().to_string()
        })
        .collect()
}

fn cells(cells: &[&str]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

fn distribution(name: &str, hist: &Histogram) -> Vec<String> {
    let s = hist.summary();
    let mut row = vec![name.to_string(), grouped(s.count)];
    for ns in [s.p50_ns, s.p90_ns, s.p99_ns, s.p999_ns, s.max_ns] {
        row.push(if s.count == 0 { "-".to_string() } else { duration(ns) });
    }
    row
}

/// The lines that list the entries of a breakdown.
pub fn worst_lines(entries: &[PerEntry]) -> Vec<String> {
    let mut rows =
        vec![cells(&["worst run-queue wait", "max", "mean", "waits", "wakeup max", "wakeup mean"])];
    for e in entries {
        let name = if e.name == e.comm { e.name.clone() } else { format!("{} ({})", e.name, e.comm) };
        rows.push(vec![
            name,
            duration(e.wait.max_ns),
            duration(e.wait.mean_ns()),
            grouped(e.wait.count),
            duration(e.wakeup.max_ns),
            duration(e.wakeup.mean_ns()),
        ]);
    }
    aligned(&rows)
}

impl Sample {
    /// The report, line by line: the distributions, the rates, and the ten worst if there is a breakdown.
    pub fn report_lines(&self) -> Vec<String> {
        let mut lines = aligned(&[
            cells(&["", "count", "p50", "p90", "p99", "p99.9", "max"]),
            distribution("wakeup latency", &self.wakeup),
            distribution("run-queue wait", &self.wait),
            distribution("on-CPU slice", &self.slice),
        ]);
        lines.push(format!(
            "{} context switches ({}/s), {} migrations in {}",
            grouped(self.switches),
            grouped(self.switches_per_second().round() as u64),
            grouped(self.migrations),
            duration(self.duration_ns),
        ));
        if !self.per.is_empty() {
            lines.push(String::new());
            lines.extend(worst_lines(&self.per[..self.per.len().min(WORST)]));
        }
        if self.per_missed != 0 {
            lines.push(format!(
                "{} waits are missing in this list: too many entries",
                grouped(self.per_missed)
            ));
        }
        lines
    }
}

/// The report.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report_lines().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::sample::tests::entry;

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (9_996, "10.0 us"),
            (99_960, "100 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_999_999, "1.00 s"),
            (10_000_000_000, "10.0 s"),
            (123_400_000_000, "123 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn table() {
        let sample = Sample {
            wakeup: [3_000, 3_000].into_iter().collect(),
            wait: [3_000, 3_000, 40_000_000].into_iter().collect(),
            slice: Histogram::default(),
            migrations: 123,
            switches: 12_345,
            duration_ns: 10_000_000_000,
            per: vec![entry("hackbench", &[40_000_000, 3_000])],
            per_missed: 0,
        };
        let expected = "                count      p50      p90      p99    p99.9      max
wakeup latency      2  2.98 us  3.00 us  3.00 us  3.00 us  3.00 us
run-queue wait      3  2.98 us  40.0 ms  40.0 ms  40.0 ms  40.0 ms
on-CPU slice        0        -        -        -        -        -
12,345 context switches (1,235/s), 123 migrations in 10.0 s

worst run-queue wait      max     mean  waits  wakeup max  wakeup mean
hackbench             40.0 ms  20.0 ms      2     40.0 ms      20.0 ms";
        assert_eq!(sample.to_string(), expected);
    }
}
