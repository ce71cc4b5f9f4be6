// SPDX-License-Identifier: GPL-2.0-only
//! Swapping by slots: load, flip, drain, report, and the way back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use crossbeam::channel::Sender;

use super::{Engine, Event, GUARD_PERIOD, Swapping};
use crate::census::{self, Waiting};
use crate::control::SwapRequest;
use crate::grace;
use crate::kernel::{KernelState, monotonic_ns};
use crate::latency::{LatencyMeter, Sample};
use crate::policy::{Image, params};
use crate::report::{KEEP_SWAPS, SwapReport};
use crate::root::{InfiniteSlices, NR_SLOTS};
use crate::scheduler::Scheduler;
use crate::swap::SlotId;

/// How long dispatching CPUs get to empty a retired slot before the engine lends a hand.
const PUSH_AFTER: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn begin_flip(
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
        let drained_before = root.nr_drained();
        self.swapping = Some(Swapping {
            report: SwapReport {
                verify_ms: verify.as_secs_f64() * 1e3,
                window_ms: request.window_ms as f64,
                ..SwapReport::new(from, to, request.via)
            },
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
    pub(super) fn reuse_held(&mut self, request: &SwapRequest) -> Result<Option<SlotId>> {
        let Some(slot) = self.machine.held() else { return Ok(None) };
        let Some(held) = self.root()?.in_slot(slot).cloned() else { return Ok(None) };
        let built_in = self.config.catalogue.iter().any(|one| one.name == request.policy);
        if !built_in || held.origin != request.policy {
            return Ok(None);
        }
        let wanted = params::resolve(&held.name, self.root()?.params(slot), &request.params)?;
        let same = wanted == held.params && request.config == held.config;
        Ok(if same { self.machine.take_held() } else { None })
    }

    pub(super) fn load_into_slot(&mut self, request: &SwapRequest) -> Result<(SlotId, Duration)> {
        let policy = Image::find(self.config.catalogue, &request.policy)?.open()?;
        let policy = policy.configure(request.config.clone())?;
        let slot = self.root()?.install(policy, &request.params)?;
        if let Err(error) = self.make_way().and_then(|()| self.root()?.prepare(slot)) {
            self.root()?.retire(slot)?;
            return Err(error);
        }
        Ok((slot, self.root()?.verify_time(slot)))
    }

    /// A policy that is only held for a way back makes way for a new one.
    pub(super) fn make_way(&mut self) -> Result<()> {
        if let Some(slot) = self.machine.release() {
            self.root()?.retire(slot)?;
            self.machine.retired();
        }
        Ok(())
    }

    pub(super) fn flip(&mut self, slot: SlotId) -> Result<()> {
        let pending = self.meter.as_mut().map(LatencyMeter::switch);
        let root = self.root()?;
        let leaving = root.active();
        let began_ns = monotonic_ns();
        let took = root.flip(slot)?;
        let flipped_at = Instant::now();

        if let (Some(meter), Some(pending)) = (self.meter.as_mut(), pending) {
            let sample = meter.collect(pending)?;
            self.account(&sample);
        }
        let back = std::mem::take(&mut self.going_back);
        self.draining_since = None;
        if let Some(swapping) = &mut self.swapping {
            swapping.report.flipped_at_ns = began_ns;
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
    pub(super) fn drain(&mut self, slot: SlotId) -> Result<bool> {
        if !self.swapping.as_ref().is_some_and(|swapping| swapping.quiet) {
            self.root()?.leave(slot)?;
            grace::wait()?;
        }
        if let Some(swapping) = &mut self.swapping {
            swapping.quiet = true;
        }
        let push = self.draining_since.get_or_insert_with(Instant::now).elapsed() > PUSH_AFTER;
        let root = self.root()?;
        if root.queued(slot, push)? > 0 {
            return Ok(false);
        }
        match root.end_infinite_slices()? {
            InfiniteSlices::None => {}
            InfiniteSlices::Left => return Ok(false),
            // CPUs that had no tick have one again.
            InfiniteSlices::Ended => grace::wait()?,
        }
        root.drained()?;
        let drained = root.nr_drained();
        self.draining_since = None;
        if let Some(swapping) = &mut self.swapping {
            let since = swapping.flipped_at.map(|at| at.elapsed()).unwrap_or_default();
            swapping.report.drain_ms = since.as_secs_f64() * 1e3;
            swapping.report.carried = u32::try_from(drained - swapping.drained_before).unwrap_or(u32::MAX);
        }
        self.machine.drained();
        Ok(true)
    }

    pub(super) fn report(&mut self) -> Result<()> {
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

    pub(super) fn finish(&mut self, report: SwapReport, reply: Option<Sender<Result<SwapReport, String>>>) {
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

    /// Flips back if tasks wait longer than the swap's limit allows.
    pub(super) fn guard(&mut self) -> Result<()> {
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

    pub(super) fn go_back(&mut self, reason: &str) {
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

    pub(super) fn waiting(&mut self) -> Result<Vec<Waiting>> {
        match &self.scheduler {
            Scheduler::Root(root) => root.census_link().map_or(Ok(Vec::new()), census::take),
            Scheduler::Direct(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn longest_wait(&mut self) -> Result<Duration> {
        Ok(self.waiting()?.iter().map(|task| task.waited).max().unwrap_or_default())
    }

    /// Tasks that nobody will run: on no queue, or on one of a policy that is not in force.
    pub(super) fn lost(&mut self) -> Result<Vec<Waiting>> {
        let Scheduler::Root(root) = &self.scheduler else { return Ok(Vec::new()) };
        let Some(link) = root.census_link() else { return Ok(Vec::new()) };
        let idle: Vec<_> =
            (0..NR_SLOTS).map(SlotId::new).filter(|slot| Some(*slot) != root.active()).collect();
        census::lost(link, |task| {
            task.dsq.is_none_or(|dsq| idle.iter().any(|slot| root.owns_dsq(*slot, dsq)))
        })
    }
}
