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
//! | `handover` | what a policy leaves to the process that takes over |
//! | `driver` | makes callbacks of messages and outcomes; knows no kernel |
//! | `agents` | the agents of a policy that is loaded: one for all CPUs, or one for each |
//! | `thread` | a thread that decides: sleeping, waking, carrying out |
//! | [`sim`] | a simulated kernel, to test decisions without booting one |

mod agents;
mod driver;
mod enclave;
mod handover;
mod shared;
pub mod sim;
mod status;
mod thread;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::policy::ParamValue;

pub(crate) use agents::{Agents, is_delegated, size_maps};
pub use enclave::{Cpu, Enclave, Refused, Task, Transaction};
pub use handover::Saved;
pub use shared::MAX_TASKS;
pub use status::{AgentStatus, Stages};

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
    /// The one CPU that the policy decides for, with an agent for each CPU (`per_cpu=1`). None: it decides for all.
    pub cpu: Option<CpuId>,
}

impl Settings {
    /// With these parameters, on this machine.
    pub(crate) fn of(params: &[ParamValue]) -> Self {
        let params = params.iter().map(|param| (param.name.clone(), param.value)).collect();
        Settings { params, cpus: u32::try_from(*scx_utils::NR_CPU_IDS).unwrap_or(1), cpu: None }
    }

    /// Value of a parameter that the policy's BPF half declares; 0 if it does not.
    pub fn param(&self, name: &str) -> u64 {
        self.params.get(name).copied().unwrap_or(0)
    }
}

/// Makes a policy.
pub type Factory = fn(&Settings) -> Box<dyn Policy>;

/// A policy that decides in user space.
///
/// With an agent for each CPU there is one of it for each, and a task that is queued for another CPU goes from one to
/// the other: the one it leaves is told `departed`, at the latest when the task comes back.
///
/// Callbacks come on one thread, one at a time, and must not block: while one runs, nobody decides. A task that
/// *waits* has to be given a CPU by a transaction, at once or in a later callback. What is not given one within
/// the policy's `max_wait_us` is scheduled by BPF, and so is everything once no callback has returned for
/// `agent_timeout_us`.
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

    /// A task has woken up while nobody waited, and BPF gave it a CPU that was idle: nothing is to be decided. Does not
    /// happen with `fast_path=0`.
    fn direct(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId, _cpu: CpuId) {}

    /// A task sleeps. It may have waited until now.
    fn blocked(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// The affinity of a task has changed. Whether it waits has not.
    fn affinity_changed(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// The weight of a task has changed. Whether it waits has not.
    fn priority_changed(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId) {}

    /// A task has left sched_ext, or has come under another CPU's agent. It may have waited until now, and may come back.
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

    /// Comes after each batch of other callbacks: the place to decide, with all news in. While no task waits, BPF lets
    /// news gather rather than wake the agent for them.
    fn schedule(&mut self, _enclave: &mut Enclave<'_>) {}

    /// Version of what [`save`](Self::save) returns; 0 if there is nothing to save. What another version has saved is
    /// not restored.
    fn state_version(&self) -> u32 {
        0
    }

    /// What only this policy knows of a task, for the process that takes over (`scx_run upgrade`). Everything else it is
    /// told of anew.
    fn save(&self, _enclave: &Enclave<'_>, _task: TaskId) -> Option<Value> {
        None
    }

    /// What the process before has saved of a task. Follows [`task_new`](Self::task_new); if the task waits, it comes in
    /// place of [`wakeup`](Self::wakeup). BPF may have scheduled the task alone since then. Returns false if it makes
    /// nothing of it, and is told of a task that waits by `wakeup` then.
    fn restore(&mut self, _enclave: &mut Enclave<'_>, _task: TaskId, _state: Value) -> bool {
        false
    }

    /// Forget all tasks: news were lost, or BPF has scheduled alone for a while. All live tasks are told of
    /// again after this, by [`task_new`](Self::task_new) and, for those that wait, [`wakeup`](Self::wakeup).
    fn reset(&mut self);
}
