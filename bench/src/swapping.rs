// SPDX-License-Identifier: GPL-2.0-only
//! Measures replacing one scheduler by another under load: what tasks feel of it, in the same way whatever does it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
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
        // The thread that starts schedulers lives as long as they do: they are ended when it ends.
        thread::scope(|scope| {
            let (ask, asked) = bounded(0);
            let (answer, answers) = bounded(0);
            let via = place.via;
            scope.spawn(move || swapper(via, scratch, &asked, &answer));
            let started = answers.recv().context("the swapping thread is gone")?;
            started?;
            thread::sleep(SETTLE);
            for _ in 0..swaps {
                let cell = watch_one(place, meter, &ask, &answers)?;
                tell(&Event::Swap(cell));
            }
            drop(ask);
            Ok(())
        })
    })
}

/// Watches one swap from before to after.
fn watch_one(
    place: &Place<'_>,
    meter: &mut LatencyMeter,
    ask: &Sender<()>,
    answers: &Receiver<Result<Option<SwapReport>>>,
) -> Result<SwapCell> {
    let mut steps = Vec::new();
    drop(meter.rotate()?);
    let start = Instant::now();
    while start.elapsed() < MARGIN {
        steps.push(step(meter)?);
    }
    ask.send(()).map_err(|_| anyhow!("the swapping thread is gone"))?;
    let report = loop {
        steps.push(step(meter)?);
        if let Ok(answer) = answers.try_recv() {
            break answer?;
        }
    };
    let done = Instant::now();
    while done.elapsed() < MARGIN {
        steps.push(step(meter)?);
    }
    let mut report = report.context("the swap was not reported")?;
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

/// Does a swap each time it is asked to: first answers that it is ready, then with each report.
fn swapper(via: &SwapVia, scratch: &Path, asked: &Receiver<()>, answer: &Sender<Result<Option<SwapReport>>>) {
    let outcome = (|| {
        let mut schedulers = Schedulers::start(via, scratch)?;
        // Who asked is gone only when it has failed itself.
        let _ = answer.send(Ok(None));
        for ((), turn) in asked.iter().zip(0usize..) {
            let report = schedulers.swap(turn)?;
            let _ = answer.send(Ok(Some(report)));
        }
        schedulers.running.take().map_or(Ok(()), Attached::stop)
    })();
    if let Err(error) = outcome {
        let _ = answer.send(Err(error));
    }
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
        Ok(SwapReport {
            from: old.into(),
            to: new.into(),
            via: Via::Reload,
            // It was done while nobody's policy ran, and is part of that time.
            verify_ms: 0.0,
            flipped_at_ns: left_at_ns,
            flip_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            drain_ms: 0.0,
            carried: 0,
            lost: 0,
            window_ms: 0.0,
            worst_before_ns: None,
            worst_across_ns: None,
            outside_ns,
            undone: None,
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
        via: if reload { Via::Reload } else { Via::Slots },
        hold_ms: 0,
        // We look ourselves, the same way for all.
        window_ms: 0,
        max_delay_ms: None,
    };
    match control::call(&control::dir(), &Request::Swap(request))? {
        Some(Response::Swapped(report)) => Ok(*report),
        Some(Response::Error(message)) => bail!(message),
        Some(Response::Status(_)) => bail!("scx_run answers something else than was asked"),
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
