// SPDX-License-Identifier: GPL-2.0-only
//! What single operations cost. Meant for deterministic machines with one CPU, where a nanosecond is an
//! instruction and whatever is not the operation stands still.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::pingpong;
use super::results::Results;
use super::sys::{futex_wait, futex_wake, thread_cpu_time};
use super::threads::{Body, run_threads};
use super::{Context, PhaseCell, Workload, find_program, value};
use crate::model::{Better, Measured, WorkloadSpec};
use crate::op_cost;

/// Threads that are woken one after the other.
const SLEEPERS: usize = 32;
/// Between two rounds of wakeups: time for all to run and sleep again.
const PAUSE: Duration = Duration::from_millis(5);

/// The operations.
pub enum Cost {
    /// Waking a thread, as the waker pays for it.
    Wakeup,
    /// Starting a process and waiting for its end.
    Spawn,
    /// Each op of the scheduler.
    Ops,
}

impl Workload for Cost {
    fn spec(&self) -> WorkloadSpec {
        let (name, description, metrics) = match self {
            Cost::Wakeup => (
                "cost-wakeup",
                "CPU time (deterministic: instructions) of the waker for waking a sleeping thread",
                vec![value("per_wakeup", "ns", Better::Lower)],
            ),
            Cost::Spawn => (
                "cost-spawn",
                "time (deterministic: instructions) from fork to exit of a process that does nothing (sh -c :)",
                vec![value("per_spawn", "ns", Better::Lower)],
            ),
            Cost::Ops => (
                "cost-ops",
                "time (deterministic: instructions) of each op of the scheduler, by the kernel's accounting of BPF \
                 programs, which adds its own: pipe ping-pong and threads that come and go",
                op_cost::metrics(),
            ),
        };
        WorkloadSpec {
            name: name.into(),
            family: "cost".into(),
            description: description.into(),
            command: None,
            metrics,
        }
    }

    fn missing(&self) -> Option<String> {
        let needs_sh = matches!(self, Cost::Spawn) && find_program("sh").is_none();
        needs_sh.then(|| "sh is not in PATH; install a shell".to_owned())
    }

    fn counts_ops(&self) -> bool {
        matches!(self, Cost::Ops)
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        match self {
            Cost::Wakeup => wakeups(context),
            Cost::Spawn => spawns(context),
            Cost::Ops => exercise(context),
        }
    }
}

/// A thread that waits to be woken.
#[derive(Default)]
struct Sleeper {
    word: AtomicU32,
}

fn wakeups(context: &mut Context<'_>) -> Result<Measured> {
    let sleepers: Vec<Arc<Sleeper>> = (0..SLEEPERS).map(|_| Arc::default()).collect();
    let mut bodies: Vec<_> = sleepers
        .iter()
        .cloned()
        .map(|sleeper| {
            Body::new("cost-sleeper", move |phase: &PhaseCell| {
                while !phase.over() {
                    let seen = sleeper.word.load(Ordering::Relaxed);
                    futex_wait(&sleeper.word, seen);
                }
                (0, 0)
            })
        })
        .collect();
    bodies.push(Body::new("cost-waker", move |phase: &PhaseCell| wake_all(&sleepers, phase)));
    let (counted, _) = run_threads(context, bodies)?;
    let (wakeups, time) = counted.last().copied().unwrap_or_default();
    ensure!(wakeups > 0, "no thread was woken while it was measured; measure longer (--seconds)");
    Ok(Results::default().value("per_wakeup", time as f64 / wakeups as f64)?.measured())
}

/// Returns how many it woke while it was measured, and what that took of its CPU time, ns.
fn wake_all(sleepers: &[Arc<Sleeper>], phase: &PhaseCell) -> (u64, u64) {
    let (mut wakeups, mut time) = (0, 0);
    while !phase.over() {
        thread::sleep(PAUSE);
        let counts = phase.measuring();
        let begun = thread_cpu_time();
        for sleeper in sleepers {
            sleeper.word.fetch_add(1, Ordering::Relaxed);
            futex_wake(&sleeper.word, 1);
        }
        if counts {
            time += thread_cpu_time() - begun;
            wakeups += sleepers.len() as u64;
        }
    }
    (wakeups, time)
}

fn spawns(context: &mut Context<'_>) -> Result<Measured> {
    let (counted, _) = run_threads(context, vec![Body::new("cost-spawn", spawn_without_end)])?;
    let (spawns, time) = counted.into_iter().next().context("the thread that spawns is missing")??;
    ensure!(spawns > 0, "no process ended while it was measured; measure longer (--seconds)");
    Ok(Results::default().value("per_spawn", time as f64 / f64::from(spawns))?.measured())
}

/// Returns how many processes began and ended while it was measured, and what they took, ns.
fn spawn_without_end(phase: &PhaseCell) -> Result<(u32, u64)> {
    let mut command = Command::new("sh");
    command.args(["-c", ":"]).stdin(Stdio::null()).stdout(Stdio::null());
    let (mut spawns, mut time) = (0, 0);
    while !phase.over() {
        let (counts, begun) = (phase.measuring(), Instant::now());
        let status = command.status().context("cannot start sh")?;
        ensure!(status.success(), "sh failed ({status})");
        if counts {
            spawns += 1;
            time += u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    Ok((spawns, time))
}

/// Has every op called. What it costs is counted from outside.
fn exercise(context: &mut Context<'_>) -> Result<Measured> {
    let (ping, pong) = pingpong::pair()?;
    let bodies = vec![
        Body::new("cost-ping", move |phase: &PhaseCell| ping.serve(phase, || ())),
        Body::new("cost-pong", move |_: &PhaseCell| pong.return_all()),
        Body::new("cost-threads", |phase: &PhaseCell| {
            while !phase.over() {
                thread::sleep(PAUSE);
                // What it returns is nothing; that it panicked is impossible.
                let _ = thread::spawn(|| ()).join();
            }
        }),
    ];
    run_threads(context, bodies)?;
    Ok(Measured::default())
}
