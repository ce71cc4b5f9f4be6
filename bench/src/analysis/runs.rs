// SPDX-License-Identifier: GPL-2.0-only
//! The runs of a contender for a metric, and the estimate of any choice of them.

use framework::latency::{bucket_of, bucket_range};

use crate::model::{Cell, Distribution, MetricSpec, Source};
use crate::stats;

/// Percentiles of any choice of distributions, merged, without merging them each time: a bootstrap asks for thousands.
#[derive(Debug, Clone)]
pub struct Merged {
    /// Buckets that are not empty in one of them at least, ascending.
    buckets: Vec<u32>,
    /// For each distribution, its samples up to and including each of these buckets.
    cumulative: Vec<Vec<u64>>,
    /// The longest of each, exact.
    max: Vec<u64>,
}

impl Merged {
    /// Prepares to merge.
    pub fn new(distributions: &[&Distribution]) -> Self {
        let mut buckets: Vec<u32> =
            distributions.iter().flat_map(|d| d.buckets.iter().map(|(bucket, _)| *bucket)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let cumulative = distributions
            .iter()
            .map(|distribution| {
                let mut counts = vec![0; buckets.len()];
                for (bucket, n) in &distribution.buckets {
                    counts[buckets.partition_point(|b| b < bucket)] += n;
                }
                let sums = counts.iter().scan(0u64, |sum, n| {
                    *sum = sum.saturating_add(*n);
                    Some(*sum)
                });
                sums.collect()
            })
            .collect();
        Merged { buckets, cumulative, max: distributions.iter().map(|d| d.max).collect() }
    }

    /// Samples of the chosen distributions up to and including a bucket.
    fn up_to(&self, picks: &[usize], at: usize) -> u64 {
        picks.iter().map(|pick| self.cumulative[*pick][at]).sum()
    }

    /// The first bucket up to which there are `rank` samples; there are that many in all.
    fn first_reaching(&self, picks: &[usize], rank: u64) -> usize {
        let (mut low, mut high) = (0, self.buckets.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            if self.up_to(picks, middle) < rank { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The value that `p` percent of the chosen distributions' samples do not exceed (nearest rank), if there are
    /// any. A distribution may be chosen more than once.
    ///
    /// It is in the bucket that [`Histogram::percentile`](framework::latency::Histogram::percentile) answers with
    /// the middle of. Here the samples of a bucket are taken to be evenly spread in it: were all of them in its
    /// middle, two runs on either side of a bucket's edge would seem to differ by 3 %, and runs on the same side not at all.
    pub fn percentile(&self, picks: &[usize], p: f64) -> Option<f64> {
        let last = self.buckets.len().checked_sub(1)?;
        let count = self.up_to(picks, last);
        if count == 0 {
            return None;
        }
        let max = picks.iter().map(|pick| self.max[*pick]).max()? as f64;
        let rank = ((p / 100.0 * count as f64).ceil() as u64).clamp(1, count);
        let at = self.first_reaching(picks, rank);
        // Bucket numbers come from a file: one that does not exist counts as the last.
        let overflow = bucket_of(u64::MAX);
        let bucket = (self.buckets[at] as usize).min(overflow);
        let range = bucket_range(bucket);
        if rank == count || (bucket == overflow && max > *range.end() as f64) {
            return Some(max);
        }
        let before = if at == 0 { 0 } else { self.up_to(picks, at - 1) };
        let inside = self.up_to(picks, at) - before;
        let share = ((rank - before) as f64 - 0.5) / inside as f64;
        let (start, end) = (*range.start() as f64, *range.end() as f64);
        Some((start + share * (end - start)).min(max))
    }
}

#[derive(Debug, Clone)]
enum Estimator {
    Median,
    Percentile { merged: Merged, p: f64, scale: f64 },
}

/// The runs of one contender for one metric.
#[derive(Debug, Clone)]
pub struct Runs {
    /// Seeds, one a run.
    pub seeds: Vec<u64>,
    /// Values, one a run, in the metric's unit.
    pub values: Vec<f64>,
    estimator: Estimator,
}

/// The value of a metric in one run, if it was measured.
pub fn value_of(cell: &Cell, metric: &MetricSpec) -> Option<f64> {
    let value = match &metric.source {
        Source::Value => cell.measured.values.get(&metric.name).copied(),
        Source::Percentile { histogram, p, scale } => {
            let distribution = cell.measured.histograms.get(histogram)?;
            Merged::new(&[distribution]).percentile(&[0], *p).map(|value| value * scale)
        }
    };
    value.filter(|value| value.is_finite())
}

impl Runs {
    /// The runs among `cells` in which the metric was measured.
    pub fn collect<'a>(cells: impl IntoIterator<Item = &'a Cell>, metric: &MetricSpec) -> Self {
        let measured: Vec<(&Cell, f64)> =
            cells.into_iter().filter_map(|cell| Some((cell, value_of(cell, metric)?))).collect();
        let estimator = match &metric.source {
            Source::Value => Estimator::Median,
            Source::Percentile { histogram, p, scale } => {
                let of = |(cell, _): &(&'a Cell, f64)| cell.measured.histograms.get(histogram);
                let distributions: Vec<&Distribution> = measured.iter().filter_map(of).collect();
                Estimator::Percentile { merged: Merged::new(&distributions), p: *p, scale: *scale }
            }
        };
        let seeds = measured.iter().map(|(cell, _)| cell.seed).collect();
        Runs { seeds, values: measured.into_iter().map(|(_, value)| value).collect(), estimator }
    }

    /// The estimate from a choice of runs.
    pub fn estimate_of(&self, picks: &[usize]) -> Option<f64> {
        match &self.estimator {
            Estimator::Median => {
                stats::median(&picks.iter().map(|pick| self.values[*pick]).collect::<Vec<_>>())
            }
            Estimator::Percentile { merged, p, scale } => merged.percentile(picks, *p).map(|v| v * scale),
        }
    }

    /// The estimate from all runs.
    pub fn estimate(&self) -> Option<f64> {
        self.estimate_of(&(0..self.values.len()).collect::<Vec<_>>())
    }

    /// Runs of both with the same seed, as indices.
    pub fn pairs(&self, other: &Runs) -> (Vec<usize>, Vec<usize>) {
        let pair = |(i, seed): (usize, &u64)| Some((i, other.seeds.iter().position(|s| s == seed)?));
        self.seeds.iter().enumerate().filter_map(pair).unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::latency::Histogram;
    use proptest::prelude::*;

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let duration = (0u32..40, any::<u64>()).prop_map(|(bits, raw)| raw & ((2 << bits) - 1));
        prop::collection::vec(duration, 0..100)
    }

    #[test]
    fn nothing_measured() {
        assert_eq!(Merged::new(&[]).percentile(&[], 50.0), None);
        assert_eq!(Merged::new(&[&Distribution::default()]).percentile(&[0], 50.0), None);
        let strange = Distribution { buckets: vec![(u32::MAX, 3)], sum: 9, max: 3 };
        assert_eq!(Merged::new(&[&strange]).percentile(&[0], 50.0), Some(3.0));
    }

    #[test]
    fn edges_of_buckets_do_not_jump() {
        // The median is close to the edge of a bucket, from either side.
        let near = |offset: u64| -> Distribution {
            let hist: Histogram = (0..1000).map(|n| 64_536 + n + offset).collect();
            (&hist).into()
        };
        let medians: Vec<f64> =
            [495, 500, 505].map(|n| Merged::new(&[&near(n)]).percentile(&[0], 50.0).unwrap()).to_vec();
        assert!(medians[2] / medians[0] < 1.001, "{medians:?}");
    }

    proptest! {
        #[test]
        fn it_is_in_the_bucket_of_the_merged_histogram(
            runs in prop::collection::vec(durations(), 1..4),
            picks in prop::collection::vec(0usize..4, 1..6),
            p in 0.0f64..=100.0,
        ) {
            let hists: Vec<Histogram> = runs.iter().map(|r| r.iter().copied().collect()).collect();
            let distributions: Vec<Distribution> = hists.iter().map(Distribution::from).collect();
            let picks: Vec<usize> = picks.into_iter().map(|pick| pick % hists.len()).collect();
            let mut whole = Histogram::default();
            picks.iter().for_each(|pick| whole.merge(&hists[*pick]));

            let merged = Merged::new(&distributions.iter().collect::<Vec<_>>());
            let got = merged.percentile(&picks, p);
            prop_assert_eq!(got.is_some(), whole.count() > 0);
            prop_assert_eq!(merged.percentile(&picks, 100.0), whole.percentile(100.0).map(|v| v as f64));
            if let (Some(got), Some(reference)) = (got, whole.percentile(p)) {
                prop_assert_eq!(bucket_of(got as u64), bucket_of(reference));
            }
        }
    }
}
