// SPDX-License-Identifier: GPL-2.0-only
//! Numbers for people: three significant digits and a unit that suits them.

use framework::latency::grouped;

/// Three significant digits, without an exponent.
pub fn three(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".into() } else { "-".into() };
    }
    // What would be rounded up to the next power of ten counts as that.
    let magnitude = (value.abs() * 1.000_5).log10().floor() as i32;
    format!("{value:.*}", (2 - magnitude).clamp(0, 9) as usize)
}

/// Nanoseconds in a unit of time, if it is one.
fn nanoseconds(unit: &str) -> Option<f64> {
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)]
        .into_iter()
        .find(|(u, _)| *u == unit)
        .map(|(_, ns)| ns)
}

/// A unit of time that suits a duration: its name and length in ns.
fn unit_of_time(ns: f64) -> (&'static str, f64) {
    match ns.abs() {
        n if n < 999.5 => ("ns", 1.0),
        n if n < 999.5e3 => ("us", 1e3),
        n if n < 999.5e6 => ("ms", 1e6),
        _ => ("s", 1e9),
    }
}

/// A value with its unit: `12.3 us`, `1.23M msg/s`, `4,321 instructions`.
pub fn quantity(value: f64, unit: &str) -> String {
    if let Some(ns) = nanoseconds(unit) {
        let (unit, length) = unit_of_time(value * ns);
        return format!("{} {unit}", three(value * ns / length));
    }
    let number = match value.abs() {
        // A number of things, unless it is a mean of some.
        n if unit.is_empty() && n < 999.5 && n.fract() == 0.0 => format!("{value}"),
        n if n < 999.5 => three(value),
        n if !unit.contains("/s") && n < 1e7 && value > 0.0 => grouped(value.round() as u64),
        n if n < 999.5e3 => format!("{}k", three(value / 1e3)),
        n if n < 999.5e6 => format!("{}M", three(value / 1e6)),
        _ => format!("{}G", three(value / 1e9)),
    };
    match unit {
        "" => number,
        unit if unit.starts_with('/') => format!("{number}{unit}"),
        unit => format!("{number} {unit}"),
    }
}

/// A value at a tick of an axis: as few digits as it takes.
pub fn tick(value: f64, unit: &str) -> String {
    let text = quantity(value, unit);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{unit}")
}

/// A ratio: `0.843x`, `1.12x`.
pub fn ratio(ratio: f64) -> String {
    format!("{}x", three(ratio))
}

/// A ratio as a difference: `+12.3 %`.
pub fn percent(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    let decimals = if percent.abs() < 9.995 {
        2
    } else if percent.abs() < 99.95 {
        1
    } else {
        0
    };
    if ratio == 1.0 { "0 %".into() } else { format!("{percent:+.decimals$} %") }
}

/// A probability.
pub fn p(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1.00"),
            (0.042_13, "0.0421"),
            (9.999, "10.0"),
            (99.96, "100"),
            (0.999_9, "1.00"),
            (-1.234, "-1.23"),
            (12_345.0, "12345"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(three(value), text, "{value}");
        }
    }

    #[test]
    fn units() {
        for (value, unit, text) in [
            (0.0, "us", "0 ns"),
            (0.5, "us", "500 ns"),
            (12_345.0, "us", "12.3 ms"),
            (1_420.0, "ns", "1.42 us"),
            (999.9, "ns", "1.00 us"),
            (1_234_567.0, "msg/s", "1.23M msg/s"),
            (45_678.0, "/s", "45.7k/s"),
            (2_345.0, "instructions", "2,345 instructions"),
            (0.04, "", "0.0400"),
            (4.0, "", "4"),
            (4.5, "", "4.50"),
        ] {
            assert_eq!(quantity(value, unit), text);
        }
        assert_eq!(tick(1000.0, "ns"), "1 us");
        assert_eq!(tick(200_000.0, "ns"), "200 us");
        assert_eq!(tick(1_500_000.0, "/s"), "1.5M/s");
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio(1.0), "1.00x");
        assert_eq!(ratio(0.8434), "0.843x");
        assert_eq!(percent(1.0), "0 %");
        assert_eq!(percent(1.1234), "+12.3 %");
        assert_eq!(percent(0.995), "-0.50 %");
        assert_eq!(p(0.000_01), "< 0.0001");
    }
}
