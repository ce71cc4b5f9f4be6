// SPDX-License-Identifier: GPL-2.0-only
//! What delegation has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::shared::{Shared, state_of};
use crate::intf;

/// Counters of a delegated policy since it was loaded.
///
/// Every task that was queued for a decision has got one, was run by BPF since none came in time, has left, or
/// still waits: `queued == committed + overdue + left + waiting`, exactly, whenever nothing is in motion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Whether BPF waits for the agent's decisions at present.
    pub answering: bool,
    /// Times that a task was queued for a decision.
    pub queued: u64,
    /// Decisions that were carried out.
    pub committed: u64,
    /// Tasks that BPF took over because no decision came in time.
    pub overdue: u64,
    /// Tasks that went without either: died, changed class or affinity, were swapped away.
    pub left: u64,
    /// Tasks that are queued for a decision now.
    pub waiting: u64,
    /// Times that BPF scheduled a task without asking, since the agent was silent or not there.
    pub undelegated: u64,
    /// Decisions refused because something had happened to the task meanwhile (ESTALE).
    pub stale: u64,
    /// Decisions refused because the task was dead.
    pub gone: u64,
    /// Decisions refused because the task did not wait for one.
    pub not_queued: u64,
    /// Decisions refused because the task may not run on that CPU.
    pub not_allowed: u64,
    /// Decisions refused because that CPU is offline or does not exist.
    pub offline: u64,
    /// Decisions that came before the task was all queued, and were repeated.
    pub again: u64,
    /// Decisions refused because another one of their group was.
    pub aborted: u64,
    /// Messages for which a ring had no room.
    pub ring_full: u64,
    /// Times that BPF stopped waiting for the agent.
    pub silences: u64,
    /// Longest time until the agent had taken over again, ns.
    pub longest_silence_ns: u64,
}

impl AgentStatus {
    pub(crate) fn read(shared: &Shared, longest_silence_ns: u64) -> Self {
        let sum = |of: fn(&Shared, usize) -> &AtomicU64| {
            (0..shared.nr_cpus()).map(|cpu| of(shared, cpu).load(Ordering::Relaxed)).sum()
        };
        let outcome = |outcome| shared.nr_outcome(outcome).load(Ordering::Relaxed);
        let is_queued = |task: &u32| {
            state_of(shared.word(*task).load(Ordering::Relaxed)) == intf::delegate_state_DELEGATE_QUEUED
        };
        AgentStatus {
            answering: shared.present().load(Ordering::Relaxed) != 0
                && shared.silent().load(Ordering::Relaxed) == 0,
            queued: sum(Shared::nr_queued),
            committed: outcome(intf::delegate_outcome_DELEGATE_COMMITTED),
            overdue: sum(Shared::nr_overdue),
            left: sum(Shared::nr_left),
            waiting: (1..=shared.max_task().load(Ordering::Relaxed)).filter(is_queued).count() as u64,
            undelegated: sum(Shared::nr_undelegated),
            stale: outcome(intf::delegate_outcome_DELEGATE_STALE),
            gone: outcome(intf::delegate_outcome_DELEGATE_GONE),
            not_queued: outcome(intf::delegate_outcome_DELEGATE_NOT_QUEUED),
            not_allowed: outcome(intf::delegate_outcome_DELEGATE_NOT_ALLOWED),
            offline: outcome(intf::delegate_outcome_DELEGATE_OFFLINE),
            again: outcome(intf::delegate_outcome_DELEGATE_AGAIN),
            aborted: outcome(intf::delegate_outcome_DELEGATE_ABORTED),
            ring_full: sum(Shared::nr_full),
            silences: shared.nr_silent().load(Ordering::Relaxed),
            longest_silence_ns,
        }
    }
}
