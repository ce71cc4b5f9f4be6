// SPDX-License-Identifier: GPL-2.0-only
//! The arithmetic of shares.

/// Jain's fairness index of what each got in proportion to what it was due: 1 is fair, 1/n is all for one.
///
/// R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination for Resource Allocation in
/// Shared Computer Systems, DEC-TR-301, 1984.
pub fn jain(relative: &[f64]) -> f64 {
    let sum: f64 = relative.iter().sum();
    let squares: f64 = relative.iter().map(|x| x * x).sum();
    sum * sum / (relative.len() as f64 * squares)
}

/// Shares out `total` by weight, no more than `cap` each: what one cannot use goes to the others, by their
/// weights (water-filling, weighted max-min fairness).
pub fn ideal(weights: &[f64], total: f64, cap: f64) -> Vec<f64> {
    let mut shares = vec![cap; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).collect();
    let mut left = total;
    while !open.is_empty() {
        let level = left / open.iter().map(|&i| weights[i]).sum::<f64>();
        let (full, rest): (Vec<_>, Vec<_>) = open.iter().partition(|&&i| weights[i] * level > cap);
        if full.is_empty() {
            rest.iter().for_each(|&i| shares[i] = weights[i] * level);
            break;
        }
        left -= cap * full.len() as f64;
        open = rest;
    }
    shares
}

/// The kernel's weight of a nice value (`sched_prio_to_weight` in kernel/sched/core.c): each step is 10 % of
/// CPU time.
pub fn weight_of_nice(nice: i32) -> f64 {
    const WEIGHTS: [u32; 40] = [
        88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906,
        3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45,
        36, 29, 23, 18, 15,
    ];
    WEIGHTS[(nice.clamp(-20, 19) + 20) as usize].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn jain_of_extremes() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
    }

    #[test]
    fn weights() {
        assert_eq!([-20, 0, 5, 19].map(weight_of_nice), [88761.0, 1024.0, 335.0, 15.0]);
    }

    #[test]
    fn shares_by_weight() {
        assert_eq!(ideal(&[1.0, 3.0], 8.0, 10.0), [2.0, 6.0]);
    }

    #[test]
    fn a_full_one_leaves_the_rest_to_the_others() {
        assert_eq!(ideal(&[10.0, 1.0, 1.0], 2.0, 1.0), [1.0, 0.5, 0.5]);
        // Twice over: with the first one full, the second is too.
        assert_eq!(ideal(&[100.0, 10.0, 1.0, 1.0], 3.0, 1.0), [1.0, 1.0, 0.5, 0.5]);
        assert_eq!(ideal(&[1.0, 1.0], 3.0, 1.0), [1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(weights in prop::collection::vec(1.0f64..1000.0, 1..20), part in 0.01f64..1.0) {
            let total = part * weights.len() as f64;
            let shares = ideal(&weights, total, 1.0);
            prop_assert!((shares.iter().sum::<f64>() - total).abs() < 1e-9 * total.max(1.0));
            prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        }
    }
}
