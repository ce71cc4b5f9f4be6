// SPDX-License-Identifier: GPL-2.0-only
//! A server with a moderate, steady rate of requests beside batch work of the same priority.

use anyhow::Result;
use framework::latency::Histogram;

use super::arrivals::{Service, Stream};
use super::hog::hog;
use super::results::{Results, merged};
use super::server::Server;
use super::threads::{Body, run_threads};
use super::{Context, Workload, percentiles, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// Work of a request, us.
const SERVICE_US: u64 = 200;
/// Offered load, of all CPUs.
const LOAD: f64 = 0.2;
/// Batch threads a CPU.
const HOGS: u32 = 2;

/// The server and its antagonists.
pub struct Antagonist;

enum Counted {
    Dispatcher(Result<()>),
    Worker(Histogram),
    Hog(f64),
}

impl Workload for Antagonist {
    fn spec(&self) -> WorkloadSpec {
        let mut metrics = percentiles("response", &[50.0, 99.0, 99.9]);
        metrics.push(value("served", "req/s", Better::Higher));
        metrics.push(value("batch_throughput", "Mspins/s", Better::Higher));
        WorkloadSpec {
            name: "antagonist".into(),
            family: "antagonist".into(),
            description: format!(
                "a server (open loop, {SERVICE_US} us a request, {} % of the CPUs) beside {HOGS} batch threads a CPU",
                LOAD * 100.0
            ),
            command: None,
            metrics,
        }
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let (cpus, spins_per_us) = (f64::from(context.cpus), context.spins_per_us);
        let period = context.warm_up + context.seconds;
        let stream = Stream::poisson(context.seed, LOAD * cpus, Service::fixed(SERVICE_US), period)?;
        let server = Server::new(stream, context);
        let mut bodies = vec![Body::new("dispatcher", |phase| Counted::Dispatcher(server.dispatch(phase)))];
        for _ in 0..Server::workers() {
            bodies.push(Body::new("worker", |phase| {
                Counted::Worker(server.work(phase, |_, response| response))
            }));
        }
        for _ in 0..HOGS * context.cpus {
            bodies.push(Body::new("batch", move |phase| Counted::Hog(hog(phase, spins_per_us))));
        }
        let (counted, took) = run_threads(context, bodies)?;
        let (mut responses, mut spins) = (Vec::new(), 0.0);
        for one in counted {
            match one {
                Counted::Dispatcher(outcome) => outcome?,
                Counted::Worker(histogram) => responses.push(histogram),
                Counted::Hog(done) => spins += done,
            }
        }
        let response = merged(&responses);
        Ok(Results::default()
            .histogram("response", &response)?
            .rate("served", response.count() as f64, took)?
            .rate("batch_throughput", spins, took)?
            .measured())
    }
}
