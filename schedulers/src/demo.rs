// SPDX-License-Identifier: GPL-2.0-only
//! The demonstration load: a CPU hog a CPU, as many pairs that pass messages, and sleepers that wake often.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A stop flag and a count of what was done, for one kind of thread.
struct Work<'a> {
    stop: &'a AtomicBool,
    done: &'a AtomicU64,
}

pub fn run(seconds: u64) -> Result<ExitCode> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let (stop, spins, messages, wakeups) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        for n in 0..cpus {
            let (left, right) = UnixStream::pair().context("making a socket pair")?;
            let spawn = |name: &str| thread::Builder::new().name(format!("demo-{name}-{n}"));
            let work = |done| Work { stop: &stop, done };
            let (hog, ping, pong, sleeper) = (work(&spins), work(&messages), work(&messages), work(&wakeups));
            spawn("hog").spawn_scoped(scope, move || spin(&hog))?;
            spawn("ping").spawn_scoped(scope, move || pass(left, true, &ping))?;
            spawn("pong").spawn_scoped(scope, move || pass(right, false, &pong))?;
            spawn("sleep").spawn_scoped(scope, move || doze(&sleeper))?;
        }
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    println!(
        "demo: {cpus} hogs, {cpus} message pairs, {cpus} sleepers for {:.1} s: {} million spins, {} messages, {} wakeups",
        start.elapsed().as_secs_f64(),
        spins.load(Ordering::Relaxed) / 1_000_000,
        messages.load(Ordering::Relaxed),
        wakeups.load(Ordering::Relaxed)
    );
    Ok(ExitCode::SUCCESS)
}

fn spin(work: &Work<'_>) {
    const BATCH: u64 = 1 << 16;
    while !work.stop.load(Ordering::Relaxed) {
        (0..BATCH).for_each(|n| {
            std::hint::black_box(n);
        });
        work.done.fetch_add(BATCH, Ordering::Relaxed);
    }
}

/// Passes one byte to and fro. Ends when either side hangs up, which it does once told to stop.
fn pass(mut stream: UnixStream, begins: bool, work: &Work<'_>) {
    let mut byte = [0];
    let mut go = || -> std::io::Result<()> {
        if begins {
            stream.write_all(&byte)?;
        }
        loop {
            stream.read_exact(&mut byte)?;
            work.done.fetch_add(1, Ordering::Relaxed);
            if work.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            stream.write_all(&byte)?;
        }
    };
    // An error is the other side hanging up.
    let _ = go();
}

fn doze(work: &Work<'_>) {
    while !work.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(2));
        work.done.fetch_add(1, Ordering::Relaxed);
    }
}
