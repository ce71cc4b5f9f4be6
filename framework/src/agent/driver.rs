// SPDX-License-Identifier: GPL-2.0-only
//! Makes callbacks of messages and outcomes, and transactions of decisions. Knows no kernel.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::enclave::{Core, Enclave, InFlight, Known, Outcome, Refused};
use super::handover::Saved;
use super::shared::{MAX_TASKS, Message, Shared, seq_of, state_of};
use super::status::Meters;
use super::{CpuId, Policy, TaskId};
use crate::intf;

/// Messages of a CPU that are read in one batch.
const BATCH: usize = 256;
/// How often a decision that came too early is repeated before it is given up.
const MAX_TRIES: u32 = 1000;

/// Runs a policy on shared memory.
pub(super) struct Driver {
    core: Core,
    policy: Box<dyn Policy>,
    /// Number of the next transaction whose outcome is to be read.
    reaped: u64,
    meters: Arc<Meters>,
    /// Tasks that wait, as it starts over: when since, and who. Empty otherwise; here so that nothing is allocated then.
    waiting: Vec<(u64, TaskId)>,
    /// What the process before has saved, until it starts over for the first time.
    saved: Option<Arc<Saved>>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// There was news.
    pub news: bool,
    /// There are transactions to carry out.
    pub transactions: bool,
}

impl Driver {
    pub fn new(shared: Arc<Shared>, policy: Box<dyn Policy>, meters: Arc<Meters>) -> Self {
        let core = Core::new(shared);
        let reaped = core.next_txn;
        Driver { core, policy, reaped, meters, waiting: Vec::with_capacity(MAX_TASKS), saved: None }
    }

    /// Goes on where another agent, which has ended, has stopped writing.
    pub fn rebase(&mut self) {
        self.core.next_txn = self.core.shared.txn_tail().load(Ordering::Acquire);
        self.reaped = self.core.next_txn;
    }

    /// What the policy knows of its tasks, for the process that takes over.
    pub fn save(&mut self) -> Saved {
        let mut saved = Saved::new(self.policy.state_version());
        if saved.version() == 0 {
            return saved;
        }
        for task in (1..=self.core.shared.max_task().load(Ordering::Acquire)).map(TaskId) {
            if !self.core.known(task).known {
                continue;
            }
            let enclave = Enclave { core: &mut self.core };
            if let Some(state) = self.policy.save(&enclave, task) {
                saved.add(task, enclave.task(task).pid(), state);
            }
        }
        saved
    }

    /// Gives back what the process before has saved, if it is of the same version, as it starts over.
    pub fn restore(&mut self, saved: &Arc<Saved>) {
        if saved.version() == self.policy.state_version() {
            self.saved = Some(saved.clone());
        }
    }

    /// When the policy wants its timer, CLOCK_MONOTONIC ns.
    pub fn timer(&self) -> Option<u64> {
        self.core.timer
    }

    /// Whether tasks that wake up can wait for the timer.
    pub fn dozes(&self) -> bool {
        self.core.dozes
    }

    /// Whether there is news that [`step`](Self::step) would see.
    pub fn has_news(&self) -> bool {
        let shared = &self.core.shared;
        shared.silent().load(Ordering::SeqCst) != 0
            || shared.own_cpus().any(|cpu| {
                shared.head(cpu).load(Ordering::SeqCst) != shared.tail(cpu).load(Ordering::Relaxed)
            })
    }

    /// Takes all news to the policy and writes what it decides.
    pub fn step(&mut self, now: u64) -> Progress {
        self.core.now = now;
        self.core.shared.beat().store(now, Ordering::SeqCst);
        let mut news = self.resume();
        news |= self.reap();
        for cpu in self.core.shared.own_cpus() {
            for _ in 0..BATCH {
                let Some(message) = self.core.shared.next(cpu) else { break };
                news = true;
                self.take(&message);
            }
        }
        if self.core.timer.is_some_and(|at| at <= now) {
            self.core.timer = None;
            self.core.dozes = false;
            news = true;
            self.policy.timer(&mut Enclave { core: &mut self.core });
        }
        if news {
            self.policy.schedule(&mut Enclave { core: &mut self.core });
        }
        self.core.shared.txn_tail().store(self.core.next_txn, Ordering::SeqCst);
        Progress { news, transactions: self.reaped != self.core.next_txn }
    }

    /// Starts over if BPF has stopped waiting for us.
    fn resume(&mut self) -> bool {
        if self.core.shared.silent().load(Ordering::Acquire) == 0 {
            return false;
        }
        let shared = self.core.shared.clone();
        for cpu in shared.own_cpus() {
            shared.tail(cpu).store(shared.head(cpu).load(Ordering::Acquire), Ordering::Release);
        }
        let since = shared.silent_since().load(Ordering::Relaxed);
        if since != 0 {
            self.meters.longest_silence.fetch_max(self.core.now.saturating_sub(since), Ordering::Relaxed);
        }
        // From here on there are messages again: whatever is both in one and in a status word below is told of
        // once, by its sequence number.
        shared.silent().store(0, Ordering::SeqCst);
        self.drop_in_flight();
        self.core.forget_all();
        self.policy.reset();
        self.replay_all();
        true
    }

    /// Waits for nothing: what has an outcome has one, the rest is stale by its own sequence number.
    fn drop_in_flight(&mut self) {
        self.reaped = self.core.next_txn;
        self.core.in_flight.clear();
    }

    /// Tells of all live tasks, and then of those that wait in the order in which they began to.
    fn replay_all(&mut self) {
        let shared = self.core.shared.clone();
        for index in 1..=shared.max_task().load(Ordering::Acquire) {
            match self.replay(TaskId(index)) {
                Some(true) => {
                    let since = shared.task_queued_at(index).load(Ordering::Relaxed);
                    self.waiting.push((since, TaskId(index)));
                }
                Some(false) => {
                    self.replay_state(TaskId(index));
                }
                None => {}
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_unstable();
        for (_, task) in waiting.drain(..) {
            if !self.replay_state(task) {
                self.policy.wakeup(&mut Enclave { core: &mut self.core }, task);
            }
        }
        self.waiting = waiting;
        self.saved = None;
    }

    /// Tells of what was saved of a task. Returns whether there was anything that the policy could use.
    fn replay_state(&mut self, task: TaskId) -> bool {
        let pid = self.core.shared.task_pid(task.0).load(Ordering::Relaxed);
        let Some(state) = self.saved.as_ref().and_then(|saved| saved.of(task, pid)) else { return false };
        let restored = self.policy.restore(&mut Enclave { core: &mut self.core }, task, state);
        self.meters.restored.fetch_add(u64::from(restored), Ordering::Relaxed);
        restored
    }

    /// Tells of a task if it is there. Returns whether it waits.
    fn replay(&mut self, task: TaskId) -> Option<bool> {
        let word = self.core.shared.word(task.0).load(Ordering::Acquire);
        let state = state_of(word);
        if matches!(state, intf::delegate_state_DELEGATE_FREE | intf::delegate_state_DELEGATE_DEPARTED) {
            return None;
        }
        // One that comes to this agent at this moment brings a message; one that leaves is stale.
        if !self.core.shared.owns(task.0) {
            return None;
        }
        let waits = state == intf::delegate_state_DELEGATE_QUEUED;
        *self.core.known(task) = Known { seen: seq_of(word), known: true, waits, placed: None };
        self.policy.task_new(&mut Enclave { core: &mut self.core }, task);
        Some(waits)
    }

    /// Takes the outcomes of transactions to the policy.
    pub fn reap(&mut self) -> bool {
        let done = self.core.shared.txn_head().load(Ordering::Acquire);
        let any = self.reaped < done && !self.core.in_flight.is_empty();
        while self.reaped < done
            && let Some(flight) = self.core.in_flight.pop_front()
        {
            let outcome = self.core.shared.outcome(self.reaped).load(Ordering::Relaxed);
            let chosen = self.core.shared.chosen(self.reaped).load(Ordering::Relaxed);
            self.reaped += 1;
            self.settle(flight, outcome, chosen);
        }
        any
    }

    fn settle(&mut self, flight: InFlight, outcome: u32, chosen: i32) {
        let outcome = match outcome {
            intf::delegate_outcome_DELEGATE_COMMITTED => Outcome::Committed(CpuId(chosen.max(0) as u32)),
            intf::delegate_outcome_DELEGATE_STALE => Outcome::Refused(Refused::Stale),
            intf::delegate_outcome_DELEGATE_GONE => Outcome::Refused(Refused::Gone),
            intf::delegate_outcome_DELEGATE_NOT_ALLOWED => Outcome::Refused(Refused::NotAllowed),
            intf::delegate_outcome_DELEGATE_OFFLINE => Outcome::Refused(Refused::Offline),
            intf::delegate_outcome_DELEGATE_ABORTED => Outcome::Refused(Refused::Aborted),
            intf::delegate_outcome_DELEGATE_AGAIN if flight.tries < MAX_TRIES => {
                // Alone: the others of its group are where they should be.
                self.core.send(InFlight { tries: flight.tries + 1, more: false, ..flight });
                return;
            }
            _ => Outcome::Refused(Refused::NotQueued),
        };
        let transaction = flight.transaction;
        match outcome {
            Outcome::Committed(cpu) => {
                // If it has been heard of since, it has run there and left already.
                if self.core.known(transaction.task).seen == flight.seq {
                    self.core.place(transaction.task, cpu);
                }
                self.policy.committed(&mut Enclave { core: &mut self.core }, &transaction);
            }
            Outcome::Refused(why) => {
                self.core.note_refused(&flight, why);
                self.policy.refused(&mut Enclave { core: &mut self.core }, &transaction, why);
                if !self.core.shared.owns(transaction.task.0) {
                    self.lose(transaction.task);
                }
            }
        }
    }

    /// Takes a message to the policy.
    fn take(&mut self, message: &Message) {
        let cpu = message.cpu();
        let core = &mut self.core;
        match message.kind {
            intf::delegate_kind_DELEGATE_CPU_IDLE => self.policy.cpu_idle(&mut Enclave { core }, cpu),
            intf::delegate_kind_DELEGATE_CPU_TICK => self.policy.cpu_tick(&mut Enclave { core }, cpu),
            _ => self.take_task(message),
        }
    }

    fn take_task(&mut self, message: &Message) {
        let task = TaskId(message.task);
        // Rings of different CPUs are read in any order: what is older than what was seen is no news.
        if message.seq <= self.core.known(task).seen {
            return;
        }
        if message.kind == intf::delegate_kind_DELEGATE_TASK_NEW {
            self.meet(task, true);
            // The message that follows has the same number.
            self.core.known(task).seen = message.seq - 1;
            return;
        }
        // The one ring of a CPU's own agent is in order: what is missing another agent has been told of.
        if self.core.shared.home().is_some() && message.seq > self.core.known(task).seen + 1 {
            self.lose(task);
        }
        self.meet(task, false);
        self.core.known(task).seen = message.seq;
        let same_place = matches!(
            message.kind,
            intf::delegate_kind_DELEGATE_AFFINITY | intf::delegate_kind_DELEGATE_PRIORITY
        );
        if !same_place {
            let waits = matches!(
                message.kind,
                intf::delegate_kind_DELEGATE_WAKEUP
                    | intf::delegate_kind_DELEGATE_PREEMPTED
                    | intf::delegate_kind_DELEGATE_YIELD
            );
            if waits {
                // Other news may lie until there is something to decide.
                self.meters.message.record(self.core.now.saturating_sub(message.time));
            }
            self.core.unplace(task);
            self.core.known(task).waits = waits;
        }
        let cpu = message.cpu();
        if message.kind == intf::delegate_kind_DELEGATE_DIRECT {
            self.core.place(task, cpu);
        }
        let leaves =
            message.kind == intf::delegate_kind_DELEGATE_TASK_DEPARTED && self.core.shared.home().is_some();
        if leaves || message.kind == intf::delegate_kind_DELEGATE_DEAD {
            self.core.known(task).known = false;
        }
        let enclave = &mut Enclave { core: &mut self.core };
        let policy = &mut self.policy;
        match message.kind {
            intf::delegate_kind_DELEGATE_WAKEUP => policy.wakeup(enclave, task),
            intf::delegate_kind_DELEGATE_PREEMPTED => policy.preempted(enclave, task),
            intf::delegate_kind_DELEGATE_YIELD => policy.yielded(enclave, task),
            intf::delegate_kind_DELEGATE_DIRECT => policy.direct(enclave, task, cpu),
            intf::delegate_kind_DELEGATE_TASK_BLOCKED => policy.blocked(enclave, task),
            intf::delegate_kind_DELEGATE_AFFINITY => policy.affinity_changed(enclave, task),
            intf::delegate_kind_DELEGATE_PRIORITY => policy.priority_changed(enclave, task),
            intf::delegate_kind_DELEGATE_TASK_DEPARTED => policy.departed(enclave, task),
            intf::delegate_kind_DELEGATE_DEAD => policy.dead(enclave, task),
            _ => {}
        }
    }

    /// Another CPU's agent decides for a task, or has until now.
    fn lose(&mut self, task: TaskId) {
        self.core.unplace(task);
        let known = self.core.known(task);
        if known.known {
            *known = Known { seen: known.seen, ..Known::default() };
            self.policy.departed(&mut Enclave { core: &mut self.core }, task);
        }
    }

    /// Makes a task known to the policy, if it is not. `anew`: it is another one than that of this number before,
    /// whose death is still in another CPU's ring.
    fn meet(&mut self, task: TaskId, anew: bool) {
        if self.core.known(task).known {
            if !anew {
                return;
            }
            self.core.unplace(task);
            self.core.known(task).waits = false;
            self.policy.dead(&mut Enclave { core: &mut self.core }, task);
        }
        self.core.known(task).known = true;
        self.policy.task_new(&mut Enclave { core: &mut self.core }, task);
    }
}
