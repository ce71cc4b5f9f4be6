// SPDX-License-Identifier: GPL-2.0-only
//! The engine: runs a policy, swaps it for others, measures, and notices when the kernel ends it.
//!
//! It owns every BPF object and lives on one thread. It never waits for a swap: [`Engine::poll`] does what is
//! due and says when to come back, so the caller's loop can serve signals, statistics and the control socket
//! in between. Scheduling itself never depends on it.

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam::channel::Sender;

use crate::census::{self, Waiting};
use crate::control::SwapRequest;
use crate::doctor;
use crate::exit::ExitInfo;
use crate::grace;
use crate::kernel::KernelState;
use crate::latency::{LatencyMeter, Per, Sample};
use crate::policy::{Catalogue, Image, PolicyInForce, params};
use crate::report::{KEEP_SWAPS, SlotStatus, Status, SwapReport};
use crate::root::{NR_SLOTS, Root};
use crate::scheduler::Scheduler;
use crate::swap::{Machine, Plan, SlotId, Step, Via};

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
        scheduler.activate()?;
        let in_force = scheduler.in_force()?;
        let now = Instant::now();
        let mut engine = Engine {
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
            swaps: VecDeque::new(),
            nr_swaps: 0,
            events: Vec::new(),
        };
        engine.discard_window()?;
        engine.open_run()?;
        Ok(engine)
    }
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
    swaps: VecDeque<SwapReport>,
    nr_swaps: u64,
    events: Vec<Event>,
}

impl Engine {
    /// Loads a scheduler with the policy in it. The kernel has verified everything after this; nothing is
    /// attached.
    pub fn prepare(config: Config, policy: &str, params: &[String]) -> Result<Prepared> {
        let policy = Image::find(config.catalogue, policy)?.open()?;
        if let Some(trouble) = doctor::first_trouble() {
            bail!(trouble);
        }
        let name = policy.info().name.clone();
        let scheduler = Scheduler::load(&config, policy, params, 1)?;
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
        self.end_window()?;
        let last = self.policy().clone();
        let (origin, params) = match fallback {
            Some(name) => (name.to_owned(), Vec::new()),
            None => {
                let params = last.params.iter().map(|p| format!("{}={}", p.name, p.value)).collect();
                (last.origin.clone(), params)
            }
        };
        let policy = Image::find(self.config.catalogue, &origin)?.open()?;
        self.scheduler.detach()?;
        self.scheduler = Scheduler::load(&self.config, policy, &params, self.scheduler.next_epoch())?;
        self.scheduler.activate()?;
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

    /// The present state.
    pub fn status(&self) -> Status {
        Status {
            kernel: KernelState::read(),
            pid: std::process::id(),
            uptime_s: self.clock.elapsed().as_secs_f64(),
            mode: if self.config.direct { "direct" } else { "slots" }.into(),
            phase: self.machine.name().into(),
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
                let policy = root.in_slot(slot)?.clone();
                Some(SlotStatus { slot: slot.index(), role: role(slot).into(), policy })
            })
            .collect()
    }

    // --- swapping by slots ----------------------------------------------------------------------------------

    fn begin_flip(
        &mut self,
        request: &SwapRequest,
        reply: Option<Sender<Result<SwapReport, String>>>,
    ) -> Result<()> {
        let from = self.policy().name.clone();
        if self.config.direct {
            bail!("this scx_run was started with --direct and has no slots; use --via reload");
        }
        let (slot, verify) = match self.reuse_held(request)? {
            Some(slot) => (slot, Duration::ZERO),
            None => self.load_into_slot(request)?,
        };
        let root = self.root()?;
        let to = root.in_slot(slot).context("the slot is empty")?.name.clone();
        let verify_ms = verify.as_secs_f64() * 1e3;
        let drained_before = root.nr_drained();
        self.swapping = Some(Swapping {
            report: blank_report(from, to, request, verify_ms),
            flipped_at: None,
            quiet: false,
            drained_before,
            enable_seq: KernelState::read().enable_seq,
            before: Sample::default(),
            across: Sample::default(),
            reply,
        });
        self.end_window()?;
        let now = self.now();
        self.machine.begin(now, slot, request.plan())?;
        Ok(())
    }

    /// The slot of the held policy, if that is what is asked for: it is loaded and its queues are there. An
    /// object file may have changed since; it is loaded again.
    fn reuse_held(&mut self, request: &SwapRequest) -> Result<Option<SlotId>> {
        let Some(slot) = self.machine.held() else { return Ok(None) };
        let Some(held) = self.root()?.in_slot(slot).cloned() else { return Ok(None) };
        let built_in = self.config.catalogue.iter().any(|(name, _)| *name == request.policy);
        if !built_in || held.origin != request.policy {
            return Ok(None);
        }
        let wanted = params::resolve(&held.name, self.root()?.params(slot), &request.params)?;
        Ok(if wanted == held.params { self.machine.take_held() } else { None })
    }

    fn load_into_slot(&mut self, request: &SwapRequest) -> Result<(SlotId, Duration)> {
        let policy = Image::find(self.config.catalogue, &request.policy)?.open()?;
        let slot = self.root()?.install(policy, &request.params)?;
        if let Err(error) = self.make_way().and_then(|()| self.root()?.prepare(slot)) {
            self.root()?.retire(slot)?;
            return Err(error);
        }
        Ok((slot, self.root()?.verify_time(slot)))
    }

    /// A policy that is only held for a way back makes way for a new one.
    fn make_way(&mut self) -> Result<()> {
        if let Some(slot) = self.machine.release() {
            self.root()?.retire(slot)?;
            self.machine.retired();
        }
        Ok(())
    }

    fn flip(&mut self, slot: SlotId) -> Result<()> {
        let pending = self.meter.as_mut().map(LatencyMeter::switch);
        let root = self.root()?;
        let leaving = root.active();
        let took = root.flip(slot)?;
        let flipped_at = Instant::now();

        if let (Some(meter), Some(pending)) = (self.meter.as_mut(), pending) {
            let sample = meter.collect(pending)?;
            self.account(&sample);
        }
        let back = std::mem::take(&mut self.going_back);
        if let Some(swapping) = &mut self.swapping {
            swapping.report.flip_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            swapping.flipped_at = Some(flipped_at);
            swapping.quiet = false;
        }
        self.open_run()?;
        let now = self.now();
        self.machine.flipped(now, leaving, back);
        Ok(())
    }

    /// Looks whether the retired slot is empty. It can only shrink once an RCU grace period has shown that
    /// nobody runs in the old policy any more.
    fn drain(&mut self, slot: SlotId) -> Result<bool> {
        if !self.swapping.as_ref().is_some_and(|swapping| swapping.quiet) {
            grace::wait()?;
        }
        if let Some(swapping) = &mut self.swapping {
            swapping.quiet = true;
        }
        let root = self.root()?;
        if root.queued(slot)? > 0 {
            return Ok(false);
        }
        root.drained()?;
        let drained = root.nr_drained();
        if let Some(swapping) = &mut self.swapping {
            let since = swapping.flipped_at.map(|at| at.elapsed()).unwrap_or_default();
            swapping.report.drain_ms = since.as_secs_f64() * 1e3;
            swapping.report.carried = u32::try_from(drained - swapping.drained_before).unwrap_or(u32::MAX);
        }
        self.machine.drained();
        Ok(true)
    }

    fn report(&mut self) -> Result<()> {
        self.end_window()?;
        let lost = self.lost()?;
        let waiting = self.longest_wait()?;
        let now = self.now();
        self.machine.reported(now);
        let Some(mut swapping) = self.swapping.take() else { return Ok(()) };
        let window = Duration::from_secs_f64(swapping.report.window_ms / 1e3);
        let report = &mut swapping.report;
        report.lost = u32::try_from(lost.len()).unwrap_or(u32::MAX);
        if self.meter.is_some() {
            report.worst_before_ns = Some(swapping.before.wait.max());
            // A wait that began before the flip and has not ended is not in the histogram.
            let unfinished = if waiting > window { waiting } else { Duration::ZERO };
            let unfinished = u64::try_from(unfinished.as_nanos()).unwrap_or(u64::MAX);
            report.worst_across_ns = Some(swapping.across.wait.max().max(unfinished));
        }
        let kernel = KernelState::read();
        if kernel.enable_seq != swapping.enable_seq || !kernel.enabled() {
            bail!("sched_ext was left during the swap (state {}): this is a bug", kernel.state);
        }
        self.finish(swapping.report, swapping.reply);
        Ok(())
    }

    fn finish(&mut self, report: SwapReport, reply: Option<Sender<Result<SwapReport, String>>>) {
        self.nr_swaps += 1;
        if self.swaps.len() == KEEP_SWAPS {
            self.swaps.pop_front();
        }
        self.swaps.push_back(report.clone());
        self.events.push(Event::Swapped(Box::new(report.clone())));
        if let Some(reply) = reply {
            // Whoever asked may be gone; the swap is done all the same.
            let _ = reply.send(Ok(report));
        }
    }

    // --- guarding ---------------------------------------------------------------------------------------------

    /// Flips back if tasks wait longer than the swap's limit allows.
    fn guard(&mut self) -> Result<()> {
        let Some(limit) = self.machine.max_delay_ns().map(Duration::from_nanos) else { return Ok(()) };
        if Instant::now() < self.guard_due {
            return Ok(());
        }
        self.guard_due = Instant::now() + GUARD_PERIOD;
        let ended = self.end_window()?.map_or(0, |sample| sample.wait.max());
        let worst = self.longest_wait()?.max(Duration::from_nanos(ended));
        if worst <= limit {
            return Ok(());
        }
        let reason = format!(
            "under {} a task waited {:.1} ms for a CPU, more than the limit of {:.1} ms",
            self.policy().name,
            worst.as_secs_f64() * 1e3,
            limit.as_secs_f64() * 1e3
        );
        self.go_back(&reason);
        Ok(())
    }

    fn go_back(&mut self, reason: &str) {
        if self.machine.flip_back().is_none() {
            return;
        }
        self.going_back = true;
        match (&mut self.swapping, self.swaps.back_mut()) {
            (Some(swapping), _) => swapping.report.undone = Some(reason.into()),
            (None, Some(last)) => last.undone = Some(reason.into()),
            (None, None) => {}
        }
        self.events.push(Event::GoingBack(reason.into()));
    }

    fn waiting(&mut self) -> Result<Vec<Waiting>> {
        match &self.scheduler {
            Scheduler::Root(root) => root.census_link().map_or(Ok(Vec::new()), census::take),
            Scheduler::Direct(_) => Ok(Vec::new()),
        }
    }

    fn longest_wait(&mut self) -> Result<Duration> {
        Ok(self.waiting()?.iter().map(|task| task.waited).max().unwrap_or_default())
    }

    /// Tasks that nobody will run: on no queue, or on one of a policy that is not in force.
    fn lost(&mut self) -> Result<Vec<Waiting>> {
        let Scheduler::Root(root) = &self.scheduler else { return Ok(Vec::new()) };
        let Some(link) = root.census_link() else { return Ok(Vec::new()) };
        let idle: Vec<_> =
            (0..NR_SLOTS).map(SlotId::new).filter(|slot| Some(*slot) != root.active()).collect();
        census::lost(link, |task| {
            task.dsq.is_none_or(|dsq| idle.iter().any(|slot| root.owns_dsq(*slot, dsq)))
        })
    }

    // --- swapping the old way -----------------------------------------------------------------------------------

    /// Verifies the next scheduler, detaches the present one, attaches the next.
    fn reload(&mut self, request: &SwapRequest) -> Result<SwapReport> {
        let from = self.policy().name.clone();
        let policy = Image::find(self.config.catalogue, &request.policy)?.open()?;
        let to = policy.info().name.clone();
        let start = Instant::now();
        let mut next = Scheduler::load(&self.config, policy, &request.params, self.scheduler.next_epoch())?;
        let mut report = blank_report(from, to, request, start.elapsed().as_secs_f64() * 1e3);
        self.make_way()?;

        let window = Duration::from_nanos(request.window_ns());
        self.end_window()?;
        thread::sleep(window);
        let before = self.end_window()?;
        let carried = self.waiting()?.len();

        let left = Instant::now();
        self.scheduler.detach()?;
        if let Err(error) = next.activate() {
            drop(next);
            self.scheduler.activate().context("the old scheduler could not be attached again either")?;
            return Err(error.context("the next policy did not attach; the old one is back"));
        }
        let outside = left.elapsed();
        self.scheduler = next;
        self.open_run()?;

        thread::sleep(window);
        let across = self.end_window()?;
        let lost = self.lost()?;
        report.flip_ns = u64::try_from(outside.as_nanos()).unwrap_or(u64::MAX);
        report.outside_ns = report.flip_ns;
        report.carried = u32::try_from(carried).unwrap_or(u32::MAX);
        report.lost = u32::try_from(lost.len()).unwrap_or(u32::MAX);
        report.worst_before_ns = before.map(|sample| sample.wait.max());
        report.worst_across_ns = across.map(|sample| sample.wait.max());
        Ok(report)
    }

    // --- measuring ------------------------------------------------------------------------------------------------

    /// Ends the measuring window and adds it to everything it counts for.
    fn end_window(&mut self) -> Result<Option<Sample>> {
        let Some(meter) = self.meter.as_mut() else { return Ok(None) };
        let sample = meter.rotate()?;
        self.account(&sample);
        Ok(Some(sample))
    }

    /// Begins a window without looking at what was measured before: not under our scheduler.
    fn discard_window(&mut self) -> Result<()> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.rotate().map(drop))
    }

    fn account(&mut self, sample: &Sample) {
        self.interval.merge(sample);
        if let Some(run) = self.runs.last_mut() {
            run.sample.merge(sample);
        }
        if let Some(swapping) = &mut self.swapping {
            let side =
                if swapping.flipped_at.is_some() { &mut swapping.across } else { &mut swapping.before };
            side.merge(sample);
        }
    }

    /// Another policy is in force from here on.
    fn open_run(&mut self) -> Result<()> {
        self.in_force = self.scheduler.in_force()?;
        self.runs.push(PolicyRun { policy: self.in_force.clone(), sample: Sample::default() });
        Ok(())
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

fn blank_report(from: String, to: String, request: &SwapRequest, verify_ms: f64) -> SwapReport {
    SwapReport {
        from,
        to,
        via: request.via,
        verify_ms,
        flip_ns: 0,
        drain_ms: 0.0,
        carried: 0,
        lost: 0,
        window_ms: request.window_ns() as f64 / 1e6,
        worst_before_ns: None,
        worst_across_ns: None,
        outside_ns: 0,
        undone: None,
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
