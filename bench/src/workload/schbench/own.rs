// SPDX-License-Identifier: GPL-2.0-only
//! Our load with schbench's model; see [the module above](super) for the differences.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use framework::latency::Histogram;

use super::Shape;
use super::matrix::{CpuLocks, Matrices};
use crate::model::Measured;
use crate::workload::hog::hog;
use crate::workload::results::{Results, merged};
use crate::workload::sys::{futex_wait, futex_wake, now};
use crate::workload::threads::{Body, run_threads};
use crate::workload::{Context, PhaseCell};

/// States of a [`Post`]: who owns it may go on, or waits to be woken.
const RUN: u32 = 0;
const WAIT: u32 = 1;

/// A message thread and its workers.
struct Team {
    /// Bell of the message thread.
    bell: AtomicU32,
    posts: Vec<Post>,
}

/// Where a worker waits; a cache line holds the state and the time, as in schbench.
#[derive(Default)]
#[repr(align(64))]
struct Post {
    state: AtomicU32,
    /// When the message thread began to wake, ns.
    woken_at: AtomicU64,
}

#[derive(Default)]
struct Counted {
    wakeup: Histogram,
    request: Histogram,
    /// A hog's, in millions.
    spins: f64,
}

pub fn run(context: &mut Context<'_>, shape: Shape) -> Result<Measured> {
    let locks = CpuLocks::new();
    let teams: Vec<Team> = (0..shape.messengers).map(|_| Team::new(shape.workers)).collect();
    let mut bodies = Vec::new();
    for team in &teams {
        bodies.push(Body::new("messenger", |phase| {
            team.deliver(phase);
            Counted::default()
        }));
        for post in &team.posts {
            let locks = &locks;
            bodies.push(Body::new("worker", move |phase| team.work(post, phase, shape.sleep_us, locks)));
        }
    }
    let spins_per_us = context.spins_per_us;
    for _ in 0..shape.hogs {
        bodies.push(Body::new("hog", move |phase| Counted {
            spins: hog(phase, spins_per_us),
            ..Counted::default()
        }));
    }
    let (counted, took) = run_threads(context, bodies)?;
    let request = merged(counted.iter().map(|c| &c.request));
    let results = Results::default()
        .histogram("wakeup", &merged(counted.iter().map(|c| &c.wakeup)))?
        .histogram("request", &request)?
        .rate("rps", request.count() as f64, took)?;
    if shape.hogs == 0 {
        return Ok(results.measured());
    }
    let spins = counted.iter().map(|c| c.spins).sum();
    Ok(results.rate("hog_throughput", spins, took)?.measured())
}

impl Team {
    fn new(workers: u32) -> Self {
        Team { bell: AtomicU32::new(RUN), posts: (0..workers).map(|_| Post::default()).collect() }
    }

    /// The message thread: wakes the workers that wait, whenever one rings.
    fn deliver(&self, phase: &PhaseCell) {
        while !phase.over() {
            // Those that ring from here on ring for the next time.
            self.bell.store(WAIT, Ordering::SeqCst);
            self.wake_waiting();
            futex_wait(&self.bell, WAIT);
        }
        self.wake_waiting();
    }

    /// One time for all of a batch: if the first that is woken gets the CPU of the message thread, the others
    /// feel it.
    fn wake_waiting(&self) {
        let at = now();
        for post in &self.posts {
            if post.state.load(Ordering::SeqCst) == WAIT {
                post.woken_at.store(at, Ordering::Relaxed);
                post.state.store(RUN, Ordering::Release);
                futex_wake(&post.state, 1);
            }
        }
    }

    /// A worker: asks for a message, thinks, works.
    fn work(&self, post: &Post, phase: &PhaseCell, sleep_us: u32, locks: &CpuLocks) -> Counted {
        let (mut counted, mut matrices) = (Counted::default(), Matrices::default());
        while let Some(wakeup) = self.next_message(post, phase) {
            if phase.measuring() {
                counted.wakeup.record(wakeup);
            }
            let begun = now();
            std::thread::sleep(Duration::from_micros(sleep_us.into()));
            locks.locked(phase, || matrices.work());
            let request = now() - begun;
            if phase.measuring() {
                counted.request.record(request);
            }
        }
        // So that the message thread, too, sees that it is over.
        self.ring();
        counted
    }

    /// Waits to be woken; returns how long that took, ns, or nothing if the phase is over.
    fn next_message(&self, post: &Post, phase: &PhaseCell) -> Option<u64> {
        post.state.store(WAIT, Ordering::SeqCst);
        self.ring();
        while post.state.load(Ordering::Acquire) == WAIT {
            if phase.over() {
                return None;
            }
            futex_wait(&post.state, WAIT);
        }
        Some(now() - post.woken_at.load(Ordering::Relaxed))
    }

    fn ring(&self) {
        if self.bell.swap(RUN, Ordering::SeqCst) == WAIT {
            futex_wake(&self.bell, 1);
        }
    }
}
