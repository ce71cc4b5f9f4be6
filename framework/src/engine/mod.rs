// SPDX-License-Identifier: GPL-2.0-only
//! The engine: runs a policy, swaps it for others, measures, and notices when the kernel ends it.
//!
//! It owns every BPF object and lives on one thread. It never waits for a swap: [`Engine::poll`] does what is
//! due and says when to come back, so the caller's loop can serve signals, statistics and the control socket
//! in between. Scheduling itself never depends on it.

mod flip;
mod measure;
mod reload;
mod upgrade;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::control::SwapRequest;
use crate::doctor;
use crate::environ::{Begin, Environ};
use crate::exit::ExitInfo;
use crate::hints::Hints;
use crate::kernel::KernelState;
use crate::latency::{LatencyMeter, Per, Sample};
use crate::pins;
use crate::policy::{Catalogue, ConfigFile, Image, PolicyInForce};
use crate::report::{SlotStatus, Status, SwapReport};
use crate::root::{NR_SLOTS, Root};
use crate::scheduler::Scheduler;
use crate::swap::{Machine, Plan, SlotId, Step, Via};

pub use upgrade::{Adopted, LetGo};

/// What is fixed for the life of an engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// The built-in policies.
    pub catalogue: Catalogue,
    /// Attach the policy by itself, without the root.
    pub direct: bool,
    /// Schedule only tasks of class SCHED_EXT.
    pub partial: bool,
    /// Longest a runnable task may wait before the kernel ends the scheduler, ms; 0: the kernel's default.
    pub timeout_ms: u32,
    /// Ops the root has beyond those of the built-in policies.
    pub extra_ops: BTreeSet<String>,
    /// Measure latency.
    pub measure: bool,
    /// Break latency down by this.
    pub per: Option<Per>,
    /// Pin the scheduler, so that it stays attached when this process ends. Needs the root.
    pub keep: bool,
    /// Programs of all users may hint themselves, not only root's.
    pub user_hints: bool,
}

/// What has been measured under one policy.
pub struct PolicyRun {
    /// The policy and its parameters.
    pub policy: PolicyInForce,
    /// All that was measured while it was in force.
    pub sample: Sample,
}

/// Something the user should hear of.
pub enum Event {
    /// A swap is complete.
    Swapped(Box<SwapReport>),
    /// The policy in force was found wanting, and the one before it is coming back.
    GoingBack(String),
    /// Something else: one line.
    Note(String),
}

/// A swap that has been begun and not reported.
struct Swapping {
    report: SwapReport,
    flipped_at: Option<Instant>,
    /// Nobody runs in the old policy any more.
    quiet: bool,
    drained_before: u64,
    enable_seq: Option<u64>,
    before: Sample,
    across: Sample,
    reply: Option<Sender<Result<SwapReport, String>>>,
}

/// How often a limit on the delay is checked.
const GUARD_PERIOD: Duration = Duration::from_millis(50);
/// How often the queues of a retired slot are looked at.
const DRAIN_PERIOD: Duration = Duration::from_millis(1);

/// A scheduler that is loaded and not attached.
pub struct Prepared {
    config: Config,
    scheduler: Scheduler,
    name: String,
}

impl Prepared {
    /// Name of the policy.
    pub fn policy(&self) -> &str {
        &self.name
    }

    /// Attaches the scheduler.
    pub fn attach(self) -> Result<Engine> {
        let Prepared { config, mut scheduler, .. } = self;
        let meter = config.measure.then(|| LatencyMeter::start(config.per)).transpose()?;
        // Before: once it is attached, a scheduler does not wait until the kernel has verified something else.
        let notes = unbounded();
        let environ = start_environ(&scheduler, &config, Begin::Processes, &notes.0);
        scheduler.activate(config.keep)?;
        let mut engine = Engine::new(config, scheduler, meter)?;
        engine.notes = notes;
        engine.heed_environ(environ);
        engine.discard_window()?;
        engine.open_run()?;
        Ok(engine)
    }
}

/// A policy that takes no hints has none to see to.
fn start_environ(
    scheduler: &Scheduler,
    config: &Config,
    begin: Begin<'_>,
    notes: &Sender<String>,
) -> Option<Result<Environ>> {
    let hints = scheduler.hints().ok()?;
    Some(Environ::start(hints, config.user_hints, begin, notes.clone()))
}

/// The engine.
pub struct Engine {
    config: Config,
    scheduler: Scheduler,
    machine: Machine,
    meter: Option<LatencyMeter>,
    clock: Instant,
    guard_due: Instant,
    runs: Vec<PolicyRun>,
    interval: Sample,
    in_force: PolicyInForce,
    swapping: Option<Swapping>,
    going_back: bool,
    /// When the retired slot was first looked at.
    draining_since: Option<Instant>,
    swaps: VecDeque<SwapReport>,
    nr_swaps: u64,
    events: Vec<Event>,
    /// Sees to hints in the environment, once there is a map of hints.
    environ: Option<Environ>,
    notes: (Sender<String>, Receiver<String>),
    /// Another process is about to take over: no swap may begin.
    offered: bool,
}

impl Engine {
    fn new(config: Config, scheduler: Scheduler, meter: Option<LatencyMeter>) -> Result<Self> {
        let in_force = scheduler.in_force()?;
        let now = Instant::now();
        Ok(Engine {
            config,
            scheduler,
            machine: Machine::default(),
            meter,
            clock: now,
            guard_due: now,
            runs: Vec::new(),
            interval: Sample::default(),
            in_force,
            swapping: None,
            going_back: false,
            draining_since: None,
            swaps: VecDeque::new(),
            nr_swaps: 0,
            events: Vec::new(),
            environ: None,
            notes: unbounded(),
            offered: false,
        })
    }

    /// Loads a scheduler with the policy in it. The kernel has verified everything after this; nothing is
    /// attached.
    pub fn prepare(
        config: Config,
        policy: &str,
        params: &[String],
        file: Option<ConfigFile>,
    ) -> Result<Prepared> {
        let policy = Image::find(config.catalogue, policy)?.open()?.configure(file)?;
        if config.direct && config.keep {
            bail!("--keep needs the root scheduler; leave out --direct");
        }
        if let Some(trouble) = doctor::first_trouble() {
            bail!(trouble);
        }
        if config.keep {
            pins::mount_bpffs().context("--keep pins the scheduler in bpffs")?;
        }
        let name = policy.info().name.clone();
        let scheduler = Scheduler::load(&config, policy, params, None)?;
        Ok(Prepared { config, scheduler, name })
    }

    /// The policy in force.
    pub fn policy(&self) -> &PolicyInForce {
        &self.in_force
    }

    /// Begins a swap, or says why not. The outcome of one that was begun goes to `reply`.
    pub fn swap(
        &mut self,
        request: &SwapRequest,
        reply: Option<Sender<Result<SwapReport, String>>>,
    ) -> Result<()> {
        self.machine.check_idle()?;
        self.check_not_offered()?;
        match request.via {
            Via::Slots => self.begin_flip(request, reply),
            Via::Reload => {
                let report = self.reload(request)?;
                self.finish(report, reply);
                Ok(())
            }
        }
    }

    /// Does whatever is due. Returns how long until something is due again, if anything is.
    ///
    /// Nothing is due once the kernel has ended the scheduler: see [`Engine::ended`].
    pub fn poll(&mut self) -> Result<Option<Duration>> {
        match self.do_what_is_due() {
            // What failed may have failed because the scheduler went away under it. The kernel says why only
            // when it is through with ending it: `ended` will know soon.
            Err(_) if self.ended()?.is_some() || !KernelState::read().enabled() => Ok(None),
            outcome => outcome,
        }
    }

    fn do_what_is_due(&mut self) -> Result<Option<Duration>> {
        self.guard()?;
        loop {
            let now = self.now();
            let step = self.machine.step(now);
            if step != Step::Wait(None) && self.ended()?.is_some() {
                return Ok(None);
            }
            match step {
                Step::Wait(None) => return Ok(None),
                Step::Wait(Some(due)) => {
                    let wait = Duration::from_nanos(due.saturating_sub(now));
                    let guarded = self.machine.max_delay_ns().is_some();
                    return Ok(Some(if guarded { wait.min(GUARD_PERIOD) } else { wait }));
                }
                Step::Flip(slot) => self.flip(slot)?,
                Step::Drain(slot) => {
                    if !self.drain(slot)? {
                        return Ok(Some(DRAIN_PERIOD));
                    }
                }
                Step::Report => self.report()?,
                Step::Retire(slot) => {
                    self.root()?.retire(slot)?;
                    self.machine.retired();
                }
            }
        }
    }

    /// Why the kernel ended the scheduler, if it did.
    pub fn ended(&self) -> Result<Option<ExitInfo>> {
        self.scheduler.ended()
    }

    /// Attaches again after the kernel has ended the scheduler: with another policy, or the same if `None`.
    pub fn recover(&mut self, fallback: Option<&str>) -> Result<()> {
        let reason = "the kernel ended the scheduler during the swap".to_owned();
        if let Some(Swapping { reply: Some(reply), .. }) = self.swapping.take() {
            // Whoever asked may be gone; nobody needs to know then.
            let _ = reply.send(Err(reason));
        }
        self.machine.reset();
        self.draining_since = None;
        // Who is loading over what was attached finds it gone.
        self.offered = false;
        self.end_window()?;
        let last = self.policy().clone();
        self.scheduler.detach()?;
        match fallback {
            Some(name) => self.attach_anew(name, &[], None)?,
            None => self.attach_anew(&last.origin, &last.assignments(), last.config)?,
        }
        self.discard_window()?;
        self.open_run()
    }

    /// Ends the statistics interval: what was measured since the last call.
    pub fn tick(&mut self) -> Result<Sample> {
        self.end_window()?;
        Ok(std::mem::take(&mut self.interval))
    }

    /// What has happened since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        self.events.extend(self.notes.1.try_iter().map(Event::Note));
        std::mem::take(&mut self.events)
    }

    /// What has been measured so far, policy by policy in the order in which they ran.
    pub fn runs(&self) -> &[PolicyRun] {
        &self.runs
    }

    /// Number of swaps done.
    pub fn nr_swaps(&self) -> u64 {
        self.nr_swaps
    }

    /// The hints that policies see.
    pub fn hints(&self) -> Result<Hints> {
        self.scheduler.hints()
    }

    /// Sees to hints in the environment from here on.
    fn watch_environ(&mut self, begin: Begin<'_>) {
        if self.environ.is_none() {
            let environ = start_environ(&self.scheduler, &self.config, begin, &self.notes.0);
            self.heed_environ(environ);
        }
    }

    fn heed_environ(&mut self, environ: Option<Result<Environ>>) {
        match environ {
            Some(Ok(environ)) => self.environ = Some(environ),
            // The scheduler does its work all the same.
            Some(Err(error)) => self.events.push(Event::Note(format!("SCX_HINT is not heeded: {error:#}"))),
            None => {}
        }
    }

    /// The present state.
    pub fn status(&self) -> Status {
        Status {
            kernel: KernelState::read(),
            pid: std::process::id(),
            uptime_s: self.clock.elapsed().as_secs_f64(),
            mode: if self.config.direct { "direct" } else { "slots" }.into(),
            phase: if self.offered { "being taken over" } else { self.machine.name() }.into(),
            keep: matches!(&self.scheduler, Scheduler::Root(root) if root.is_kept()),
            environ: self.environ.as_ref().map(Environ::status),
            slots: self.slots(),
            swaps: self.swaps.iter().cloned().collect(),
            nr_swaps: self.nr_swaps,
        }
    }

    /// Detaches. The kernel's default scheduler takes over; what was measured can still be read.
    pub fn stop(&mut self) -> Result<ExitInfo> {
        self.end_window()?;
        self.scheduler.detach()
    }

    fn slots(&self) -> Vec<SlotStatus> {
        let root = match &self.scheduler {
            Scheduler::Direct(direct) => {
                return vec![SlotStatus {
                    slot: 0,
                    role: "active".into(),
                    policy: direct.in_force().clone(),
                    agent: direct.agent_status(),
                    slow_path: direct.slow_path_status(),
                    counts: direct.counts(),
                }];
            }
            Scheduler::Root(root) => root,
        };
        let role = |slot| match slot {
            slot if Some(slot) == root.active() => "active",
            slot if Some(slot) == root.retired() => "draining",
            slot if Some(slot) == self.machine.held() => "held",
            _ => "loaded",
        };
        (0..NR_SLOTS)
            .map(SlotId::new)
            .filter_map(|slot| {
                Some(SlotStatus {
                    slot: slot.index(),
                    role: role(slot).into(),
                    policy: root.in_slot(slot)?.clone(),
                    agent: root.agent_status(slot),
                    slow_path: root.slow_path_status(slot),
                    counts: root.counts(slot),
                })
            })
            .collect()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn root(&mut self) -> Result<&mut Root> {
        match &mut self.scheduler {
            Scheduler::Root(root) => Ok(root),
            Scheduler::Direct(_) => bail!("there is no root scheduler with --direct"),
        }
    }
}

impl SwapRequest {
    fn plan(&self) -> Plan {
        Plan {
            window_ns: self.window_ns(),
            hold_ns: self.hold_ms.saturating_mul(1_000_000),
            max_delay_ns: self.max_delay_ms.map(|ms| ms.saturating_mul(1_000_000)),
        }
    }

    fn window_ns(&self) -> u64 {
        self.window_ms.saturating_mul(1_000_000)
    }
}
