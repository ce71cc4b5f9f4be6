// SPDX-License-Identifier: GPL-2.0-only
//! Measuring windows: what belongs to which policy, interval and side of a swap.

use anyhow::Result;

use super::{Engine, PolicyRun};
use crate::latency::Sample;

impl Engine {
    /// Ends the measuring window and adds it to everything it counts for.
    pub(super) fn end_window(&mut self) -> Result<Option<Sample>> {
        let Some(meter) = self.meter.as_mut() else { return Ok(None) };
        let sample = meter.rotate()?;
        self.account(&sample);
        Ok(Some(sample))
    }

    /// Begins a window without looking at what was measured before: not under our scheduler.
    pub(super) fn discard_window(&mut self) -> Result<()> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.rotate().map(drop))
    }

    pub(super) fn account(&mut self, sample: &Sample) {
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
    pub(super) fn open_run(&mut self) -> Result<()> {
        self.in_force = self.scheduler.in_force()?;
        self.runs.push(PolicyRun { policy: self.in_force.clone(), sample: Sample::default() });
        Ok(())
    }
}
