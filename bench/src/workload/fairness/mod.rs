// SPDX-License-Identifier: GPL-2.0-only
//! Whether CPU time is shared out by weight: among threads by their nice values, and among control groups.

mod groups;
mod shares;
mod threads;

use anyhow::{Result, ensure};

use super::results::Results;
use super::value;
use crate::model::{Better, MetricSpec};

pub use groups::FairGroups;
pub use threads::FairThreads;

fn metrics() -> Vec<MetricSpec> {
    vec![value("jain", "", Better::Higher), value("share_error", "%", Better::Lower)]
}

/// Compares the time that each got, in whatever unit, with what its weight entitles it to; nobody can use more
/// than `cap`.
fn results(times: &[f64], weights: &[f64], cap: f64) -> Result<Results> {
    let total: f64 = times.iter().sum();
    ensure!(total > 0.0, "jain: nobody got CPU time while it was measured; the load starved");
    let ideal = shares::ideal(weights, total, cap);
    let relative: Vec<f64> = times.iter().zip(&ideal).map(|(time, ideal)| time / ideal).collect();
    let error = relative.iter().map(|share| (share - 1.0).abs()).fold(0.0, f64::max);
    Results::default().value("jain", shares::jain(&relative))?.value("share_error", error * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn just_shares() {
        let measured = results(&[1.0, 3.0], &[100.0, 300.0], 4.0).unwrap().measured();
        assert_eq!(measured.values["jain"], 1.0);
        assert_eq!(measured.values["share_error"], 0.0);
    }

    #[test]
    fn the_worst_share_counts() {
        let measured = results(&[2.0, 2.0], &[100.0, 300.0], 4.0).unwrap().measured();
        assert!((measured.values["share_error"] - 100.0).abs() < 1e-9);
        assert!(results(&[0.0, 0.0], &[1.0, 1.0], 1.0).is_err());
    }
}
