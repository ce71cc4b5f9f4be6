// SPDX-License-Identifier: GPL-2.0-only
//! Measures replacing one scheduler by another under load: what tasks feel of it, in the same way whatever does it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use framework::control::{self, Request, Response, SwapRequest};
use framework::kernel::{is_enabled, monotonic_ns};
use framework::latency::LatencyMeter;
use framework::report::SwapReport;
use framework::swap::Via;

use crate::attach::Attached;
use crate::job::{Event, Job, NamedCommand, SwapHow, SwapVia};
use crate::measure::tell;
use crate::model::{Failure, Machine, SwapCell, TimelinePoint};
use crate::swap_load;
use crate::workload::sys::set_fifo;

/// How long to look before a swap is asked for, and after it is complete.
const MARGIN: Duration = Duration::from_millis(500);
/// What is watched of each swap besides the swap itself: the margins on either side.
pub const WATCHED: Duration = Duration::from_secs(1);
/// Length of a step of the timeline; reading the histograms may make it longer.
const STEP: Duration = Duration::from_millis(25);
/// The load alone, before the first swap.
const SETTLE: Duration = Duration::from_secs(1);
const MS: f64 = 1e6;

/// Does the swaps of a job, telling of each.
pub fn run(job: &Job, vias: &[SwapVia], swaps: u32, machine: &Machine, scratch: &Path) -> Result<()> {
    let mut meter = LatencyMeter::start(None)?;
    for round in 0..job.rounds {
        for via in vias {
            tell(&Event::Begin { who: via.label.clone(), what: "swaps".into(), round });
            let place = Place { via, round, seed: job.seed + u64::from(round), cpus: machine.cpus };
            if let Err(error) = one_way(&place, swaps, machine, scratch, &mut meter) {
                tell(&Event::Failed(Failure {
                    contender: via.label.clone(),
                    workload: None,
                    round,
                    message: format!("{error:#}"),
                }));
            }
        }
    }
    Ok(())
}

/// Where a swap stands in the report.
struct Place<'a> {
    via: &'a SwapVia,
    round: u32,
    seed: u64,
    cpus: u32,
}

/// Swaps there and back under load.
fn one_way(
    place: &Place<'_>,
    swaps: u32,
    machine: &Machine,
    scratch: &Path,
    meter: &mut LatencyMeter,
) -> Result<()> {
    swap_load::under(machine, || {
        // Schedulers are started and asked by an ordinary thread, as they are without us. It lives as long as they
        // do: they are ended when it ends.
        let swapper = || {
            let mut schedulers = Schedulers::start(place.via, scratch)?;
            thread::sleep(SETTLE);
            for turn in 0..swaps as usize {
                tell(&Event::Swap(watched(place, meter, || schedulers.swap(turn))?));
            }
            schedulers.stop()
        };
        thread::scope(|scope| joined(scope.spawn(swapper)))
    })
}

/// Does one swap and watches from before to after.
///
/// The watching thread is a real-time one and waits for nobody: what an ordinary thread does for it might need its
/// CPU. (A channel between the two would do: whoever has been woken by one spins until the other has let go.)
fn watched(
    place: &Place<'_>,
    meter: &mut LatencyMeter,
    swap: impl FnOnce() -> Result<SwapReport>,
) -> Result<SwapCell> {
    let over = AtomicBool::new(false);
    let (report, steps) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(meter, &over));
        thread::sleep(MARGIN);
        let report = swap();
        thread::sleep(MARGIN);
        over.store(true, Ordering::Relaxed);
        (report, joined(watcher))
    });
    let (mut report, steps) = (report?, steps?);
    fill_in(&mut report, &steps);
    let flip = report.flipped_at_ns;
    Ok(SwapCell {
        via: place.via.label.clone(),
        cpus: place.cpus,
        round: place.round,
        seed: place.seed,
        timeline: steps.iter().filter(|step| near(step, flip)).map(|step| step.point(flip)).collect(),
        report,
    })
}

fn watch(meter: &mut LatencyMeter, over: &AtomicBool) -> Result<Vec<Step>> {
    // It must see what happens while the load has all CPUs.
    set_fifo()?;
    let mut steps = Vec::new();
    drop(meter.rotate()?);
    while !over.load(Ordering::Relaxed) {
        steps.push(step(meter)?);
    }
    Ok(steps)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A step of the timeline.
struct Step {
    end_ns: u64,
    worst_wait_ns: u64,
    switches_per_second: f64,
    enabled: bool,
}

impl Step {
    fn point(&self, flip: u64) -> TimelinePoint {
        TimelinePoint {
            at_ms: (self.end_ns as f64 - flip as f64) / MS,
            worst_wait_ns: self.worst_wait_ns,
            switches_per_second: self.switches_per_second,
            enabled: self.enabled,
        }
    }
}

fn step(meter: &mut LatencyMeter) -> Result<Step> {
    thread::sleep(STEP);
    let sample = meter.rotate()?;
    Ok(Step {
        end_ns: monotonic_ns(),
        worst_wait_ns: sample.wait.max(),
        switches_per_second: sample.switches_per_second(),
        enabled: is_enabled(),
    })
}

/// Verifying may take seconds, in which nothing happens that the timeline should show.
fn near(step: &Step, flip: u64) -> bool {
    step.end_ns + u64::try_from(MARGIN.as_nanos()).unwrap_or(0) > flip
}

/// The worst waits as the timeline has them, the same for every way: in as long before the flip as after it.
fn fill_in(report: &mut SwapReport, steps: &[Step]) {
    let flip = report.flipped_at_ns;
    let margin = u64::try_from(MARGIN.as_nanos()).unwrap_or(0);
    let across = report.outside_ns + margin;
    let worst = |from: u64, to: u64| {
        steps.iter().filter(|s| s.end_ns > from && s.end_ns <= to).map(|s| s.worst_wait_ns).max()
    };
    report.worst_before_ns = worst(flip.saturating_sub(margin), flip);
    report.worst_across_ns = worst(flip, flip + across);
    report.window_ms = margin as f64 / MS;
}

/// The scheduler in charge, and what takes its place.
struct Schedulers<'a> {
    how: &'a SwapHow,
    scratch: &'a Path,
    running: Option<Attached>,
}

impl<'a> Schedulers<'a> {
    fn start(via: &'a SwapVia, scratch: &'a Path) -> Result<Self> {
        let first = match &via.how {
            SwapHow::Ask { start, .. } => start,
            SwapHow::Restart { commands, .. } => &commands[0],
        };
        let running = Some(Attached::start(&named(first), scratch)?);
        Ok(Schedulers { how: &via.how, scratch, running })
    }

    /// Takes off whatever is in charge.
    fn stop(mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Attached::stop)
    }

    fn swap(&mut self, turn: usize) -> Result<SwapReport> {
        match self.how {
            SwapHow::Ask { policies, reload, .. } => {
                ask(&policies[(turn + 1) % 2], *reload).or_else(|error| {
                    // If it has gone, its last words say more.
                    self.running.as_mut().map_or(Ok(()), Attached::check)?;
                    Err(error)
                })
            }
            SwapHow::Restart { names, commands } => {
                let (old, new) = (turn % 2, (turn + 1) % 2);
                self.restart(&names[old], &names[new], &commands[new])
            }
        }
    }

    /// Ends one program and starts another.
    fn restart(&mut self, old: &str, new: &str, command: &[String]) -> Result<SwapReport> {
        let running = self.running.take().context("no scheduler is running")?;
        let asked = Instant::now();
        let watch = Watch::start();
        running.stop()?;
        self.running = Some(Attached::start(&named(command), self.scratch)?);
        let took = asked.elapsed();
        let (left_at_ns, outside_ns) = watch.finish()?;
        // Its verifying is part of the time outside; nobody counts what is carried over.
        Ok(SwapReport {
            flipped_at_ns: left_at_ns,
            flip_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            outside_ns,
            ..SwapReport::new(old.into(), new.into(), Via::Reload)
        })
    }
}

fn named(command: &[String]) -> NamedCommand {
    NamedCommand { label: command.join(" "), command: Some(command.to_vec()) }
}

/// Asks the running scx_run.
fn ask(policy: &str, reload: bool) -> Result<SwapReport> {
    let request = SwapRequest {
        policy: policy.into(),
        params: Vec::new(),
        config: None,
        via: if reload { Via::Reload } else { Via::Slots },
        hold_ms: 0,
        // We look ourselves, the same way for all.
        window_ms: 0,
        max_delay_ms: None,
    };
    match control::call(&control::dir(), &Request::Swap(request))? {
        Some(Response::Swapped(report)) => Ok(*report),
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!("scx_run answers something else than was asked"),
        None => bail!("scx_run is not running any more"),
    }
}

/// Watches how long no sched_ext scheduler is in charge.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(Option<u64>, u64)>>,
}

impl Watch {
    /// Between two looks: what is measured is exact to this.
    const PERIOD: Duration = Duration::from_millis(1);

    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            // It must see what happens while the load has all CPUs.
            set_fifo()?;
            let (mut left_at, mut back_at) = (None, 0);
            while !stopped.load(Ordering::Relaxed) {
                // More would keep a slow machine busy, and from ending and starting schedulers.
                if !is_enabled() {
                    back_at = monotonic_ns();
                    left_at.get_or_insert(back_at);
                }
                thread::sleep(Self::PERIOD);
            }
            Ok((left_at, back_at))
        });
        Watch { stop, thread }
    }

    /// When it was left, and for how long, both ns.
    fn finish(self) -> Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let (left_at, back_at) =
            self.thread.join().map_err(|_| anyhow!("the watching thread panicked"))??;
        let left_at =
            left_at.context("the scheduler was restarted without anybody seeing that it was off")?;
        Ok((left_at, back_at - left_at))
    }
}
