// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the analysis: above all, that it calls what is there and nothing else.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::against::against;
use super::*;
use crate::fixture;
use crate::model::{Kind, Measured};
use crate::workload::value;

/// Normal noise with a standard deviation of `sd`, relative.
fn noise(rng: &mut SmallRng, sd: f64) -> f64 {
    // Twelve uniform values have variance 1 (Irwin and Hall).
    1.0 + sd * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

/// Two contenders, `metrics` metrics, so many runs; the second contender's values are `shift` times as large.
fn two(mode: Mode, metrics: usize, runs: u32, shift: f64, sd: f64, seed: u64) -> Report {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut report = fixture::empty(Kind::Compare, mode);
    report.settings.contenders = vec!["a".into(), "b".into()];
    report.workloads.truncate(1);
    let names: Vec<String> = (0..metrics).map(|n| format!("m{n}")).collect();
    report.workloads[0].metrics = names.iter().map(|name| value(name, "us", Better::Lower)).collect();
    for round in 0..runs {
        for (contender, factor) in [("a", 1.0), ("b", shift)] {
            let values = names.iter().map(|name| (name.clone(), 100.0 * factor * noise(&mut rng, sd)));
            report.cells.push(Cell {
                contender: contender.into(),
                workload: report.workloads[0].name.clone(),
                cpus: 4,
                round,
                seed: u64::from(round),
                measured: Measured { values: values.collect(), ..Measured::default() },
            });
        }
    }
    report
}

fn count(report: &Report, verdict: Verdict) -> usize {
    analyse(report).iter().filter(|c| c.verdict == verdict).count()
}

fn called(report: &Report) -> usize {
    count(report, Verdict::Better) + count(report, Verdict::Worse) + count(report, Verdict::Changed)
}

#[test]
fn a_contender_does_not_differ_from_itself() {
    for mode in [Mode::Vm, Mode::Deterministic] {
        let wrong: usize = (0..12)
            .map(|seed| called(&two(mode, 30, 5, 1.0, [0.003, 0.02, 0.1][seed as usize % 3], seed)))
            .sum();
        // Holm's bound is 12 reports * 1 %.
        assert!(wrong <= 1, "{mode:?}: {wrong} of 360 comparisons");
    }
}

#[test]
fn a_difference_of_five_percent_is_seen() {
    for seed in 0..20 {
        assert_eq!(count(&two(Mode::Vm, 30, 5, 1.05, 0.005, seed), Verdict::Worse), 30, "seed {seed}");
        assert_eq!(count(&two(Mode::Vm, 30, 5, 0.95, 0.005, seed), Verdict::Better), 30, "seed {seed}");
    }
}

#[test]
fn small_differences_are_not_called() {
    assert_eq!(called(&two(Mode::Vm, 5, 5, 1.005, 0.0, 1)), 0);
}

#[test]
fn identical_values_have_ratio_one() {
    for mode in [Mode::Vm, Mode::Deterministic] {
        for runs in 1..5 {
            let mut report = two(mode, 3, runs, 1.0, 0.1, 9);
            for index in 0..report.cells.len() / 2 {
                report.cells[2 * index + 1].measured = report.cells[2 * index].measured.clone();
            }
            for comparison in analyse(&report).iter().filter(|c| c.contender == "b") {
                assert_eq!(comparison.ratio, Some(1.0));
                assert!(comparison.interval.unwrap().contains(1.0));
                let expected = if runs > 1 { Verdict::Same } else { Verdict::Unknown };
                assert_eq!(comparison.verdict, expected);
            }
        }
    }
}

#[test]
fn constants_that_differ() {
    for mode in [Mode::Vm, Mode::Deterministic] {
        assert_eq!(count(&two(mode, 3, 2, 1.1, 0.0, 0), Verdict::Worse), 3);
        assert_eq!(count(&two(mode, 3, 1, 1.1, 0.0, 0), Verdict::Unknown), 3);
    }
}

#[test]
fn zeros_have_no_ratio() {
    let mut report = two(Mode::Vm, 1, 3, 1.0, 0.0, 0);
    let mut set = |contender: &str, value: f64| {
        for cell in report.cells.iter_mut().filter(|cell| cell.contender == contender) {
            cell.measured.values.insert("m0".into(), value);
        }
        analyse(&report).pop().unwrap()
    };
    set("a", 0.0);
    let some = set("b", 5.0);
    assert_eq!((some.ratio, some.interval, some.p, some.verdict), (None, None, None, Verdict::Unknown));
    assert_eq!(some.estimate, Some(5.0));
    let none = set("b", 0.0);
    assert_eq!((none.ratio, none.verdict), (None, Verdict::Same));
    assert_eq!(set("b", -1.0).verdict, Verdict::Unknown);
}

#[test]
fn neither_better_nor_worse() {
    let mut report = two(Mode::Vm, 1, 3, 1.5, 0.001, 0);
    report.workloads[0].metrics[0].better = Better::Neither;
    assert_eq!(count(&report, Verdict::Changed), 1);
    report.workloads[0].metrics[0].better = Better::Higher;
    assert_eq!(count(&report, Verdict::Better), 1);
}

#[test]
fn pairs_have_equal_seeds() {
    // What a seed makes of both is far more than their difference.
    let mut report = two(Mode::Deterministic, 1, 5, 1.1, 0.001, 0);
    for cell in &mut report.cells {
        let spread = 1.0 + cell.seed as f64;
        cell.measured.values.values_mut().for_each(|value| *value *= spread);
    }
    assert_eq!(count(&report, Verdict::Worse), 1);
    report.settings.mode = Mode::Vm;
    assert_eq!(count(&report, Verdict::Same), 1);
    // A run that failed on one side leaves its pair out.
    report.settings.mode = Mode::Deterministic;
    report.cells.remove(0);
    let b = analyse(&report).pop().unwrap();
    assert!((b.ratio.unwrap() - 1.1).abs() < 0.01, "{:?}", b.ratio);
    report.cells.retain(|cell| cell.contender == "b" || cell.seed == 1);
    assert_eq!(count(&report, Verdict::Unknown), 1);
}

#[test]
fn percentiles_are_of_merged_histograms() {
    let report = fixture::compare();
    for comparison in analyse(&report).iter().filter(|c| c.metric == "request_p99") {
        let mut merged = framework::latency::Histogram::default();
        for cell in cells_of(&report, 8, &comparison.workload, &comparison.contender) {
            merged.merge(&(&cell.measured.histograms["request"]).into());
        }
        let expected = merged.percentile(99.0).unwrap() as f64 * 1e-3;
        let estimate = comparison.estimate.unwrap();
        assert!((estimate / expected - 1.0).abs() < 1.0 / 32.0, "{estimate} instead of {expected}");
        assert!(comparison.ratio.is_none_or(|ratio| comparison.interval.unwrap().contains(ratio)));
    }
}

#[test]
fn flags() {
    let comparisons = analyse(&fixture::compare());
    let outlier = comparisons
        .iter()
        .find(|c| c.workload == "schbench-full" && c.metric == "rps" && c.contender == "fifo");
    assert_eq!(outlier.unwrap().flags, [Flag::Outliers]);
    let noisy = comparisons.iter().filter(|c| c.metric == "fairness_gap");
    assert!(noisy.clone().any(|c| c.flags.contains(&Flag::Noisy)), "{:?}", noisy.collect::<Vec<_>>());
}

#[test]
fn where_scaling_stops() {
    let limits = scaling_limits(&analyse(&fixture::scale()));
    let found: Vec<_> =
        limits.iter().map(|l| (l.contender.as_str(), l.workload.as_str(), l.from_cpus, l.cpus)).collect();
    assert_eq!(found, [("fifo", "pipe", 4, 16)]);
    assert!(limits[0].factor > 2.0);
    assert!(scaling_limits(&[]).is_empty());
}

#[test]
fn regressions_against_an_earlier_report() {
    let before = fixture::compare();
    assert!(against(&before, &before).regressions.is_empty());
    let mut after = before.clone();
    for cell in after.cells.iter_mut().filter(|c| c.contender == "fifo" && c.workload == "pipe") {
        cell.measured.values.entry("per_switch".into()).and_modify(|value| *value *= 1.2);
    }
    let found = against(&after, &before).regressions;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].comparison.contender.as_str(), found[0].comparison.metric.as_str()),
        ("fifo", "per_switch")
    );
    assert!((found[0].comparison.ratio.unwrap() - 1.2).abs() < 1e-9);
    assert!(found[0].was.unwrap() < found[0].comparison.estimate.unwrap());
    // The other way round it is an improvement.
    assert!(against(&before, &after).regressions.is_empty());

    after.cells.retain(|c| !(c.contender == "fifo" && c.workload == "pipe"));
    let missing = against(&after, &before).missing;
    assert!(missing.contains(&"fifo, pipe per_switch, 8 CPUs".to_owned()), "{missing:?}");
}
