// SPDX-License-Identifier: GPL-2.0-only
//! Requests of an open loop: when they arrive does not depend on how fast they are served.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::Exp;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrives, ns after the beginning.
    pub at: u64,
    /// Work that it needs, us.
    pub service_us: u64,
}

/// Work of a request.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Of most, us.
    pub short_us: u64,
    /// Of the others, us.
    pub long_us: u64,
    /// Share of the others, 0 to 1.
    pub long_share: f64,
}

impl Service {
    /// All alike.
    pub fn fixed(us: u64) -> Self {
        Service { short_us: us, long_us: us, long_share: 0.0 }
    }

    fn mean_us(&self) -> f64 {
        self.short_us as f64 * (1.0 - self.long_share) + self.long_us as f64 * self.long_share
    }
}

/// A stream of requests without end.
pub struct Stream {
    arrivals: Vec<Arrival>,
    /// After which it repeats itself, ns.
    period: u64,
}

impl Stream {
    /// Poisson arrivals that need `cpus` CPUs on average, drawn from `seed` for the length of `period`, after
    /// which they come again.
    pub fn poisson(seed: u64, cpus: f64, service: Service, period: Duration) -> Result<Self> {
        let period = period.as_nanos() as u64;
        let per_ns = cpus / (service.mean_us() * 1e3);
        ensure!(per_ns * period as f64 >= 1.0, "the time is too short for a single request");
        let gap = Exp::new(per_ns).context("no such rate of arrivals")?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut arrivals = Vec::with_capacity((per_ns * period as f64 * 1.1) as usize);
        let mut at = rng.sample(gap);
        // The first one always, so that there is a stream whatever the seed.
        while arrivals.is_empty() || at < period as f64 {
            let service_us =
                if rng.random_bool(service.long_share) { service.long_us } else { service.short_us };
            arrivals.push(Arrival { at: at as u64, service_us });
            at += rng.sample(gap);
        }
        Ok(Stream { arrivals, period })
    }

    /// The `n`th request, from 0.
    pub fn get(&self, n: u64) -> Arrival {
        let len = self.arrivals.len() as u64;
        let Arrival { at, service_us } = self.arrivals[(n % len) as usize];
        Arrival { at: at + n / len * self.period, service_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIMODAL: Service = Service { short_us: 20, long_us: 2000, long_share: 0.005 };

    fn stream(seed: u64) -> Stream {
        Stream::poisson(seed, 2.0, BIMODAL, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(stream(7).arrivals, stream(7).arrivals);
        assert_ne!(stream(7).arrivals, stream(8).arrivals);
    }

    #[test]
    fn the_load_is_what_was_asked_for() {
        let stream = stream(1);
        let work: u64 = stream.arrivals.iter().map(|a| a.service_us).sum();
        let cpus = work as f64 / 10e6;
        assert!((1.9..2.1).contains(&cpus), "{cpus}");
        let long = stream.arrivals.iter().filter(|a| a.service_us == BIMODAL.long_us).count();
        let share = long as f64 / stream.arrivals.len() as f64;
        assert!((0.0045..0.0055).contains(&share), "{share}");
    }

    #[test]
    fn gaps_are_memoryless() {
        // The standard deviation of an exponential distribution is its mean.
        let arrivals = stream(1).arrivals;
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&(variance.sqrt() / mean)));
    }

    #[test]
    fn it_never_ends_nor_goes_back() {
        let stream = stream(3);
        let len = stream.arrivals.len() as u64;
        assert!((0..3 * len).is_sorted_by_key(|n| stream.get(n).at));
        assert_eq!(stream.get(len).at, stream.get(0).at + 10_000_000_000);
    }

    #[test]
    fn no_time_for_any() {
        assert!(Stream::poisson(1, 0.1, BIMODAL, Duration::from_micros(1)).is_err());
    }
}
