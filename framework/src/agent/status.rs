// SPDX-License-Identifier: GPL-2.0-only
//! What delegation has done so far, in numbers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::shared::{Shared, state_of};
use crate::intf;
use crate::latency::{Histogram, bucket_of};

/// What an agent's thread measures and others read.
#[derive(Default)]
pub(super) struct Meters {
    /// From a message to the batch that it is read in.
    pub message: Meter,
    /// From the start of a batch to its transactions carried out.
    pub decision: Meter,
    /// Longest time that BPF scheduled alone, ns.
    pub longest_silence: AtomicU64,
    /// Tasks of which the process before had saved something.
    pub restored: AtomicU64,
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
}

/// Median and 99th percentile of all of them, ns; 0 if nothing was measured.
fn p50_and_p99(meters: &[&Meter]) -> (u64, u64) {
    let bucket = |n: usize| meters.iter().map(|meter| meter.buckets[n].load(Ordering::Relaxed)).sum();
    let counts = (0..).zip((0..=bucket_of(u64::MAX)).map(bucket));
    let max = meters.iter().map(|meter| meter.max.load(Ordering::Relaxed)).max().unwrap_or(0);
    let histogram = Histogram::from_parts(counts, 0, max);
    let percentile = |p| histogram.percentile(p).unwrap_or(0);
    (percentile(50.0), percentile(99.0))
}

/// Counters of a delegated policy since it was loaded.
///
/// Every task that was queued for a decision has got one, was run by BPF since none came in time, was taken by an idle
/// CPU, has left, or still waits: `queued == committed + overdue + stolen + left + waiting`, exactly, whenever nothing
/// is in motion. With an agent for each CPU these are sums over all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Whether BPF waits for the agent's decisions at present; of several, for those of all that are in force.
    pub answering: bool,
    /// Agents in force: 1, or one for each CPU that is online; 0 while another policy is.
    pub agents: u32,
    /// Times that a task was queued for a decision.
    pub queued: u64,
    /// Decisions that were carried out.
    pub committed: u64,
    /// Of these, the decisions of the agent in force that has made the fewest.
    pub fewest: u64,
    /// Tasks that BPF took over because no decision came in time.
    pub overdue: u64,
    /// Tasks that an idle CPU took while they waited for the decision of another CPU's agent.
    pub stolen: u64,
    /// Tasks that went without either: died, changed class or affinity, were swapped away.
    pub left: u64,
    /// Tasks that are queued for a decision now.
    pub waiting: u64,
    /// Times that BPF scheduled a task without asking, since the agent was silent or not there.
    pub undelegated: u64,
    /// Times that a task woke up while nobody waited and got an idle CPU without asking.
    pub direct: u64,
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
    /// The way of a wakeup by stage, with `stages=1`.
    pub stages: Option<Stages>,
}

/// What a wakeup takes on its way through the agent: the mean of each stage, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Wakeups measured.
    pub count: u64,
    /// From the wakeup until its message is written.
    pub message_ns: u64,
    /// Until the agent reads it.
    pub seen_ns: u64,
    /// Until the transaction is carried out.
    pub committed_ns: u64,
    /// Until the task runs.
    pub running_ns: u64,
}

impl Stages {
    fn read(shared: &Shared) -> Option<Self> {
        let sum = |of: &dyn Fn(usize) -> u64| (0..shared.nr_cpus()).map(of).sum::<u64>();
        let count = sum(&|cpu| shared.nr_staged(cpu).load(Ordering::Relaxed));
        let mean = |stage| sum(&|cpu| shared.stage_ns(cpu, stage).load(Ordering::Relaxed)).checked_div(count);
        Some(Stages {
            count,
            message_ns: mean(intf::delegate_stage_DELEGATE_WRITTEN)?,
            seen_ns: mean(intf::delegate_stage_DELEGATE_SEEN)?,
            committed_ns: mean(intf::delegate_stage_DELEGATE_DONE)?,
            running_ns: mean(intf::delegate_stage_DELEGATE_RUNNING)?,
        })
    }
}

impl AgentStatus {
    /// Whether every task that was queued for a decision is accounted for. While tasks come and go it may not look so:
    /// the counters are read one after the other.
    pub fn is_balanced(&self) -> bool {
        self.queued == self.committed + self.overdue + self.stolen + self.left + self.waiting
    }

    /// Reads those of all agents, of which there is one at least.
    pub(super) fn read(agents: &[(&Shared, &Meters)]) -> Self {
        let Some((shared, _)) = agents.first() else { return AgentStatus::default() };
        let in_force = || agents.iter().map(|(shared, _)| *shared).filter(|shared| is_in_force(shared));
        let meters = |of: fn(&Meters) -> &Meter| {
            p50_and_p99(&agents.iter().map(|(_, meters)| of(meters)).collect::<Vec<_>>())
        };
        let longest = |meters: &Meters| meters.longest_silence.load(Ordering::Relaxed);
        let (message_p50_ns, message_p99_ns) = meters(|meters| &meters.message);
        let (decision_p50_ns, decision_p99_ns) = meters(|meters| &meters.decision);
        let sum = |of: fn(&Shared, usize) -> &AtomicU64| {
            (0..shared.nr_cpus()).map(|cpu| of(shared, cpu).load(Ordering::Relaxed)).sum()
        };
        let outcome_of = |shared: &Shared, outcome| shared.nr_outcome(outcome).load(Ordering::Relaxed);
        let outcome = |outcome| agents.iter().map(|(shared, _)| outcome_of(shared, outcome)).sum();
        let decided = |shared| outcome_of(shared, intf::delegate_outcome_DELEGATE_COMMITTED);
        let is_queued = |task: &u32| {
            state_of(shared.word(*task).load(Ordering::Relaxed)) == intf::delegate_state_DELEGATE_QUEUED
        };
        AgentStatus {
            answering: in_force().next().is_some() && !in_force().any(|shared| is_set(shared.silent())),
            agents: in_force().count() as u32,
            queued: sum(Shared::nr_queued),
            committed: outcome(intf::delegate_outcome_DELEGATE_COMMITTED),
            fewest: in_force().map(decided).min().unwrap_or(0),
            overdue: sum(Shared::nr_overdue),
            stolen: sum(Shared::nr_stolen),
            left: sum(Shared::nr_left),
            waiting: (1..=shared.max_task().load(Ordering::Relaxed)).filter(is_queued).count() as u64,
            undelegated: sum(Shared::nr_undelegated),
            direct: sum(Shared::nr_direct),
            stale: outcome(intf::delegate_outcome_DELEGATE_STALE),
            gone: outcome(intf::delegate_outcome_DELEGATE_GONE),
            not_queued: outcome(intf::delegate_outcome_DELEGATE_NOT_QUEUED),
            not_allowed: outcome(intf::delegate_outcome_DELEGATE_NOT_ALLOWED),
            offline: outcome(intf::delegate_outcome_DELEGATE_OFFLINE),
            again: outcome(intf::delegate_outcome_DELEGATE_AGAIN),
            aborted: outcome(intf::delegate_outcome_DELEGATE_ABORTED),
            ring_full: sum(Shared::nr_full),
            silences: agents.iter().map(|(shared, _)| shared.nr_silent().load(Ordering::Relaxed)).sum(),
            longest_silence_ns: agents.iter().map(|(_, meters)| longest(meters)).max().unwrap_or(0),
            message_p50_ns,
            message_p99_ns,
            decision_p50_ns,
            decision_p99_ns,
            stages: Stages::read(shared),
        }
    }
}

fn is_set(word: &AtomicU32) -> bool {
    word.load(Ordering::Relaxed) != 0
}

/// Whether an agent is there and its policy is in force.
fn is_in_force(shared: &Shared) -> bool {
    is_set(shared.present()) && !is_set(shared.offline())
}
