// SPDX-License-Identifier: GPL-2.0-only
//! Log-linear histograms of durations, with the buckets of `bpf/latency.bpf.c`.

use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

use crate::intf;

const SUB_BITS: u32 = intf::lat_consts_LAT_SUB_BITS;
const MAX_BITS: u32 = intf::lat_consts_LAT_MAX_BITS;
const BUCKETS: usize = intf::lat_consts_LAT_BUCKETS as usize;

/// The bucket that a duration is counted in.
pub fn bucket_of(ns: u64) -> usize {
    if ns >> MAX_BITS != 0 {
        return BUCKETS - 1;
    }
    // The value is shifted down to its SUB_BITS + 1 leading bits; shorter ones are buckets of their own.
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((shift as usize) << SUB_BITS) + (ns >> shift) as usize
}

/// The durations that a bucket counts; the last bucket also counts everything longer.
///
/// # Panics
///
/// If there is no such bucket.
pub fn bucket_range(bucket: usize) -> RangeInclusive<u64> {
    assert!(bucket < BUCKETS, "bucket {bucket} of {BUCKETS}");
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let first = ((bucket - (shift << SUB_BITS)) as u64) << shift;
    first..=first + (1 << shift) - 1
}

/// How often durations occurred. Percentiles are within 1/32 of the true order statistic for durations below
/// 2^36 ns (68.7 s); count, sum and maximum are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

/// What a report says about a histogram; durations in ns, 0 where there are no samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Samples.
    pub count: u64,
    /// Mean.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Longest, exact.
    pub max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket_of(ns)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(ns);
        self.max = self.max.max(ns);
    }

    /// Adds what one CPU has counted in the kernel.
    ///
    /// The number of samples is taken from the buckets, so that it agrees with them even while the CPU goes on.
    pub(super) fn add_kernel(&mut self, hist: &intf::lat_hist) {
        for (bucket, n) in self.buckets.iter_mut().zip(hist.buckets) {
            *bucket += u64::from(n);
            self.count += u64::from(n);
        }
        self.sum = self.sum.saturating_add(hist.sum);
        self.max = self.max.max(hist.max);
    }

    /// Adds another histogram's samples.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, n) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += n;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// A histogram out of what another was taken apart into: `(bucket, count)`, the sum and the maximum.
    /// Buckets that do not exist count as the last one.
    pub fn from_parts(buckets: impl IntoIterator<Item = (u32, u64)>, sum: u64, max: u64) -> Self {
        let mut hist = Self { sum, max, ..Self::default() };
        for (bucket, n) in buckets {
            hist.buckets[(bucket as usize).min(BUCKETS - 1)] += n;
            hist.count += n;
        }
        hist
    }

    /// `(bucket, count)` of the buckets that are not empty, ascending.
    pub fn non_empty(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.buckets.iter().zip(0..).filter(|(n, _)| **n > 0).map(|(n, bucket)| (bucket, *n))
    }

    /// Samples.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Total of the samples, ns.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The longest sample in ns, 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean in ns, if there are samples.
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }

    /// The duration in ns that `p` percent of the samples do not exceed (nearest rank), if there are samples.
    pub fn percentile(&self, p: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((p / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        // The longest sample is known exactly, and is the best guess for what exceeds the buckets' range.
        if rank == self.count || (bucket == BUCKETS - 1 && self.max >> MAX_BITS != 0) {
            return Some(self.max);
        }
        let range = bucket_range(bucket);
        Some(range.start().midpoint(*range.end()).min(self.max))
    }

    /// The figures that a report shows.
    pub fn summary(&self) -> Summary {
        let percentile = |p| self.percentile(p).unwrap_or(0);
        Summary {
            count: self.count,
            mean_ns: self.mean().unwrap_or(0),
            p50_ns: percentile(50.0),
            p90_ns: percentile(90.0),
            p99_ns: percentile(99.0),
            p999_ns: percentile(99.9),
            max_ns: self.max,
        }
    }
}

impl FromIterator<u64> for Histogram {
    fn from_iter<I: IntoIterator<Item = u64>>(durations: I) -> Self {
        let mut hist = Self::default();
        durations.into_iter().for_each(|ns| hist.record(ns));
        hist
    }
}

/// Serializes the summary.
impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.summary().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Durations of every magnitude that the buckets cover.
    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let duration = (0..MAX_BITS, any::<u64>()).prop_map(|(bits, raw)| raw & ((2 << bits) - 1));
        prop::collection::vec(duration, 1..300)
    }

    #[test]
    fn buckets_tile_the_range() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let range = bucket_range(bucket);
            assert_eq!(*range.start(), next);
            assert_eq!(bucket_of(*range.start()), bucket);
            assert_eq!(bucket_of(*range.end()), bucket);
            assert!((range.end() - range.start()) * 32 <= *range.start());
            next = range.end() + 1;
        }
        assert_eq!(next, 1 << MAX_BITS);
        assert_eq!(bucket_of(next), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn empty() {
        let hist = Histogram::default();
        assert_eq!(hist.percentile(50.0), None);
        assert_eq!(hist.mean(), None);
        assert_eq!(hist.summary(), Summary::default());
    }

    #[test]
    fn beyond_the_buckets_the_maximum_answers() {
        let hist: Histogram = [1, 1 << 40, 1 << 41].into_iter().collect();
        assert_eq!(hist.percentile(50.0), Some(1 << 41));
        assert_eq!(hist.percentile(1.0), Some(1));
        assert_eq!(hist.max(), 1 << 41);
    }

    #[test]
    fn serializes_the_summary() {
        let hist: Histogram = (1..=32).collect();
        assert_eq!(
            serde_json::to_value(&hist).unwrap(),
            serde_json::json!({ "count": 32, "mean_ns": 16, "p50_ns": 16, "p90_ns": 29, "p99_ns": 32,
                                "p999_ns": 32, "max_ns": 32 })
        );
    }

    proptest! {
        #[test]
        fn bucket_contains_its_durations(ns in 0u64..1 << MAX_BITS) {
            prop_assert!(bucket_range(bucket_of(ns)).contains(&ns));
        }

        #[test]
        fn percentiles_are_within_a_32nd(mut values in durations(), p in 0.0f64..=100.0) {
            let hist: Histogram = values.iter().copied().collect();
            values.sort_unstable();
            let rank = ((p / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let got = hist.percentile(p).unwrap();
            prop_assert!(got.abs_diff(exact) * 32 <= exact, "p{p}: {got} instead of {exact}");
        }

        #[test]
        fn percentiles_are_monotone(values in durations(), p in 0.0f64..=100.0, q in 0.0f64..=100.0) {
            let hist: Histogram = values.into_iter().collect();
            prop_assert!(hist.percentile(p.min(q)) <= hist.percentile(p.max(q)));
            prop_assert!(hist.percentile(p.max(q)).unwrap() <= hist.max());
        }

        #[test]
        fn parts_make_the_whole(values in durations()) {
            let hist: Histogram = values.into_iter().collect();
            prop_assert_eq!(&Histogram::from_parts(hist.non_empty(), hist.sum(), hist.max()), &hist);
        }

        #[test]
        fn merging_is_measuring_together(a in durations(), b in durations()) {
            let mut merged: Histogram = a.iter().copied().collect();
            merged.merge(&b.iter().copied().collect());
            let values = || a.iter().chain(&b).copied();
            prop_assert_eq!(&merged, &values().collect());
            prop_assert_eq!(merged.count(), values().count() as u64);
            prop_assert_eq!(merged.sum(), values().sum::<u64>());
            prop_assert_eq!(Some(merged.max()), values().max());
        }
    }
}
