// SPDX-License-Identifier: GPL-2.0-only
//! A server under an open loop: a dispatcher that wakes a pool of workers, a request each.
//!
//! A request has a thread of its own, which sleeps before it: so it is in servers with a thread for each connection,
//! and in those of the papers that [`bursty`](super::bursty) is after, whose schedulers see requests. In a pool whose
//! workers take from a common queue whatever comes next, a worker with many short requests would look like one with
//! a long one, and whoever is preempted would hold up a request that another worker was woken for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Result;
use framework::latency::Histogram;

use super::arrivals::{Arrival, Stream};
use super::sys::{LOOK_AGAIN, futex_wait, futex_wake, now, set_fifo, sleep_until};
use super::{Context, PhaseCell, spin};

/// Workers: more than there are requests at any time, unless these are served in the order of arrival, and then it makes
/// no difference. In a small pool requests would wait for each other in that order, behind long ones that have all
/// workers, whatever the scheduler does.
const WORKERS: u32 = 200;

/// Requests and who serves them: the holder of a request's number.
pub struct Server {
    stream: Stream,
    spins_per_us: u64,
    /// [`now`] when the stream began.
    begun: AtomicU64,
    /// The next number that a worker without one takes.
    next: AtomicU32,
    /// How many requests had arrived when the latest one came whose number has this seat, modulo their count. The
    /// futex of the worker with that number.
    seats: Vec<AtomicU32>,
}

impl Server {
    /// A server for a stream.
    pub fn new(stream: Stream, context: &Context<'_>) -> Self {
        Server {
            stream,
            spins_per_us: context.spins_per_us,
            begun: AtomicU64::new(0),
            next: AtomicU32::new(0),
            seats: (0..Server::workers()).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// How many workers the pool should have.
    pub fn workers() -> u32 {
        WORKERS
    }

    fn seat(&self, number: u32) -> &AtomicU32 {
        &self.seats[number as usize % self.seats.len()]
    }

    /// What the dispatcher does: lets requests arrive when they are due and wakes a worker for each.
    ///
    /// It is a real-time thread, so that no contender has a say in when requests arrive.
    pub fn dispatch(&self, phase: &PhaseCell) -> Result<()> {
        set_fifo()?;
        let begun = now();
        self.begun.store(begun, Ordering::Relaxed);
        let mut number = 0;
        while !phase.over() {
            let due = begun + self.stream.get(u64::from(number)).at;
            let at = now();
            if due > at {
                sleep_until(due.min(at + LOOK_AGAIN.as_nanos() as u64));
                continue;
            }
            let seat = self.seat(number);
            number += 1;
            seat.store(number, Ordering::Release);
            futex_wake(seat, 1);
        }
        // Idle workers look at the phase.
        self.seats.iter().for_each(|seat| futex_wake(seat, 1));
        Ok(())
    }

    /// What a worker does. Returns what `sample` makes of the requests that were completed while it was
    /// measured and the time from arrival to completion, ns.
    pub fn work(&self, phase: &PhaseCell, sample: impl Fn(Arrival, u64) -> u64) -> Histogram {
        let mut samples = Histogram::default();
        while let Some(arrival) = self.take(phase) {
            spin(arrival.service_us * self.spins_per_us);
            let response = now().saturating_sub(self.begun.load(Ordering::Relaxed) + arrival.at);
            if phase.measuring() {
                samples.record(sample(arrival, response));
            }
        }
        samples
    }

    /// Takes the next number and waits for that request. `None` when it is over.
    fn take(&self, phase: &PhaseCell) -> Option<Arrival> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = self.seat(number);
        while !phase.over() {
            let arrived = seat.load(Ordering::Acquire);
            if arrived > number {
                return Some(self.stream.get(u64::from(number)));
            }
            futex_wait(seat, arrived);
        }
        None
    }
}
