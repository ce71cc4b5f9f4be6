// SPDX-License-Identifier: GPL-2.0-only
//! The memory that BPF and the agent share: rings, transactions, status words.
//!
//! All access is atomic, a field at a time, since the other side may write at any moment. What belongs together is
//! ordered by the counter that publishes it: BPF writes a message and then advances `head`, we write a transaction
//! and then advance `txn_tail`.

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use memmap2::{MmapOptions, MmapRaw};

use crate::intf::{self, delegate_agent, delegate_cpu, delegate_msg, delegate_task, delegate_txn};

/// Largest number of tasks with a status word.
pub const MAX_TASKS: usize = intf::delegate_consts_DELEGATE_MAX_TASKS as usize;
/// Transactions that can be pending.
pub const MAX_TXNS: usize = intf::delegate_consts_DELEGATE_MAX_TXNS as usize;
/// Words of an affinity.
pub const CPU_WORDS: usize = intf::delegate_consts_DELEGATE_CPU_WORDS as usize;

/// An array that both sides have.
struct Array<T> {
    start: NonNull<T>,
    len: usize,
    /// Frees it.
    _owner: Owner,
}

enum Owner {
    Mapped(#[expect(dead_code, reason = "held for its Drop")] MmapRaw),
    Simulated(#[expect(dead_code, reason = "held for its Drop")] Vec<u64>),
}

// SAFETY: the memory is accessed atomically only, and freed with its one owner.
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
        Ok(Array { start, len, _owner: Owner::Mapped(map) })
    }

    fn simulated(len: usize) -> Self {
        let mut words = vec![0u64; (len * size_of::<T>()).div_ceil(8)];
        let start = NonNull::new(words.as_mut_ptr().cast()).unwrap_or(NonNull::dangling());
        Array { start, len, _owner: Owner::Simulated(words) }
    }

    /// Where an entry is; wraps around.
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

/// Descriptors of the maps.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    pub msgs: RawFd,
    pub cpus: RawFd,
    pub tasks: RawFd,
    pub txns: RawFd,
    pub agent: RawFd,
}

/// All that BPF and the agent share.
pub struct Shared {
    msgs: Array<delegate_msg>,
    cpus: Array<delegate_cpu>,
    tasks: Array<delegate_task>,
    txns: Array<delegate_txn>,
    agent: Array<delegate_agent>,
    ring: usize,
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

/// A transaction as it goes to BPF.
#[derive(Debug, Clone)]
pub struct Txn {
    pub task: u32,
    pub seq: u64,
    pub slice: u64,
    pub cpu: i32,
    pub flags: u32,
    pub cpus: [u64; CPU_WORDS],
}

/// The state in a status word.
pub fn state_of(word: u64) -> u32 {
    (word & u64::from(intf::delegate_consts_DELEGATE_STATE_MASK)) as u32
}

/// The sequence number in a status word.
pub fn seq_of(word: u64) -> u64 {
    word >> intf::delegate_consts_DELEGATE_STATE_BITS
}

impl Shared {
    /// Maps what BPF has.
    pub fn map(fds: Descriptors, cpus: usize, ring: usize) -> Result<Self> {
        ensure!(ring.is_power_of_two(), "a ring of {ring} messages is no power of two");
        Ok(Shared {
            msgs: Array::map(fds.msgs, cpus * ring)?,
            cpus: Array::map(fds.cpus, cpus)?,
            tasks: Array::map(fds.tasks, MAX_TASKS)?,
            txns: Array::map(fds.txns, MAX_TXNS)?,
            agent: Array::map(fds.agent, 1)?,
            ring,
        })
    }

    /// Memory for a simulated kernel.
    pub fn simulated(cpus: usize, ring: usize) -> Self {
        Shared {
            msgs: Array::simulated(cpus * ring),
            cpus: Array::simulated(cpus),
            tasks: Array::simulated(MAX_TASKS),
            txns: Array::simulated(MAX_TXNS),
            agent: Array::simulated(1),
            ring,
        }
    }

    /// Number of CPUs.
    pub fn nr_cpus(&self) -> usize {
        self.cpus.len
    }

    pub fn head(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), head)
    }

    pub fn tail(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), tail)
    }

    /// The next message of a CPU's ring.
    pub fn next(&self, cpu: usize) -> Option<Message> {
        let tail = self.tail(cpu).load(Ordering::Relaxed);
        if tail == self.head(cpu).load(Ordering::Acquire) {
            return None;
        }
        let entry = self.msgs.at(cpu * self.ring + tail as usize % self.ring);
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
        if head - self.tail(cpu).load(Ordering::Acquire) >= self.ring as u64 {
            return false;
        }
        let entry = self.msgs.at(cpu * self.ring + head as usize % self.ring);
        atomic!(AtomicU32, entry, kind).store(message.kind, Ordering::Relaxed);
        atomic!(AtomicU32, entry, task).store(message.task, Ordering::Relaxed);
        atomic!(AtomicU64, entry, seq).store(message.seq, Ordering::Relaxed);
        atomic!(AtomicI32, entry, cpu).store(message.cpu, Ordering::Relaxed);
        atomic!(AtomicU64, entry, time).store(message.time, Ordering::Relaxed);
        self.head(cpu).store(head + 1, Ordering::Release);
        true
    }

    /// A task's status word.
    pub fn word(&self, task: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), word)
    }

    /// A 64-bit field of a task's status.
    pub fn task_runtime(&self, task: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), runtime)
    }

    pub fn task_queued_at(&self, task: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), queued_at)
    }

    pub fn task_pid(&self, task: u32) -> &AtomicI32 {
        atomic!(AtomicI32, self.tasks.at(task as usize), pid)
    }

    pub fn task_tgid(&self, task: u32) -> &AtomicI32 {
        atomic!(AtomicI32, self.tasks.at(task as usize), tgid)
    }

    pub fn task_cpu(&self, task: u32) -> &AtomicI32 {
        atomic!(AtomicI32, self.tasks.at(task as usize), cpu)
    }

    pub fn task_weight(&self, task: u32) -> &AtomicU32 {
        atomic!(AtomicU32, self.tasks.at(task as usize), weight)
    }

    pub fn task_affinity(&self, task: u32, word: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), affinity[word])
    }

    pub fn task_deadline(&self, task: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), deadline_ns)
    }

    pub fn task_hint_slice(&self, task: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.tasks.at(task as usize), hint_slice_ns)
    }

    pub fn task_class(&self, task: u32) -> &AtomicU32 {
        atomic!(AtomicU32, self.tasks.at(task as usize), class)
    }

    /// The task's name, NUL-padded, in two words.
    pub fn task_comm(&self, task: u32) -> [u8; 16] {
        let mut comm = [0; 16];
        for (n, half) in comm.chunks_exact_mut(8).enumerate() {
            let word = atomic!(AtomicU64, self.tasks.at(task as usize), comm[n * 8]);
            half.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        comm
    }

    pub fn cpu_pid(&self, cpu: usize) -> &AtomicI32 {
        atomic!(AtomicI32, self.cpus.at(cpu), pid)
    }

    pub fn cpu_since(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), since)
    }

    pub fn nr_queued(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), nr_queued)
    }

    pub fn nr_overdue(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), nr_overdue)
    }

    pub fn nr_left(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), nr_left)
    }

    pub fn nr_full(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), nr_full)
    }

    pub fn nr_undelegated(&self, cpu: usize) -> &AtomicU64 {
        atomic!(AtomicU64, self.cpus.at(cpu), nr_undelegated)
    }

    pub fn txn_tail(&self) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), txn_tail)
    }

    pub fn txn_head(&self) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), txn_head)
    }

    pub fn sleeping(&self) -> &AtomicU32 {
        atomic!(AtomicU32, self.agent.at(0), sleeping)
    }

    pub fn beat(&self) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), beat)
    }

    pub fn present(&self) -> &AtomicU32 {
        atomic!(AtomicU32, self.agent.at(0), present)
    }

    pub fn tid(&self) -> &AtomicI32 {
        atomic!(AtomicI32, self.agent.at(0), tid)
    }

    pub fn silent(&self) -> &AtomicU32 {
        atomic!(AtomicU32, self.agent.at(0), silent)
    }

    pub fn silent_since(&self) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), silent_since)
    }

    pub fn nr_silent(&self) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), nr_silent)
    }

    pub fn max_task(&self) -> &AtomicU32 {
        atomic!(AtomicU32, self.agent.at(0), max_task)
    }

    /// Transactions that ended this way.
    pub fn nr_outcome(&self, outcome: u32) -> &AtomicU64 {
        atomic!(AtomicU64, self.agent.at(0), outcomes[outcome as usize])
    }

    /// Writes transaction `n`; [`txn_tail`](Self::txn_tail) publishes it.
    pub fn put(&self, n: u64, txn: &Txn) {
        let entry = self.txns.at(n as usize);
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
        self.outcome(n).store(intf::delegate_outcome_DELEGATE_PENDING, Ordering::Relaxed);
    }

    /// Reads transaction `n`, as BPF does.
    pub fn txn(&self, n: u64) -> Txn {
        let entry = self.txns.at(n as usize);
        Txn {
            seq: atomic!(AtomicU64, entry, seq).load(Ordering::Relaxed),
            slice: atomic!(AtomicU64, entry, slice).load(Ordering::Relaxed),
            task: atomic!(AtomicU32, entry, task).load(Ordering::Relaxed),
            cpu: atomic!(AtomicI32, entry, cpu).load(Ordering::Relaxed),
            flags: atomic!(AtomicU32, entry, flags).load(Ordering::Relaxed),
            cpus: std::array::from_fn(|n| atomic!(AtomicU64, entry, cpus[n]).load(Ordering::Relaxed)),
        }
    }

    /// What became of transaction `n`.
    pub fn outcome(&self, n: u64) -> &AtomicU32 {
        atomic!(AtomicU32, self.txns.at(n as usize), outcome)
    }

    /// The CPU that transaction `n` went to.
    pub fn chosen(&self, n: u64) -> &AtomicI32 {
        atomic!(AtomicI32, self.txns.at(n as usize), chosen)
    }
}
