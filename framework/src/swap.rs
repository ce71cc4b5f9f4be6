// SPDX-License-Identifier: GPL-2.0-only
//! The swap protocol as a state machine: what has to happen when, without a kernel.
//!
//! ```text
//!            begin            flip_at            until, drained       hold over
//!   Steady ---------> Before ---------> After ------------------> Holding --------> Steady
//!                                         ^                          |
//!                                         +--------- flip_back ------+
//! ```
//!
//! Before and After are windows of equal length in which the scheduling delay is measured. The engine asks
//! [`Machine::step`] what to do, does it, and tells the machine so. Times are nanoseconds of any steady clock.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A slot of the root scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotId(u8);

impl SlotId {
    /// Slot number `index`. Panics on one that does not exist.
    pub fn new(index: usize) -> Self {
        assert!(index < crate::root::NR_SLOTS, "there is no slot {index}");
        SlotId(index as u8)
    }

    /// Its number.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// How a swap is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// By one store, under the attached root.
    Slots,
    /// By detaching one scheduler and attaching the next, as without slots.
    Reload,
}

/// What the user wants of one swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Length of each of the two measuring windows, ns.
    pub window_ns: u64,
    /// How long the old policy stays loaded after the window, ns.
    pub hold_ns: u64,
    /// Scheduling delay beyond which the old policy comes back by itself, ns.
    pub max_delay_ns: Option<u64>,
}

/// Where a swap stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Steady,
    Before { next: SlotId, flip_at: u64 },
    After { old: Option<SlotId>, until: u64, drained: bool, back: bool },
    Holding { held: SlotId, until: u64 },
    Retiring { slot: SlotId },
}

/// What the engine has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing; ask again at the time given, or when something is begun.
    Wait(Option<u64>),
    /// Make the slot active, then call [`Machine::flipped`].
    Flip(SlotId),
    /// Look whether the slot's queues are empty; if they are call [`Machine::drained`], else ask again soon.
    Drain(SlotId),
    /// Both windows are measured and nothing is queued any more: report, then call [`Machine::reported`].
    Report,
    /// Take the slot's policy out, then call [`Machine::retired`].
    Retire(SlotId),
}

/// A swap is under way already.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("another swap is under way ({0}); try again when `scx_run status` says steady")]
pub struct Busy(pub &'static str);

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    phase: Phase,
    plan: Plan,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { phase: Phase::Steady, plan: Plan { window_ns: 0, hold_ns: 0, max_delay_ns: None } }
    }
}

impl Machine {
    /// Whether a swap may begin. One that is only held may be overtaken: see [`Machine::release`].
    pub fn check_idle(&self) -> Result<(), Busy> {
        match self.phase {
            Phase::Steady | Phase::Holding { .. } => Ok(()),
            _ => Err(Busy(self.name())),
        }
    }

    /// Ends a hold early: the slot to retire before the next swap, if there is one.
    pub fn release(&mut self) -> Option<SlotId> {
        let Phase::Holding { held, .. } = self.phase else { return None };
        self.phase = Phase::Retiring { slot: held };
        Some(held)
    }

    /// Ends a hold because the held policy is wanted again: its slot, still loaded and prepared.
    pub fn take_held(&mut self) -> Option<SlotId> {
        let Phase::Holding { held, .. } = self.phase else { return None };
        self.phase = Phase::Steady;
        Some(held)
    }

    /// Begins a swap to the policy that has been prepared in `next`.
    pub fn begin(&mut self, now: u64, next: SlotId, plan: Plan) -> Result<(), Busy> {
        if self.phase != Phase::Steady {
            return Err(Busy(self.name()));
        }
        self.plan = plan;
        self.phase = Phase::Before { next, flip_at: now + plan.window_ns };
        Ok(())
    }

    /// Goes on with a swap that another process has begun and not brought to its end.
    pub fn resume_drain(&mut self, slot: SlotId) {
        self.phase = Phase::After { old: Some(slot), until: 0, drained: false, back: true };
    }

    /// Flips back to the policy that a swap has replaced, if it is still loaded.
    pub fn flip_back(&mut self) -> Option<SlotId> {
        let old = match self.phase {
            Phase::After { old: Some(old), back: false, .. } => old,
            Phase::Holding { held, .. } => held,
            _ => return None,
        };
        // Measured and reported like a swap, but the policy that is left is not held: it was found wanting.
        self.phase = Phase::Before { next: old, flip_at: 0 };
        self.plan.hold_ns = 0;
        self.plan.max_delay_ns = None;
        Some(old)
    }

    /// What has to be done now.
    pub fn step(&self, now: u64) -> Step {
        match self.phase {
            Phase::Steady => Step::Wait(None),
            Phase::Before { next, flip_at } if now >= flip_at => Step::Flip(next),
            Phase::Before { flip_at, .. } => Step::Wait(Some(flip_at)),
            Phase::After { old: Some(old), drained: false, .. } => Step::Drain(old),
            Phase::After { until, .. } if now < until => Step::Wait(Some(until)),
            Phase::After { .. } => Step::Report,
            Phase::Holding { until, .. } if now < until => Step::Wait(Some(until)),
            Phase::Holding { held, .. } => Step::Retire(held),
            Phase::Retiring { slot } => Step::Retire(slot),
        }
    }

    /// The flip is done; `old` is the slot that has to be drained.
    pub fn flipped(&mut self, now: u64, old: Option<SlotId>, back: bool) {
        self.phase = Phase::After { old, until: now + self.plan.window_ns, drained: false, back };
    }

    /// The old slot's queues are empty.
    pub fn drained(&mut self) {
        if let Phase::After { drained, .. } = &mut self.phase {
            *drained = true;
        }
    }

    /// The swap has been reported.
    pub fn reported(&mut self, now: u64) {
        if let Phase::After { old, back, .. } = self.phase {
            self.phase = match old {
                None => Phase::Steady,
                Some(slot) if back => Phase::Retiring { slot },
                Some(held) => Phase::Holding { held, until: now + self.plan.hold_ns },
            };
        }
    }

    /// The old policy is gone.
    pub fn retired(&mut self) {
        self.phase = Phase::Steady;
    }

    /// The scheduler is gone, and the swap with it.
    pub fn reset(&mut self) {
        self.phase = Phase::Steady;
    }

    /// The limit that applies to the policy in force, ns.
    pub fn max_delay_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::After { .. } | Phase::Holding { .. } => self.plan.max_delay_ns,
            _ => None,
        }
    }

    /// The slot that is kept loaded for a way back.
    pub fn held(&self) -> Option<SlotId> {
        match self.phase {
            Phase::Holding { held, .. } => Some(held),
            _ => None,
        }
    }

    /// The phase in a word, for status.
    pub fn name(&self) -> &'static str {
        match self.phase {
            Phase::Steady => "steady",
            Phase::Before { .. } => "measuring before the flip",
            Phase::After { drained: false, .. } => "draining",
            Phase::After { .. } => "measuring after the flip",
            Phase::Holding { .. } => "holding",
            Phase::Retiring { .. } => "retiring",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: SlotId = SlotId(0);
    const B: SlotId = SlotId(1);
    const PLAN: Plan = Plan { window_ns: 100, hold_ns: 50, max_delay_ns: Some(10) };

    fn flipped() -> Machine {
        let mut machine = Machine::default();
        machine.begin(0, B, PLAN).unwrap();
        machine.flipped(100, Some(A), false);
        machine
    }

    #[test]
    fn a_swap_goes_through_its_phases() {
        let mut machine = Machine::default();
        assert_eq!(machine.step(0), Step::Wait(None));
        machine.begin(0, B, PLAN).unwrap();
        assert_eq!(machine.step(99), Step::Wait(Some(100)));
        assert_eq!(machine.step(100), Step::Flip(B));
        machine.flipped(100, Some(A), false);
        assert_eq!(machine.step(101), Step::Drain(A));
        machine.drained();
        assert_eq!(machine.step(150), Step::Wait(Some(200)));
        assert_eq!(machine.step(200), Step::Report);
        machine.reported(200);
        assert_eq!((machine.held(), machine.step(249)), (Some(A), Step::Wait(Some(250))));
        assert_eq!(machine.step(250), Step::Retire(A));
        machine.retired();
        assert_eq!(machine.step(300), Step::Wait(None));
    }

    #[test]
    fn no_report_before_the_old_slot_is_empty() {
        assert_eq!(flipped().step(1_000_000), Step::Drain(A));
    }

    #[test]
    fn the_first_policy_replaces_nobody() {
        let mut machine = Machine::default();
        machine.begin(0, A, Plan { window_ns: 0, ..PLAN }).unwrap();
        machine.flipped(0, None, false);
        assert_eq!(machine.step(0), Step::Report);
        machine.reported(0);
        assert_eq!(machine.step(0), Step::Wait(None));
    }

    #[test]
    fn a_second_swap_is_refused_until_the_first_is_held() {
        let mut machine = flipped();
        assert_eq!(machine.check_idle(), Err(Busy("draining")));
        assert_eq!(machine.begin(0, B, PLAN), Err(Busy("draining")));
        machine.drained();
        machine.reported(200);
        assert_eq!(machine.check_idle(), Ok(()));
        assert_eq!(machine.release(), Some(A));
        assert_eq!(machine.step(0), Step::Retire(A));
        machine.retired();
        machine.begin(0, A, PLAN).unwrap();
    }

    #[test]
    fn a_held_policy_can_be_wanted_again() {
        let mut machine = flipped();
        assert_eq!(machine.take_held(), None);
        machine.drained();
        machine.reported(200);
        assert_eq!(machine.take_held(), Some(A));
        machine.begin(210, A, PLAN).unwrap();
        assert_eq!(machine.step(310), Step::Flip(A));
    }

    #[test]
    fn the_way_back_needs_no_loading_and_is_not_held() {
        let mut machine = flipped();
        assert_eq!(machine.flip_back(), Some(A));
        assert_eq!(machine.step(0), Step::Flip(A));
        machine.flipped(150, Some(B), true);
        assert_eq!(machine.max_delay_ns(), None);
        assert_eq!(machine.flip_back(), None, "one cannot go back twice");
        machine.drained();
        machine.reported(250);
        assert_eq!(machine.step(250), Step::Retire(B));
    }

    #[test]
    fn a_drain_that_another_process_began_ends_in_retiring() {
        let mut machine = Machine::default();
        machine.resume_drain(A);
        assert_eq!(machine.step(0), Step::Drain(A));
        machine.drained();
        assert_eq!(machine.step(0), Step::Report);
        machine.reported(0);
        assert_eq!(machine.step(0), Step::Retire(A));
    }

    proptest! {
        /// Whatever order things happen in, a slot is drained before it is retired, and never retired while
        /// it is the one that was flipped to last.
        #[test]
        fn the_active_slot_is_never_retired(choices in prop::collection::vec(0u8..4, 1..200)) {
            let mut machine = Machine::default();
            let (mut now, mut active, mut empty) = (0u64, A, true);
            for choice in choices {
                now += u64::from(choice) * 40;
                match choice {
                    0 => { let _ = machine.begin(now, if active == A { B } else { A }, PLAN); }
                    1 => { machine.flip_back(); }
                    _ => {}
                }
                match machine.step(now) {
                    Step::Flip(slot) => {
                        let back = machine.plan.hold_ns == 0;
                        machine.flipped(now, Some(active), back);
                        prop_assert_ne!(slot, active);
                        (active, empty) = (slot, false);
                    }
                    Step::Drain(slot) => {
                        prop_assert_ne!(slot, active);
                        if choice == 3 { empty = true; machine.drained(); }
                    }
                    Step::Report => { prop_assert!(empty); machine.reported(now); }
                    Step::Retire(slot) => { prop_assert!(empty && slot != active); machine.retired(); }
                    Step::Wait(_) => {}
                }
            }
        }
    }
}
