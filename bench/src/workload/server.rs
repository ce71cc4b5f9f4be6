// SPDX-License-Identifier: GPL-2.0-only
//! A server under an open loop: a dispatcher that wakes a pool of workers, a request each.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Result;
use framework::latency::Histogram;

use super::arrivals::{Arrival, Stream};
use super::sys::{LOOK_AGAIN, futex_wait, futex_wake, now, set_fifo, sleep_until};
use super::{Context, PhaseCell, spin};

/// Workers a CPU: enough for requests that wait and requests that are preempted at the same time.
const WORKERS: u32 = 8;

/// Requests and how far they have got. Those between the two counters wait.
pub struct Server {
    stream: Stream,
    spins_per_us: u64,
    /// [`now`] when the stream began.
    begun: AtomicU64,
    /// Requests that have arrived; the workers' futex.
    arrived: AtomicU32,
    /// Requests that a worker has taken.
    taken: AtomicU32,
}

impl Server {
    /// A server for a stream.
    pub fn new(stream: Stream, context: &Context<'_>) -> Self {
        Server {
            stream,
            spins_per_us: context.spins_per_us,
            begun: AtomicU64::new(0),
            arrived: AtomicU32::new(0),
            taken: AtomicU32::new(0),
        }
    }

    /// How many workers the pool should have.
    pub fn workers(context: &Context<'_>) -> u32 {
        WORKERS * context.cpus
    }

    /// What the dispatcher does: lets requests arrive when they are due and wakes a worker for each.
    ///
    /// It is a real-time thread, so that no contender has a say in when requests arrive.
    pub fn dispatch(&self, phase: &PhaseCell) -> Result<()> {
        set_fifo()?;
        let begun = now();
        self.begun.store(begun, Ordering::Relaxed);
        let mut next = 0;
        while !phase.over() {
            let due = begun + self.stream.get(u64::from(next)).at;
            let at = now();
            if due > at {
                sleep_until(due.min(at + LOOK_AGAIN.as_nanos() as u64));
                continue;
            }
            next += 1;
            self.arrived.store(next, Ordering::Release);
            futex_wake(&self.arrived, 1);
        }
        // Idle workers look at the phase.
        futex_wake(&self.arrived, i32::MAX);
        Ok(())
    }

    /// What a worker does. Returns what `sample` makes of the requests that were completed while it was
    /// measured and the time from arrival to completion, ns.
    pub fn work(&self, phase: &PhaseCell, sample: impl Fn(Arrival, u64) -> u64) -> Histogram {
        let mut samples = Histogram::default();
        while !phase.over() {
            let Some(arrival) = self.take() else { continue };
            spin(arrival.service_us * self.spins_per_us);
            let response = now().saturating_sub(self.begun.load(Ordering::Relaxed) + arrival.at);
            if phase.measuring() {
                samples.record(sample(arrival, response));
            }
        }
        samples
    }

    /// The request that has waited longest. Without one it waits, and may return for no reason.
    fn take(&self) -> Option<Arrival> {
        let arrived = self.arrived.load(Ordering::Acquire);
        // A counter read later may be ahead of `arrived`, never by as much as it takes to wrap around.
        let taken = self.taken.load(Ordering::Relaxed);
        if arrived.wrapping_sub(taken).cast_signed() <= 0 {
            futex_wait(&self.arrived, arrived);
            return None;
        }
        let mine = self.taken.compare_exchange(taken, taken + 1, Ordering::Relaxed, Ordering::Relaxed);
        mine.ok().map(|n| self.stream.get(u64::from(n)))
    }
}
