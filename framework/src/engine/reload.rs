// SPDX-License-Identifier: GPL-2.0-only
//! Swapping the old way: verify the next scheduler, detach the present one, attach the next.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Engine;
use crate::control::SwapRequest;
use crate::environ::Begin;
use crate::kernel::monotonic_ns;
use crate::policy::{ConfigFile, Image};
use crate::report::SwapReport;
use crate::scheduler::Scheduler;

impl Engine {
    /// Attaches the scheduler again that has just been detached. Of one that was taken over from another process only
    /// a part is loaded here.
    fn attach_again(&mut self) -> Result<()> {
        if self.scheduler.can_be_attached() {
            return self.scheduler.activate(self.config.keep);
        }
        let last = self.policy().clone();
        self.attach_anew(&last.origin, &last.assignments(), last.config)
    }

    /// Loads a scheduler with this policy in the place of one that has been detached, and attaches it.
    pub(super) fn attach_anew(
        &mut self,
        origin: &str,
        params: &[String],
        file: Option<ConfigFile>,
    ) -> Result<()> {
        let policy = Image::find(self.config.catalogue, origin)?.open()?.configure(file)?;
        self.scheduler = Scheduler::load(&self.config, policy, params, Some(&self.scheduler))?;
        self.scheduler.activate(self.config.keep)?;
        // It may be the first that takes hints.
        self.watch_environ(Begin::Processes);
        Ok(())
    }

    /// Verifies the next scheduler, detaches the present one, attaches the next.
    pub(super) fn reload(&mut self, request: &SwapRequest) -> Result<SwapReport> {
        let from = self.policy().name.clone();
        let policy = Image::find(self.config.catalogue, &request.policy)?.open()?;
        let policy = policy.configure(request.config.clone())?;
        let to = policy.info().name.clone();
        let start = Instant::now();
        let mut next = Scheduler::load(&self.config, policy, &request.params, Some(&self.scheduler))?;
        let mut report = SwapReport {
            verify_ms: start.elapsed().as_secs_f64() * 1e3,
            window_ms: request.window_ms as f64,
            ..SwapReport::new(from, to, request.via)
        };
        self.make_way()?;

        let window = Duration::from_nanos(request.window_ns());
        self.end_window()?;
        thread::sleep(window);
        let before = self.end_window()?;
        let carried = self.waiting()?.len();

        report.flipped_at_ns = monotonic_ns();
        let left = Instant::now();
        self.scheduler.detach()?;
        if let Err(error) = next.activate(self.config.keep) {
            drop(next);
            self.attach_again().context("the old scheduler could not be attached again either")?;
            return Err(error.context("the next policy did not attach; the old one is back"));
        }
        let outside = left.elapsed();
        self.scheduler = next;
        self.watch_environ(Begin::Processes);
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
}
