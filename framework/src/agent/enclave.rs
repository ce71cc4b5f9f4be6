// SPDX-License-Identifier: GPL-2.0-only
//! What a policy sees and does: tasks, CPUs, transactions, a timer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::{CPU_WORDS, MAX_TASKS, Shared, Txn};
use super::{CpuId, TaskId};
use crate::hints::{Class, Hint, Raw as _};
use crate::intf;

/// How long a CPU that was found offline is left alone, ns.
const OFFLINE_FOR: u64 = 1_000_000_000;

/// A decision: run a task on a CPU. Made with [`Transaction::run`], sent with [`Enclave::submit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    pub(super) task: TaskId,
    pub(super) place: Place,
    pub(super) slice_ns: u64,
    pub(super) room: Option<Room>,
    /// Sequence number that it is based on; the last one heard of if it is not said.
    pub(super) seq: Option<u64>,
}

/// For whom the running task makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// This task.
    First,
    /// What waits for that CPU, this task last.
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cpu(CpuId),
    AnyOf([u64; CPU_WORDS]),
}

impl Transaction {
    /// Runs a task on a CPU, after what that CPU has been given before.
    pub fn run(task: TaskId, cpu: CpuId) -> Self {
        Transaction { task, place: Place::Cpu(cpu), slice_ns: 20_000_000, room: None, seq: None }
    }

    /// Runs a task on an idle one of these CPUs, or, if none is idle when BPF looks, on any of them that the task
    /// may use.
    pub fn run_on_any(task: TaskId, cpus: impl IntoIterator<Item = CpuId>) -> Self {
        let mut set = [0; CPU_WORDS];
        for CpuId(cpu) in cpus {
            if let Some(word) = set.get_mut(cpu as usize / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
        Transaction { place: Place::AnyOf(set), ..Transaction::run(task, CpuId(0)) }
    }

    /// How long it may run before it is preempted for what waits on that CPU, ns. 20 ms if this is not said.
    pub fn slice(self, ns: u64) -> Self {
        Transaction { slice_ns: ns, ..self }
    }

    /// What runs on the CPU makes room at once, as if its slice were over. Without this the task runs when the
    /// CPU schedules next, which an idle CPU does at once.
    pub fn preempt(self) -> Self {
        Transaction { room: Some(Room::First), ..self }
    }

    /// What runs on the CPU makes room at once for what that CPU has been given before, and then for this task. For
    /// policies that preempt all the time: a kernel thread that waits there gets its turn.
    pub fn take_turns(self) -> Self {
        Transaction { room: Some(Room::Last), ..self }
    }

    /// The decision is based on what was known when [`Enclave::seq`] was this: for decisions that take longer than a
    /// callback. If anything has happened to the task since, it is refused as stale.
    pub fn as_of(self, seq: u64) -> Self {
        Transaction { seq: Some(seq), ..self }
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// The CPU, unless it was left to BPF.
    pub fn cpu(&self) -> Option<CpuId> {
        match self.place {
            Place::Cpu(cpu) => Some(cpu),
            Place::AnyOf(_) => None,
        }
    }

    fn to_txn(self, seq: u64, more: bool, seen: u64) -> Txn {
        let (cpu, cpus, any) = match self.place {
            Place::Cpu(CpuId(cpu)) => (cpu as i32, [0; CPU_WORDS], 0),
            Place::AnyOf(cpus) => (-1, cpus, intf::delegate_txn_flags_DELEGATE_ANY_OF),
        };
        let room = match self.room {
            None => 0,
            Some(Room::First) => intf::delegate_txn_flags_DELEGATE_PREEMPT,
            Some(Room::Last) => intf::delegate_txn_flags_DELEGATE_TAKE_TURNS,
        };
        let more = if more { intf::delegate_txn_flags_DELEGATE_MORE } else { 0 };
        Txn { task: self.task.0, seq, slice: self.slice_ns, cpu, flags: any | room | more, cpus, seen }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The task is on this CPU, or next there.
    Committed(CpuId),
    /// It was not carried out.
    Refused(Refused),
}

/// Why a transaction was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// ESTALE: something has happened to the task that the policy had not heard of. It will.
    Stale,
    /// The task is dead.
    Gone,
    /// The task does not wait for a decision: BPF has scheduled it, as a rule.
    NotQueued,
    /// The task may not run on that CPU.
    NotAllowed,
    /// That CPU is offline, or there is none.
    Offline,
    /// Another transaction of its group was refused.
    Aborted,
}

impl Refused {
    /// Whether the task still waits.
    fn leaves_waiting(self) -> bool {
        matches!(self, Refused::NotAllowed | Refused::Offline | Refused::Aborted)
    }
}

/// What the agent knows of a task.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Sequence number of the last message about it.
    pub seen: u64,
    pub known: bool,
    pub waits: bool,
    /// CPU that it was given, until the next news of it.
    pub placed: Option<CpuId>,
}

/// A transaction on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub transaction: Transaction,
    pub seq: u64,
    pub more: bool,
    pub tries: u32,
}

/// The state behind an [`Enclave`].
pub(super) struct Core {
    pub shared: Arc<Shared>,
    pub tasks: Vec<Known>,
    /// Tasks that a CPU has been given and that have not been heard of since.
    pub placed: Vec<u32>,
    offline_until: Vec<u64>,
    pub in_flight: VecDeque<InFlight>,
    /// Number of the next transaction to be written.
    pub next_txn: u64,
    pub now: u64,
    pub timer: Option<u64>,
    /// Tasks that wake up can wait for the timer.
    pub dozes: bool,
}

impl Core {
    pub fn new(shared: Arc<Shared>) -> Self {
        let cpus = shared.nr_cpus();
        let next_txn = shared.txn_tail().load(Ordering::Relaxed);
        // Nothing is allocated later, while it decides.
        let in_flight = VecDeque::with_capacity(shared.max_txns());
        Core {
            shared,
            tasks: vec![Known::default(); MAX_TASKS],
            placed: vec![0; cpus],
            offline_until: vec![0; cpus],
            in_flight,
            next_txn,
            now: 0,
            timer: None,
            dozes: false,
        }
    }

    pub fn known(&mut self, task: TaskId) -> &mut Known {
        &mut self.tasks[task.index()]
    }

    /// Its CPU is not counted as given to it any more.
    pub fn unplace(&mut self, task: TaskId) {
        if let Some(CpuId(cpu)) = self.known(task).placed.take() {
            let placed = &mut self.placed[cpu as usize];
            *placed = placed.saturating_sub(1);
        }
    }

    pub fn place(&mut self, task: TaskId, cpu: CpuId) {
        self.unplace(task);
        if let Some(placed) = self.placed.get_mut(cpu.0 as usize) {
            *placed += 1;
            self.known(task).placed = Some(cpu);
        }
    }

    /// Notes a refusal.
    pub fn note_refused(&mut self, flight: &InFlight, why: Refused) {
        let now = self.now;
        if let (Refused::Offline, Some(CpuId(cpu))) = (why, flight.transaction.cpu())
            && let Some(until) = self.offline_until.get_mut(cpu as usize)
        {
            *until = now + OFFLINE_FOR;
        }
        let task = flight.transaction.task;
        if self.known(task).seen == flight.seq {
            self.unplace(task);
            self.known(task).waits = why.leaves_waiting();
        }
    }

    pub fn forget_all(&mut self) {
        // Sequence numbers stay: what is in the rings twice must not be taken for news.
        for task in &mut self.tasks {
            *task = Known { seen: task.seen, ..Known::default() };
        }
        self.placed.fill(0);
        self.timer = None;
        self.dozes = false;
    }

    fn write(&mut self, transaction: Transaction, more: bool) {
        let seen = self.known(transaction.task).seen;
        let seq = transaction.seq.unwrap_or(seen);
        self.send(InFlight { transaction, seq, more, tries: 0 });
        if seq != seen {
            // It will be refused, and nothing changes.
            return;
        }
        self.known(transaction.task).waits = false;
        if let Place::Cpu(cpu) = transaction.place {
            self.place(transaction.task, cpu);
        }
    }

    pub fn send(&mut self, flight: InFlight) {
        self.shared.put(self.next_txn, &flight.transaction.to_txn(flight.seq, flight.more, self.now));
        self.next_txn += 1;
        self.in_flight.push_back(flight);
    }

    fn room(&self) -> usize {
        self.shared.max_txns() - self.in_flight.len()
    }
}

/// The part of the machine that a policy decides for: all tasks and CPUs under it, or one CPU and the tasks there.
pub struct Enclave<'a> {
    pub(super) core: &'a mut Core,
}

/// A CPU, as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// Tasks that it has been given and that have neither slept nor been preempted since, as far as is known.
    pub given: u32,
    /// Process id of the running task, of any kind; 0 if it is idle, or will be when the agent sleeps.
    pub pid: i32,
    /// Since when that runs, CLOCK_MONOTONIC ns.
    pub since_ns: u64,
}

/// A task, as it is now.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    shared: &'a Shared,
    index: u32,
}

impl Enclave<'_> {
    /// CLOCK_MONOTONIC when this batch of callbacks began, ns.
    pub fn now(&self) -> u64 {
        self.core.now
    }

    /// All CPUs that can be used; with an agent for each CPU, this agent's.
    #[inline]
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> {
        let now = self.core.now;
        let own = self.core.shared.own_cpus();
        let first = own.start;
        let online = move |(n, until): (usize, &u64)| (*until <= now).then_some(CpuId((first + n) as u32));
        self.core.offline_until[own].iter().enumerate().filter_map(online)
    }

    /// A CPU.
    #[inline]
    pub fn cpu(&self, CpuId(cpu): CpuId) -> Cpu {
        let at = cpu as usize % self.core.placed.len();
        let shared = &self.core.shared;
        let pid = shared.cpu_pid(at).load(Ordering::Relaxed);
        Cpu {
            given: self.core.placed[at],
            pid: if pid == shared.tid().load(Ordering::Relaxed) { 0 } else { pid },
            since_ns: shared.cpu_since(at).load(Ordering::Relaxed),
        }
    }

    /// A task.
    pub fn task(&self, TaskId(index): TaskId) -> Task<'_> {
        Task { shared: &self.core.shared, index }
    }

    /// Whether a task waits for a decision, as far as is known.
    #[inline]
    pub fn waits(&self, task: TaskId) -> bool {
        self.core.tasks[task.index()].waits && self.core.shared.owns(task.0)
    }

    /// Sequence number of the last news of a task; see [`Transaction::as_of`].
    pub fn seq(&self, task: TaskId) -> u64 {
        self.core.tasks[task.index()].seen
    }

    /// Sends a decision. It is carried out after the callbacks of this batch; what became of it comes as
    /// [`Policy::committed`](super::Policy::committed) or [`refused`](super::Policy::refused).
    ///
    /// Returns `false`, and does nothing, while too many are on their way: try again in the next
    /// [`schedule`](super::Policy::schedule).
    #[must_use = "the task still waits if there was no room"]
    pub fn submit(&mut self, transaction: Transaction) -> bool {
        self.submit_group(&[transaction])
    }

    /// Sends decisions of which all are carried out or none.
    ///
    /// At most 64; returns `false`, and does nothing, for more, or while too many are on their way.
    #[must_use = "the tasks still wait if there was no room"]
    pub fn submit_group(&mut self, group: &[Transaction]) -> bool {
        if group.len() > intf::delegate_consts_DELEGATE_MAX_GROUP as usize || group.len() > self.core.room() {
            return false;
        }
        for (n, transaction) in group.iter().enumerate() {
            self.core.write(*transaction, n + 1 < group.len());
        }
        true
    }

    /// Asks for [`Policy::timer`](super::Policy::timer) at a time (CLOCK_MONOTONIC, ns), in place of the one asked
    /// for before, or takes that back.
    pub fn wake_at(&mut self, at_ns: Option<u64>) {
        self.core.timer = at_ns;
        self.core.dozes = false;
    }

    /// Like [`wake_at`](Self::wake_at), and until then tasks that wake up do not wake the agent: for when all CPUs have
    /// what they should run. They are told of with the next other news.
    pub fn doze_until(&mut self, at_ns: u64) {
        self.wake_at(Some(at_ns));
        self.core.dozes = true;
    }
}

impl Task<'_> {
    /// Thread id.
    pub fn pid(&self) -> i32 {
        self.shared.task_pid(self.index).load(Ordering::Relaxed)
    }

    /// Process id.
    pub fn tgid(&self) -> i32 {
        self.shared.task_tgid(self.index).load(Ordering::Relaxed)
    }

    /// Its name when it was first seen.
    pub fn comm(&self) -> String {
        let comm = self.shared.task_comm(self.index);
        let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        String::from_utf8_lossy(&comm[..end]).into_owned()
    }

    /// CPU that it was on last.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.shared.task_cpu(self.index).load(Ordering::Relaxed).max(0) as u32)
    }

    /// Weight from its nice value and cgroups, 100 = default.
    pub fn weight(&self) -> u32 {
        self.shared.task_weight(self.index).load(Ordering::Relaxed)
    }

    /// What it has run in all until the last message about it, ns.
    pub fn runtime_ns(&self) -> u64 {
        self.shared.task_runtime(self.index).load(Ordering::Relaxed)
    }

    /// When it was last queued for a decision, CLOCK_MONOTONIC ns.
    pub fn queued_at(&self) -> u64 {
        self.shared.task_queued_at(self.index).load(Ordering::Relaxed)
    }

    /// Its hint (`scx_run hint`), as it was when it was last queued.
    pub fn hint(&self) -> Hint {
        let said = |field: &AtomicU64| Some(field.load(Ordering::Relaxed)).filter(|value| *value != 0);
        Hint {
            deadline_ns: said(self.shared.task_deadline(self.index)),
            slice_ns: said(self.shared.task_hint_slice(self.index)),
            class: Class::of_raw(self.shared.task_class(self.index).load(Ordering::Relaxed)),
        }
    }

    /// Whether its affinity has this CPU.
    #[inline]
    pub fn may_run_on(&self, CpuId(cpu): CpuId) -> bool {
        let word = cpu as usize / 64;
        word < CPU_WORDS
            && self.shared.task_affinity(self.index, word).load(Ordering::Relaxed) & (1 << (cpu % 64)) != 0
    }
}
