// SPDX-License-Identifier: GPL-2.0-only
//! The statistics of comparisons: few runs, many metrics. Pure functions of numbers.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 2_000;

/// Seed of the bootstrap: the same report always gives the same intervals.
const SEED: u64 = 0x5c8_be9c4;

/// Differences of logarithms below this are rounding.
const ROUNDING: f64 = 1e-12;

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value is in it.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The median, if there are values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    // The mean of two equal values is that value, without rounding.
    Some(if sorted.len() % 2 == 1 { upper } else { sorted[sorted.len() / 2 - 1].midpoint(upper) })
}

/// The median absolute deviation from the median, unscaled, if there are values.
pub fn mad(values: &[f64]) -> Option<f64> {
    let center = median(values)?;
    median(&values.iter().map(|v| (v - center).abs()).collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Variance of the mean of values. `values` has two or more.
fn mean_variance(values: &[f64]) -> f64 {
    let (mean, n) = (mean(values), values.len() as f64);
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n
}

/// Indices of outliers: modified z-score above 3.5 (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
///
/// Where more than half of the values are equal, the mean absolute deviation takes the place of the MAD, as
/// there. Fewer than three values have no outliers, and what is within 5 % of the median is none either:
/// of five runs one is often that far from the others, and it does not matter.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let (Some(center), Some(mad)) = (median(values), mad(values)) else { return Vec::new() };
    if values.len() < 3 {
        return Vec::new();
    }
    let deviations: Vec<f64> = values.iter().map(|v| (v - center).abs()).collect();
    // Both estimate the standard deviation of a normal distribution.
    let sigma = if mad > 0.0 { mad / 0.6745 } else { 1.253_314 * mean(&deviations) };
    let counts = |d: &f64| *d > 3.5 * sigma && *d > 0.05 * center.abs();
    deviations.iter().enumerate().filter(|(_, d)| counts(d)).map(|(index, _)| index).collect()
}

/// Whether the MAD exceeds 5 % of the median.
pub fn noisy(values: &[f64]) -> bool {
    median(values).zip(mad(values)).is_some_and(|(median, mad)| mad > 0.05 * median.abs())
}

/// `contender / baseline`, if both are positive.
pub fn ratio(contender: f64, baseline: f64) -> Option<f64> {
    let ratio = contender / baseline;
    (contender > 0.0 && baseline > 0.0 && ratio.is_finite()).then_some(ratio)
}

/// How runs are drawn for a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// So many pairs, which are drawn together.
    Paired(usize),
    /// So many of the contender and of the baseline, each drawn on its own.
    Independent(usize, usize),
}

/// Bootstrap percentile interval, 95 %, of the ratio of two estimates (Efron and Tibshirani, An Introduction to
/// the Bootstrap, 1993, chapter 13). The estimators are given the indices of the runs drawn.
///
/// It is widened to hold the ratio of the runs as they are, should that be outside. `None` if that ratio, or more
/// than 5 % of those of the resamples, do not exist.
pub fn bootstrap_ratio(
    runs: Runs,
    contender: impl Fn(&[usize]) -> Option<f64>,
    baseline: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    let of = |a: &[usize], b: &[usize]| ratio(contender(a)?, baseline(b)?);
    let (n, m) = match runs {
        Runs::Paired(n) => (n, n),
        Runs::Independent(n, m) => (n, m),
    };
    if n == 0 || m == 0 {
        return None;
    }
    let (mut a, mut b): (Vec<usize>, Vec<usize>) = ((0..n).collect(), (0..m).collect());
    let point = of(&a, &b)?;
    let mut rng = SmallRng::seed_from_u64(SEED);
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        a.iter_mut().for_each(|index| *index = rng.random_range(0..n));
        if matches!(runs, Runs::Paired(_)) {
            b.copy_from_slice(&a);
        } else {
            b.iter_mut().for_each(|index| *index = rng.random_range(0..m));
        }
        ratios.extend(of(&a, &b));
    }
    if ratios.len() * 20 < RESAMPLES * 19 {
        return None;
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let at = |p: f64| ratios[((ratios.len() - 1) as f64 * p).round() as usize];
    Some(Interval { low: at(0.025).min(point), high: at(0.975).max(point) })
}

/// The probability of a difference at least this large if there is none: two-sided p of a t statistic.
fn p_of(difference: f64, variance: f64, freedom: f64) -> Option<f64> {
    if difference.abs() < ROUNDING {
        return Some(1.0);
    }
    if variance.sqrt() < ROUNDING {
        return Some(0.0);
    }
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some((2.0 * t.sf(difference.abs() / variance.sqrt())).clamp(0.0, 1.0))
}

fn logs(values: &[f64]) -> Option<Vec<f64>> {
    values.iter().map(|v| (*v > 0.0 && v.is_finite()).then(|| v.ln())).collect()
}

/// Welch's t-test (Biometrika 34, 1947) on the logarithms: p for equal geometric means.
///
/// `None` with fewer than two values on a side, or if one is not positive.
pub fn welch_p(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (logs(a)?, logs(b)?);
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let (va, vb) = (mean_variance(&a), mean_variance(&b));
    // Welch and Satterthwaite.
    let freedom = (va + vb).powi(2) / (va.powi(2) / (a.len() - 1) as f64 + vb.powi(2) / (b.len() - 1) as f64);
    p_of(mean(&a) - mean(&b), va + vb, freedom)
}

/// Student's t-test on the logarithms of the ratios of pairs: p for a geometric mean of 1.
///
/// `None` with fewer than two pairs, or if a value is not positive.
pub fn paired_p(a: &[f64], b: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = logs(a)?.iter().zip(logs(b)?).map(|(a, b)| a - b).collect();
    if ratios.len() < 2 {
        return None;
    }
    p_of(mean(&ratios), mean_variance(&ratios), (ratios.len() - 1) as f64)
}

/// Holm's correction (Scandinavian Journal of Statistics 6, 1979): p-values such that all those below a limit are
/// together wrong with at most that probability. What is not tested does not count.
pub fn holm(ps: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = ps.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut adjusted = vec![None; ps.len()];
    let mut least = 0.0f64;
    for (rank, (index, p)) in order.iter().enumerate() {
        least = least.max((p * (order.len() - rank) as f64).min(1.0));
        adjusted[*index] = Some(least);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-6 * b.abs().max(1.0))
    }

    fn interval(a: &[f64], b: &[f64], runs: Runs) -> Option<Interval> {
        let of = |values: &[f64], picks: &[usize]| {
            median(&picks.iter().map(|index| values[*index]).collect::<Vec<_>>())
        };
        bootstrap_ratio(runs, |picks| of(a, picks), |picks| of(b, picks))
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[0.1, 0.1]), Some(0.1));
        assert_eq!(mad(&[1.0]), Some(0.0));
        assert_eq!(mad(&[1.0, 2.0, 4.0, 9.0, 3.0]), Some(1.0));
        assert_eq!(mad(&[]), None);
    }

    #[test]
    fn outliers_stand_out() {
        assert!(outliers(&[]).is_empty());
        assert!(outliers(&[1.0, 100.0]).is_empty());
        assert!(outliers(&[1.0, 1.0, 1.0]).is_empty());
        assert_eq!(outliers(&[10.0, 10.1, 9.9, 10.2, 20.0]), [4]);
        assert_eq!(outliers(&[10.0, 10.0, 20.0, 10.0, 10.0]), [2]);
        assert!(outliers(&[10.0, 10.0, 10.4, 10.0, 10.0]).is_empty());
    }

    #[test]
    fn noise() {
        assert!(!noisy(&[]));
        assert!(!noisy(&[0.0, 0.0]));
        assert!(!noisy(&[100.0, 101.0, 102.0]));
        assert!(noisy(&[80.0, 100.0, 120.0]));
    }

    #[test]
    fn t_tests() {
        let (a, b) = ([1.0f64, 2.0, 3.0, 4.0, 5.0].map(f64::exp), [2.0f64, 3.0, 5.0, 6.0, 9.0].map(f64::exp));
        // t = -2 / sqrt(0.5 + 1.5), df = 4 / (0.0625 + 0.5625) = 6.4.
        assert!((welch_p(&a, &b).unwrap() - 0.204_0).abs() < 2e-3, "{:?}", welch_p(&a, &b));
        // Differences 1, 1, 2, 2, 4: mean 2, sd 1.2247, t = 3.6515, df = 4: p = 0.02174.
        assert!((paired_p(&a, &b).unwrap() - 0.021_74).abs() < 2e-4, "{:?}", paired_p(&a, &b));
    }

    #[test]
    fn degenerate_tests() {
        for test in [welch_p, paired_p] {
            assert_eq!(test(&[1.0], &[1.0]), None);
            assert_eq!(test(&[1.0, 0.0], &[1.0, 2.0]), None);
            assert_eq!(test(&[1.0, 1.0], &[-1.0, 2.0]), None);
            assert_eq!(test(&[0.3, 0.3, 0.3], &[0.3, 0.3, 0.3]), Some(1.0));
            assert_eq!(test(&[0.3, 0.3], &[0.4, 0.4]), Some(0.0));
        }
        assert!(welch_p(&[1.0, 1.0, 1.0], &[1.1, 1.2, 1.3]).unwrap() < 0.1);
        assert_eq!(paired_p(&[1.0, 2.0, 3.0], &[1.1, 2.2, 3.3]), Some(0.0));
    }

    #[test]
    fn ratios_need_positive_values() {
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(0.0, 1.0), None);
        assert_eq!(ratio(0.0, 0.0), None);
        assert_eq!(ratio(-1.0, -1.0), None);
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(interval(&[0.0, 0.0], &[1.0, 1.0], Runs::Paired(2)), None);
        assert_eq!(interval(&[], &[], Runs::Paired(0)), None);
    }

    #[test]
    fn bootstrap_is_reproducible_and_exact_for_constants() {
        let (a, b) = ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]);
        let runs = Runs::Independent(3, 3);
        assert_eq!(interval(&a, &b, runs), interval(&a, &b, runs));
        let one = Interval { low: 1.0, high: 1.0 };
        assert_eq!(interval(&[0.3; 3], &[0.3; 3], runs), Some(one));
        assert_eq!(interval(&[0.3], &[0.3], Runs::Paired(1)), Some(one));
        // Pairs in step have a ratio without noise, however much their values vary.
        let paired = interval(&[1.0, 10.0, 100.0], &[2.0, 20.0, 200.0], Runs::Paired(3));
        assert_eq!(paired, Some(Interval { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn holm_by_hand() {
        let adjusted = holm(&[Some(0.01), None, Some(0.04), Some(0.03), Some(0.005)]);
        let expected = [Some(0.03), None, Some(0.06), Some(0.06), Some(0.02)];
        for (got, expected) in adjusted.iter().zip(expected) {
            assert!(got.is_some() == expected.is_some() && expected.is_none_or(|e| close(*got, e)));
        }
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn interval_contains_the_ratio(
            a in prop::collection::vec(0.001f64..1e6, 1..8),
            b in prop::collection::vec(0.001f64..1e6, 1..8),
        ) {
            let interval = interval(&a, &b, Runs::Independent(a.len(), b.len())).unwrap();
            prop_assert!(interval.contains(median(&a).unwrap() / median(&b).unwrap()));
        }

        #[test]
        fn holm_never_lowers(ps in prop::collection::vec(prop::option::of(0.0f64..=1.0), 0..40)) {
            for (before, after) in ps.iter().zip(holm(&ps)) {
                prop_assert_eq!(before.is_some(), after.is_some());
                prop_assert!(before.zip(after).is_none_or(|(b, a)| a >= b && a <= 1.0));
            }
        }

        #[test]
        fn p_is_symmetric(
            a in prop::collection::vec(0.1f64..10.0, 2..6),
            b in prop::collection::vec(0.1f64..10.0, 2..6),
        ) {
            let (ab, ba) = (welch_p(&a, &b).unwrap(), welch_p(&b, &a).unwrap());
            prop_assert!((ab - ba).abs() < 1e-9 && (0.0..=1.0).contains(&ab));
        }
    }
}
