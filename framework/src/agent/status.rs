// SPDX-License-Identifier: GPL-2.0-only
//! What delegation has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::shared::{Shared, state_of};
use crate::intf;
use crate::latency::{Histogram, bucket_of};

/// What the agent's thread measures and others read.
#[derive(Default)]
pub(super) struct Meters {
    /// From a message to the batch that it is read in.
    pub message: Meter,
    /// From the start of a batch to its transactions carried out.
    pub decision: Meter,
    /// Longest time that BPF scheduled alone, ns.
    pub longest_silence: AtomicU64,
}

/// A histogram that one thread writes and others read.
pub(super) struct Meter {
    buckets: Vec<AtomicU64>,
    max: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        let buckets = (0..=bucket_of(u64::MAX)).map(|_| AtomicU64::new(0)).collect();
        Meter { buckets, max: AtomicU64::new(0) }
    }
}

impl Meter {
    pub fn record(&self, ns: u64) {
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(ns, Ordering::Relaxed);
    }

    /// Median and 99th percentile, ns; 0 if nothing was measured.
    fn p50_and_p99(&self) -> (u64, u64) {
        let counts = (0..).zip(self.buckets.iter().map(|count| count.load(Ordering::Relaxed)));
        let histogram = Histogram::from_parts(counts, 0, self.max.load(Ordering::Relaxed));
        let percentile = |p| histogram.percentile(p).unwrap_or(0);
        (percentile(50.0), percentile(99.0))
    }
}

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
    /// From a message to when the agent reads it, ns: median.
    pub message_p50_ns: u64,
    /// The same, 99th percentile.
    pub message_p99_ns: u64,
    /// From when the agent reads a batch of messages to its transactions carried out, ns: median.
    pub decision_p50_ns: u64,
    /// The same, 99th percentile.
    pub decision_p99_ns: u64,
}

impl AgentStatus {
    pub(super) fn read(shared: &Shared, meters: &Meters) -> Self {
        let (message_p50_ns, message_p99_ns) = meters.message.p50_and_p99();
        let (decision_p50_ns, decision_p99_ns) = meters.decision.p50_and_p99();
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
            longest_silence_ns: meters.longest_silence.load(Ordering::Relaxed),
            message_p50_ns,
            message_p99_ns,
            decision_p50_ns,
            decision_p99_ns,
        }
    }
}
