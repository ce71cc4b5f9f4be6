// SPDX-License-Identifier: GPL-2.0-only
//! Open-loop Poisson arrivals of short requests with a few long ones among them, at a given load.
//!
//! The mix is that of the Shinjuku (NSDI 2019) and ghOSt (SOSP 2021) papers: 99.5 % short and 0.5 % long
//! requests. There they take 0.5 and 500 us, or 4 us and 10 ms; so short a request would measure only what it
//! costs to wake a thread, which those papers' servers never do. The measure is theirs too: slowdown, the time
//! from arrival to completion divided by the work of the request. Head-of-line blocking shows in its tail.

use anyhow::Result;
use framework::latency::Histogram;

use super::arrivals::{Service, Stream};
use super::results::{Results, merged};
use super::server::Server;
use super::threads::{Body, run_threads};
use super::{Context, Workload, value};
use crate::model::{Better, Measured, MetricSpec, Source, WorkloadSpec};

const SERVICE: Service = Service { short_us: 200, long_us: 20_000, long_share: 0.005 };

/// With the load in percent of all CPUs.
pub struct Bursty(pub u32);

enum Counted {
    Dispatcher(Result<()>),
    Worker(Histogram),
}

impl Workload for Bursty {
    fn spec(&self) -> WorkloadSpec {
        // The histogram counts thousandths.
        let slowdown = |name: &str, p| MetricSpec {
            name: format!("slowdown_{name}"),
            unit: "x".into(),
            better: Better::Lower,
            source: Source::Percentile { histogram: "slowdown".into(), p, scale: 1e-3 },
        };
        WorkloadSpec {
            name: format!("bursty-{}", self.0),
            family: "bursty".into(),
            description: format!(
                "open-loop Poisson arrivals, {} us and (0.5 %) {} ms of work, offered load {} % of the CPUs: \
                 time from arrival to completion over work",
                SERVICE.short_us,
                SERVICE.long_us / 1000,
                self.0
            ),
            command: None,
            metrics: vec![
                slowdown("p50", 50.0),
                slowdown("p99", 99.0),
                slowdown("p999", 99.9),
                value("completed", "req/s", Better::Higher),
            ],
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let cpus = f64::from(self.0) / 100.0 * f64::from(context.cpus);
        let stream = Stream::poisson(context.seed, cpus, SERVICE, context.warm_up + context.seconds)?;
        let server = Server::new(stream, context);
        let mut bodies = vec![Body::new("dispatcher", |phase| Counted::Dispatcher(server.dispatch(phase)))];
        for _ in 0..Server::workers() {
            // ns over us are thousandths.
            let slowdown = |phase: &_| server.work(phase, |request, response| response / request.service_us);
            bodies.push(Body::new("worker", move |phase| Counted::Worker(slowdown(phase))));
        }
        let (counted, took) = run_threads(context, bodies)?;
        let mut slowdowns = Vec::new();
        for one in counted {
            match one {
                Counted::Dispatcher(outcome) => outcome?,
                Counted::Worker(histogram) => slowdowns.push(histogram),
            }
        }
        let slowdown = merged(&slowdowns);
        let results = Results::default().histogram("slowdown", &slowdown)?;
        Ok(results.rate("completed", slowdown.count() as f64, took)?.measured())
    }
}
