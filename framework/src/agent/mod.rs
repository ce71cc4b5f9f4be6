// SPDX-License-Identifier: GPL-2.0-only
//! Delegation: policies in Rust, in this process, that decide which task runs where.
//!
//! After ghOSt (Humphries et al., SOSP 2021). BPF (`bpf/include/delegate.bpf.h`) turns what happens to tasks into
//! messages; a [`Policy`] gets one callback for each and answers with transactions, through the [`Enclave`] that
//! every callback is given. A transaction names a task as the policy last knew it. If anything has happened to the
//! task since, the transaction is stale: it is refused and never applied, and the policy is told.
//!
//! The kernel never waits for a policy without limit: see `agent_timeout_us` of a delegated policy. Nor is
//! anything lost if the agent was too slow for its messages: it then starts over with [`Policy::reset`], and all
//! live tasks are told of again.
//!
//! | module | what it is for |
//! |---|---|
//! | `shared` | the memory that BPF and the agent share |
//! | `enclave` | what a policy sees and does: tasks, CPUs, transactions, timers |
//! | `driver` | makes callbacks of messages and outcomes; knows no kernel |
//! | `thread` | the thread that decides: sleeping, waking, carrying out |
//! | [`sim`] | a simulated kernel, to test decisions without booting one |

mod driver;
mod enclave;
mod shared;
pub mod sim;
mod status;
mod thread;

use std::collections::BTreeMap;

pub use enclave::{Cpu, Enclave, Refused, Task, Transaction};
pub use shared::MAX_TASKS;
pub use status::AgentStatus;
pub(crate) use thread::{Agent, is_delegated, size_maps};

/// A task, as long as it lives. The number is used again after its death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(crate) u32);

impl TaskId {
    /// The number, below [`MAX_TASKS`]: for what a policy keeps of each task in a table of its own.
    pub fn index(self) -> usize {
        self.0 as usize % MAX_TASKS
    }
}

/// Number of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

/// What a policy is made with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Value of each parameter.
    pub params: BTreeMap<String, u64>,
    /// CPU ids are below this.
    pub cpus: u32,
}

impl Settings {
    /// Value of a parameter that the policy's BPF half declares; 0 if it does not.
    pub fn param(&self, name: &str) -> u64 {
        self.params.get(name).copied().unwrap_or(0)
    }
}

/// Makes a policy.
pub type Factory = fn(&Settings) -> Box<dyn Policy>;

/// A policy that decides in user space.
///
/// Callbacks come on one thread, one at a time, and must not block: while one runs, nobody decides. A task that
/// *waits* has to be given a CPU by a transaction, at once or in a later callback. What is not given one within
/// the policy's `agent_timeout_us` is scheduled by BPF.
pub trait Policy: Send {
    /// A task is seen for the first time. It does not wait yet: if it does, [`wakeup`](Self::wakeup) follows.
    fn task_new(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// A task has woken up, or is new, and waits.
    fn wakeup(&mut self, enclave: &mut Enclave<'_>, task: TaskId);

    /// A task has used up its slice, or has made room for another, and waits.
    fn preempted(&mut self, enclave: &mut Enclave<'_>, task: TaskId) {
        self.wakeup(enclave, task);
    }

    /// A task has yielded and waits.
    fn yielded(&mut self, enclave: &mut Enclave<'_>, task: TaskId) {
        self.preempted(enclave, task);
    }

    /// A task sleeps. It may have waited until now.
    fn blocked(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// The affinity of a task has changed. Whether it waits has not.
    fn affinity_changed(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// The weight of a task has changed. Whether it waits has not.
    fn priority_changed(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// A task has left sched_ext. It may have waited until now, and may come back.
    fn departed(&mut self, enclave: &mut Enclave<'_>, task: TaskId) {
        self.blocked(enclave, task);
    }

    /// A task is dead. It may have waited until now. Its id will be another's.
    fn dead(&mut self, enclave: &mut Enclave<'_>, task: TaskId) {
        self.departed(enclave, task);
    }

    /// A CPU has nothing to run.
    fn cpu_idle(&mut self, _enclave: &mut Enclave<'_>, _cpu: CpuId) {}

    /// Timer tick of a CPU, if the BPF half asks for them.
    fn cpu_tick(&mut self, _enclave: &mut Enclave<'_>, _cpu: CpuId) {}

    /// A transaction was carried out.
    fn committed(&mut self, _enclave: &mut Enclave<'_>, _transaction: &Transaction) {}

    /// A transaction was refused. If the task still waits ([`Enclave::waits`]), it needs another one.
    fn refused(&mut self, enclave: &mut Enclave<'_>, transaction: &Transaction, why: Refused);

    /// The time asked for with [`Enclave::wake_at`] has come.
    fn timer(&mut self, _enclave: &mut Enclave<'_>) {}

    /// Comes after each batch of other callbacks: the place to decide, with all news in.
    fn schedule(&mut self, _enclave: &mut Enclave<'_>) {}

    /// Forget all tasks: news were lost, or BPF has scheduled alone for a while. All live tasks are told of
    /// again after this, by [`task_new`](Self::task_new) and, for those that wait, [`wakeup`](Self::wakeup).
    fn reset(&mut self);
}
