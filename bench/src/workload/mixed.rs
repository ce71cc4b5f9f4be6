// SPDX-License-Identifier: GPL-2.0-only
//! Everything at once: periodic threads that must not be late, batch work on all CPUs, and a crowd that
//! mostly sleeps.

use std::time::Duration;

use anyhow::{Result, ensure};
use framework::latency::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::hog::hog;
use super::results::{Results, merged};
use super::sys::{exact_timers, now, sleep_until};
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, percentiles, spin, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Time between two releases of a critical thread, ns; about that of a small audio buffer.
const PERIOD: u64 = 5_000_000;
/// Its work, us: with a thread for every two CPUs 5 % of the CPUs.
const CRITICAL_US: u64 = 500;
/// Sleepers a CPU. They ask for some 4 % of it.
const SLEEPERS: u32 = 4;
/// How long they sleep, us.
const SLEEP_US: std::ops::Range<u64> = 1000..10_000;
/// What they do then, us.
const WORK_US: std::ops::Range<u64> = 20..100;

/// The mix.
pub struct Mixed;

/// What a thread has counted.
enum Counted {
    Critical(Critical),
    /// Millions of iterations.
    Hog(f64),
    /// Sleeps and the work after them.
    Sleeper(u64),
}

#[derive(Default)]
struct Critical {
    wakeup: Histogram,
    periods: u64,
    missed: u64,
}

impl Workload for Mixed {
    fn spec(&self) -> WorkloadSpec {
        let mut metrics = percentiles("critical_wakeup", &[50.0, 99.0, 99.9]);
        metrics.extend([
            value("critical_missed", "%", Better::Lower),
            value("hog_throughput", "Mspins/s", Better::Higher),
            value("io_ops", "ops/s", Better::Higher),
        ]);
        WorkloadSpec {
            name: "mixed".into(),
            family: "mixed".into(),
            description: "periodic threads (5 ms), a CPU hog a CPU and many sleepers: lateness and missed \
                          periods of the first, throughput of the others"
                .into(),
            command: None,
            metrics,
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let spins_per_us = context.spins_per_us;
        let mut bodies = Vec::new();
        let criticals = context.cpus.div_ceil(2);
        for n in 0..criticals {
            let offset = PERIOD * u64::from(n) / u64::from(criticals);
            bodies.push(Body::new("critical", move |phase| {
                Counted::Critical(critical(phase, offset, CRITICAL_US * spins_per_us))
            }));
        }
        for _ in 0..context.cpus {
            bodies.push(Body::new("hog", move |phase| Counted::Hog(hog(phase, spins_per_us))));
        }
        for n in 0..SLEEPERS * context.cpus {
            // Streams of their own; with the plain sum, thread 1 of a seed would be thread 0 of the next.
            let rng = SmallRng::seed_from_u64(context.seed << 16 | u64::from(n));
            bodies
                .push(Body::new("sleeper", move |phase| Counted::Sleeper(sleeper(phase, rng, spins_per_us))));
        }
        let (counted, took) = run_threads(context, bodies)?;
        results(counted, took)
    }
}

/// Works once a period. One that overruns goes on with the next release that is still to come.
fn critical(phase: &PhaseCell, offset: u64, work: u64) -> Critical {
    exact_timers();
    let mut counted = Critical::default();
    let mut release = now() + offset;
    while !phase.over() {
        sleep_until(release);
        let late = now() - release;
        spin(work);
        let overrun = periods_over(release, now());
        if phase.measuring() {
            counted.wakeup.record(late);
            counted.periods += 1 + overrun;
            // The one that was too late, and those that had to be left out.
            counted.missed += if overrun > 0 { 1 + overrun } else { 0 };
        }
        release += (1 + overrun) * PERIOD;
    }
    counted
}

/// Releases that have passed, `end` being when the work released at `release` was done.
fn periods_over(release: u64, end: u64) -> u64 {
    (end - release) / PERIOD
}

fn sleeper(phase: &PhaseCell, mut rng: SmallRng, spins_per_us: u64) -> u64 {
    let mut ops = 0;
    while !phase.over() {
        std::thread::sleep(Duration::from_micros(rng.random_range(SLEEP_US)));
        spin(rng.random_range(WORK_US) * spins_per_us);
        if phase.measuring() {
            ops += 1;
        }
    }
    ops
}

fn results(counted: Vec<Counted>, took: Duration) -> Result<Measured> {
    let (mut criticals, mut spins, mut ops) = (Vec::new(), 0.0, 0);
    for one in counted {
        match one {
            Counted::Critical(critical) => criticals.push(critical),
            Counted::Hog(done) => spins += done,
            Counted::Sleeper(done) => ops += done,
        }
    }
    let periods: u64 = criticals.iter().map(|c| c.periods).sum();
    let missed: u64 = criticals.iter().map(|c| c.missed).sum();
    ensure!(
        periods > 0,
        "critical_missed: no period ended while it was measured; the critical threads starved"
    );
    Ok(Results::default()
        .histogram("critical_wakeup", &merged(criticals.iter().map(|c| &c.wakeup)))?
        .value("critical_missed", missed as f64 * 100.0 / periods as f64)?
        .rate("hog_throughput", spins, took)?
        .rate("io_ops", ops as f64, took)?
        .measured())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overruns() {
        assert_eq!(periods_over(10, 10 + PERIOD - 1), 0);
        assert_eq!(periods_over(10, 10 + PERIOD), 1);
        assert_eq!(periods_over(10, 10 + 5 * PERIOD / 2), 2);
    }

    #[test]
    fn missed_periods_are_a_share() {
        let critical = Critical { wakeup: [1000].into_iter().collect(), periods: 8, missed: 2 };
        let counted = vec![Counted::Critical(critical), Counted::Hog(3.0), Counted::Sleeper(5)];
        let measured = results(counted, Duration::from_secs(1)).unwrap();
        assert_eq!(measured.values["critical_missed"], 25.0);
        assert_eq!(measured.values["io_ops"], 5.0);
    }

    #[test]
    fn starved_threads_are_an_error() {
        let starved = vec![Counted::Critical(Critical::default()), Counted::Hog(3.0), Counted::Sleeper(5)];
        assert!(results(starved, Duration::from_secs(1)).is_err());
    }
}
