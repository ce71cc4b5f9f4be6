// SPDX-License-Identifier: GPL-2.0-only
//! The memory that BPF and the agent share: rings, transactions, status words.
//!
//! All access is atomic, a field at a time, since the other side may write at any moment. What belongs together is
//! ordered by the counter that publishes it: BPF writes a message and then advances `head`, we write a transaction
//! and then advance `txn_tail`.

use std::ops::Range;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use memmap2::{MmapOptions, MmapRaw};

use super::CpuId;
use crate::intf::{self, delegate_agent, delegate_cpu, delegate_msg, delegate_task, delegate_txn};

/// Largest number of tasks with a status word.
pub const MAX_TASKS: usize = intf::delegate_consts_DELEGATE_MAX_TASKS as usize;
/// Transactions that can be pending.
const MAX_TXNS: usize = intf::delegate_consts_DELEGATE_MAX_TXNS as usize;
/// Those of one of many agents.
const CPU_TXNS: usize = intf::delegate_consts_DELEGATE_CPU_TXNS as usize;
/// Words of an affinity.
pub const CPU_WORDS: usize = intf::delegate_consts_DELEGATE_CPU_WORDS as usize;

/// An array that both sides have.
struct Array<T> {
    start: NonNull<T>,
    len: usize,
    /// Frees it, when the last one who has it is gone.
    _owner: Arc<Owner>,
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Array { start: self.start, len: self.len, _owner: self._owner.clone() }
    }
}

enum Owner {
    Mapped(#[expect(dead_code, reason = "held for its Drop")] MmapRaw),
    Simulated(#[expect(dead_code, reason = "held for its Drop")] Vec<u64>),
}

// SAFETY: the memory is accessed atomically only, and freed with its owner, which all copies hold.
unsafe impl<T> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Array<T> {}

impl<T> Array<T> {
    fn map(fd: RawFd, len: usize) -> Result<Self> {
        let map = MmapOptions::new()
            .len(len * size_of::<T>())
            .map_raw(fd)
            .context("cannot map memory that is shared with BPF")?;
        let start = NonNull::new(map.as_mut_ptr().cast()).context("a mapping at 0")?;
        Ok(Array { start, len, _owner: Arc::new(Owner::Mapped(map)) })
    }

    fn simulated(len: usize) -> Self {
        let mut words = vec![0u64; (len * size_of::<T>()).div_ceil(8)];
        let start = NonNull::new(words.as_mut_ptr().cast()).unwrap_or(NonNull::dangling());
        Array { start, len, _owner: Arc::new(Owner::Simulated(words)) }
    }

    /// A part of it.
    fn part(&self, start: usize, len: usize) -> Self {
        let part = start..start + len;
        assert!(part.end <= self.len, "{part:?} of {}", self.len);
        // SAFETY: the part is within the array, as was just checked.
        Array { start: unsafe { self.start.add(start) }, len, _owner: self._owner.clone() }
    }

    /// Where an entry is; wraps around.
    #[inline]
    fn at(&self, index: usize) -> *mut T {
        // SAFETY: the index is below the array's length.
        unsafe { self.start.as_ptr().add(index % self.len) }
    }
}

/// An atomic view of a field: `atomic!(AtomicU64, pointer, field)`.
macro_rules! atomic {
    ($kind:ident, $entry:expr, $($field:tt)+) => {{
        let entry = $entry;
        // SAFETY: the entry is within a live array and aligned; all sides access its fields atomically.
        unsafe { $kind::from_ptr((&raw mut (*entry).$($field)+).cast()) }
    }};
}

/// Makes a method for each field of an array's entries: its atomic view.
macro_rules! fields {
    ($array:ident[$index:ident: $type:ty] $($name:ident: $kind:ident = $field:ident,)+) => {
        $(#[inline]
        pub fn $name(&self, $index: $type) -> &$kind {
            atomic!($kind, self.memory.$array.at($index as usize), $field)
        })+
    };
    (agent $($name:ident: $kind:ident = $field:ident,)+) => {
        $(#[inline]
        pub fn $name(&self) -> &$kind {
            atomic!($kind, self.agent(), $field)
        })+
    };
}

/// Descriptors of the maps.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    pub msgs: RawFd,
    pub cpus: RawFd,
    pub tasks: RawFd,
    pub txns: RawFd,
    pub agent: RawFd,
}

/// Which agents a policy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// One for all CPUs.
    Global,
    /// One for each CPU.
    PerCpu,
}

impl Model {
    /// Number of agents on a machine with so many CPUs.
    pub fn agents(self, cpus: usize) -> usize {
        match self {
            Model::Global => 1,
            Model::PerCpu => cpus,
        }
    }

    /// Transactions of each that can be pending: a power of two.
    pub fn txns(self) -> usize {
        match self {
            Model::Global => MAX_TXNS,
            Model::PerCpu => CPU_TXNS,
        }
    }
}

/// All that BPF and the agents share.
#[derive(Clone)]
struct Memory {
    msgs: Array<delegate_msg>,
    cpus: Array<delegate_cpu>,
    tasks: Array<delegate_task>,
    txns: Array<delegate_txn>,
    agents: Array<delegate_agent>,
    ring: usize,
    model: Model,
}

/// What BPF shares with one agent.
pub struct Shared {
    /// A copy, since a decision looks at it many times.
    memory: Memory,
    /// The agent's own transactions, and its own word.
    txns: Array<delegate_txn>,
    agent: Array<delegate_agent>,
    /// The CPU that it decides for, if not for all.
    home: Option<usize>,
}

/// A message as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    pub kind: u32,
    pub task: u32,
    pub seq: u64,
    pub cpu: i32,
    pub time: u64,
}

impl Message {
    /// The CPU that it is about, or that its task is on.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.cpu.max(0) as u32)
    }
}

/// A transaction as it goes to BPF.
#[derive(Debug, Clone)]
pub struct Txn {
    pub task: u32,
    pub seq: u64,
    pub slice: u64,
    pub cpu: i32,
    pub flags: u32,
    pub cpus: [u64; CPU_WORDS],
    /// When the agent saw what it is about, ns.
    pub seen: u64,
}

/// The state in a status word.
pub fn state_of(word: u64) -> u32 {
    (word & u64::from(intf::delegate_consts_DELEGATE_STATE_MASK)) as u32
}

/// The sequence number in a status word.
pub fn seq_of(word: u64) -> u64 {
    word >> intf::delegate_consts_DELEGATE_STATE_BITS
}

/// The status word of a sequence number and a state.
pub fn word_of(seq: u64, state: u32) -> u64 {
    seq << intf::delegate_consts_DELEGATE_STATE_BITS | u64::from(state)
}

impl Memory {
    /// Message `n` of a CPU's ring.
    fn message(&self, cpu: usize, n: u64) -> *mut delegate_msg {
        self.msgs.at(cpu * self.ring + n as usize % self.ring)
    }
}

impl Shared {
    /// Maps what BPF has. Returns what it shares with each agent.
    pub fn map(fds: Descriptors, cpus: usize, ring: usize, model: Model) -> Result<Vec<Arc<Self>>> {
        ensure!(ring.is_power_of_two(), "a ring of {ring} messages is no power of two");
        let agents = model.agents(cpus);
        Ok(Self::each(Memory {
            msgs: Array::map(fds.msgs, cpus * ring)?,
            cpus: Array::map(fds.cpus, cpus)?,
            tasks: Array::map(fds.tasks, MAX_TASKS)?,
            txns: Array::map(fds.txns, agents * model.txns())?,
            agents: Array::map(fds.agent, agents)?,
            ring,
            model,
        }))
    }

    /// Memory for a simulated kernel.
    pub fn simulated(cpus: usize, ring: usize, model: Model) -> Vec<Arc<Self>> {
        let agents = model.agents(cpus);
        Self::each(Memory {
            msgs: Array::simulated(cpus * ring),
            cpus: Array::simulated(cpus),
            tasks: Array::simulated(MAX_TASKS),
            txns: Array::simulated(agents * model.txns()),
            agents: Array::simulated(agents),
            ring,
            model,
        })
    }

    fn each(memory: Memory) -> Vec<Arc<Self>> {
        let each = memory.model.txns();
        let of = |n| Shared {
            memory: memory.clone(),
            txns: memory.txns.part(n * each, each),
            agent: memory.agents.part(n, 1),
            home: (memory.model == Model::PerCpu).then_some(n),
        };
        (0..memory.agents.len).map(of).map(Arc::new).collect()
    }

    /// Number of CPUs.
    pub fn nr_cpus(&self) -> usize {
        self.memory.cpus.len
    }

    /// The CPU that the agent decides for, if not for all.
    pub fn home(&self) -> Option<usize> {
        self.home
    }

    /// The CPUs that the agent decides for, whose messages are for it.
    #[inline]
    pub fn own_cpus(&self) -> Range<usize> {
        self.home.map_or(0..self.nr_cpus(), |cpu| cpu..cpu + 1)
    }

    /// Whether a task was for this agent when it was queued last.
    #[inline]
    pub fn owns(&self, task: u32) -> bool {
        self.home.is_none_or(|cpu| self.task_cpu(task).load(Ordering::Relaxed) == cpu as i32)
    }

    /// Transactions of the agent that can be pending.
    pub fn max_txns(&self) -> usize {
        self.txns.len
    }

    #[inline]
    fn agent(&self) -> *mut delegate_agent {
        self.agent.at(0)
    }

    fn txn_at(&self, n: u64) -> *mut delegate_txn {
        self.txns.at(n as usize)
    }

    // Of a CPU: its ring, its status, its counters.
    fields! { cpus[cpu: usize]
        head: AtomicU64 = head,
        tail: AtomicU64 = tail,
        cpu_pid: AtomicI32 = pid,
        cpu_since: AtomicU64 = since,
        nr_queued: AtomicU64 = nr_queued,
        nr_overdue: AtomicU64 = nr_overdue,
        nr_left: AtomicU64 = nr_left,
        nr_full: AtomicU64 = nr_full,
        nr_undelegated: AtomicU64 = nr_undelegated,
        nr_direct: AtomicU64 = nr_direct,
        nr_staged: AtomicU64 = nr_staged,
        nr_stolen: AtomicU64 = nr_stolen,
    }

    // Of a task.
    fields! { tasks[task: u32]
        word: AtomicU64 = word,
        task_runtime: AtomicU64 = runtime,
        task_queued_at: AtomicU64 = queued_at,
        task_pid: AtomicI32 = pid,
        task_tgid: AtomicI32 = tgid,
        task_cpu: AtomicI32 = cpu,
        task_weight: AtomicU32 = weight,
        task_deadline: AtomicU64 = deadline_ns,
        task_hint_slice: AtomicU64 = hint_slice_ns,
        task_class: AtomicU32 = class,
    }

    // Of the agent.
    fields! { agent
        txn_tail: AtomicU64 = txn_tail,
        txn_head: AtomicU64 = txn_head,
        sleeping: AtomicU32 = sleeping,
        gathered: AtomicU32 = gathered,
        beat: AtomicU64 = beat,
        present: AtomicU32 = present,
        tid: AtomicI32 = tid,
        offline: AtomicU32 = offline,
        silent: AtomicU32 = silent,
        silent_since: AtomicU64 = silent_since,
        nr_silent: AtomicU64 = nr_silent,
    }

    /// Highest number of a task ever used: of all, whoever decides for them.
    pub fn max_task(&self) -> &AtomicU32 {
        atomic!(AtomicU32, self.memory.agents.at(0), max_task)
    }

    /// The next message of a CPU's ring.
    pub fn next(&self, cpu: usize) -> Option<Message> {
        let tail = self.tail(cpu).load(Ordering::Relaxed);
        if tail == self.head(cpu).load(Ordering::Acquire) {
            return None;
        }
        let entry = self.memory.message(cpu, tail);
        let message = Message {
            kind: atomic!(AtomicU32, entry, kind).load(Ordering::Relaxed),
            task: atomic!(AtomicU32, entry, task).load(Ordering::Relaxed),
            seq: atomic!(AtomicU64, entry, seq).load(Ordering::Relaxed),
            cpu: atomic!(AtomicI32, entry, cpu).load(Ordering::Relaxed),
            time: atomic!(AtomicU64, entry, time).load(Ordering::Relaxed),
        };
        self.tail(cpu).store(tail + 1, Ordering::Release);
        Some(message)
    }

    /// Writes a message, as BPF does. `false` if the ring is full.
    pub fn post(&self, cpu: usize, message: &Message) -> bool {
        let head = self.head(cpu).load(Ordering::Relaxed);
        if head - self.tail(cpu).load(Ordering::Acquire) >= self.memory.ring as u64 {
            return false;
        }
        let entry = self.memory.message(cpu, head);
        atomic!(AtomicU32, entry, kind).store(message.kind, Ordering::Relaxed);
        atomic!(AtomicU32, entry, task).store(message.task, Ordering::Relaxed);
        atomic!(AtomicU64, entry, seq).store(message.seq, Ordering::Relaxed);
        atomic!(AtomicI32, entry, cpu).store(message.cpu, Ordering::Relaxed);
        atomic!(AtomicU64, entry, time).store(message.time, Ordering::Relaxed);
        self.head(cpu).store(head + 1, Ordering::Release);
        true
    }

    #[inline]
    pub fn task_affinity(&self, task: u32, word: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.memory.tasks.at(task as usize), affinity[word])
    }

    /// The task's name, NUL-padded, in two words.
    pub fn task_comm(&self, task: u32) -> [u8; 16] {
        let mut comm = [0; 16];
        for (n, half) in comm.chunks_exact_mut(8).enumerate() {
            let word = atomic!(AtomicU64, self.memory.tasks.at(task as usize), comm[n * 8]);
            half.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        comm
    }

    /// Time that a stage of wakeups took on a CPU in all, ns.
    pub fn stage_ns(&self, cpu: usize, stage: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.memory.cpus.at(cpu), stage_ns[stage as usize])
    }

    /// Transactions of the agent that ended this way.
    pub fn nr_outcome(&self, outcome: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent(), outcomes[outcome as usize])
    }

    /// Writes transaction `n`; [`txn_tail`](Self::txn_tail) publishes it.
    pub fn put(&self, n: u64, txn: &Txn) {
        let entry = self.txn_at(n);
        atomic!(AtomicU64, entry, seq).store(txn.seq, Ordering::Relaxed);
        atomic!(AtomicU64, entry, slice).store(txn.slice, Ordering::Relaxed);
        atomic!(AtomicU32, entry, task).store(txn.task, Ordering::Relaxed);
        atomic!(AtomicI32, entry, cpu).store(txn.cpu, Ordering::Relaxed);
        atomic!(AtomicU32, entry, flags).store(txn.flags, Ordering::Relaxed);
        if txn.flags & intf::delegate_txn_flags_DELEGATE_ANY_OF != 0 {
            for (n, word) in txn.cpus.iter().enumerate() {
                atomic!(AtomicU64, entry, cpus[n]).store(*word, Ordering::Relaxed);
            }
        }
        atomic!(AtomicU64, entry, seen).store(txn.seen, Ordering::Relaxed);
        self.outcome(n).store(intf::delegate_outcome_DELEGATE_PENDING, Ordering::Relaxed);
    }

    /// Reads transaction `n`, as BPF does.
    pub fn txn(&self, n: u64) -> Txn {
        let entry = self.txn_at(n);
        Txn {
            seq: atomic!(AtomicU64, entry, seq).load(Ordering::Relaxed),
            slice: atomic!(AtomicU64, entry, slice).load(Ordering::Relaxed),
            task: atomic!(AtomicU32, entry, task).load(Ordering::Relaxed),
            cpu: atomic!(AtomicI32, entry, cpu).load(Ordering::Relaxed),
            flags: atomic!(AtomicU32, entry, flags).load(Ordering::Relaxed),
            cpus: std::array::from_fn(|n| atomic!(AtomicU64, entry, cpus[n]).load(Ordering::Relaxed)),
            seen: atomic!(AtomicU64, entry, seen).load(Ordering::Relaxed),
        }
    }

    /// What became of transaction `n`.
    pub fn outcome(&self, n: u64) -> &AtomicU32 {
        atomic!(AtomicU32, self.txn_at(n), outcome)
    }

    /// The CPU that transaction `n` went to.
    pub fn chosen(&self, n: u64) -> &AtomicI32 {
        atomic!(AtomicI32, self.txn_at(n), chosen)
    }
}
