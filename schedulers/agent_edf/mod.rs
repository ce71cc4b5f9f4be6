// SPDX-License-Identifier: GPL-2.0-only
//! `agent_edf`: earliest deadline first, decided in user space.
//!
//! **Algorithm.** A task that wakes up gets a deadline: the time of the wakeup plus the relative deadline of its hint
//! (`scx_run hint --pid PID deadline=5ms`), or `default_deadline_us` without one. Of the tasks that are ready the ones
//! with the earliest deadlines run, one on each CPU; whoever becomes ready with an earlier deadline preempts the task
//! with the latest. A task also has a *share*: the slice of its hint or `slice_us`, never more than its relative
//! deadline. When it has run that much without sleeping, or yields, its deadline is a new one, from now on, and its
//! share is full again. So nobody is kept out for ever: a deadline that has been given stands still, while those of
//! all others move on. The class of a hint is ignored.
//!
//! **Source.** Liu and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment" (1973);
//! the share is the budget of a constant bandwidth server (Abeni and Buttazzo, 1998); one task a CPU and preemption
//! by transactions as in ghOSt's EDF agent (Humphries et al., 2021).
//!
//! **Complexity.** A decision is a step in a heap, O(log tasks), and a look at every CPU. Waiting tasks that may not
//! run where there is room are passed over, each time anew: O(tasks log tasks) if all are tied to busy CPUs. Nothing
//! is allocated once it runs.
//!
//! **Worst case.** On one CPU all deadlines are kept as long as the load is below 100 % (less what the agent costs);
//! on several, global EDF can miss some at little more than the load of one CPU. Overloaded, it misses deadlines of
//! any task, one after the other, hinted or not; a task then waits for its own deadline to pass and for a share of
//! each task that has an earlier one. A share is counted by the clock from the decision on, so that a task which is
//! interrupted can lose its deadline early; run time counts when it comes back.
//!
//! **When.** For periodic and latency-critical tasks whose deadlines are known, on a machine that is not overloaded.
//! Not for throughput: a CPU is given one task at a time, so it idles from when that sleeps until the agent has
//! decided, and every wakeup wakes the agent. Not where more tasks compute than would be through within
//! `max_wait_us` (2 s unless it is said): BPF then runs those that waited longer, in order of arrival.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use framework::agent::{CpuId, Enclave, MAX_TASKS, Policy, Refused, Settings, TaskId, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tasks that a CPU is given at one time: one that runs and those that it has overtaken.
const DEPTH: usize = 8;
/// Entries for which the heap has room: one for each task, and as many that are out of date.
const ENTRIES: usize = 2 * MAX_TASKS;
/// With less than this left of its share, ns, a task has used it up.
const GRAIN: u64 = 50_000;

/// Deadline, number of the entry, task: the earliest comes first, of equal ones the oldest.
type Entry = Reverse<(u64, u64, TaskId)>;

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Job {
    deadline: u64,
    share: u64,
    /// Run time in all at which its share is used up.
    spent_at: u64,
    /// When it is, if the task runs all the time from when it became the first of its CPU.
    #[serde(skip)]
    until: u64,
    /// While it is not the first: what will be left of its share then, ns.
    #[serde(skip)]
    left: u64,
    #[serde(skip)]
    cpu: Option<CpuId>,
    /// Number of its entry in the heap: others of it are out of date.
    #[serde(skip)]
    entry: u64,
}

struct AgentEdf {
    default_deadline: u64,
    slice: u64,
    jobs: Vec<Job>,
    /// What each CPU has been given, in the order in which it runs them.
    given: Vec<[Option<TaskId>; DEPTH]>,
    heap: BinaryHeap<Entry>,
    passed_over: Vec<Entry>,
    entries: u64,
}

/// Makes the policy.
pub fn new(settings: &Settings) -> Box<dyn Policy> {
    Box::new(AgentEdf {
        default_deadline: settings.param("default_deadline_us") * 1000,
        slice: settings.param("slice_us") * 1000,
        jobs: vec![Job::default(); MAX_TASKS],
        given: vec![[None; DEPTH]; settings.cpus as usize],
        heap: BinaryHeap::with_capacity(ENTRIES),
        passed_over: Vec::with_capacity(ENTRIES),
        entries: 0,
    })
}

impl AgentEdf {
    /// A new deadline and a full share, for a task that has run this much.
    fn renew(&mut self, enclave: &Enclave<'_>, id: TaskId, from: u64, ran: u64) {
        let hint = enclave.task(id).hint();
        let relative = hint.deadline_ns.unwrap_or(self.default_deadline);
        let job = &mut self.jobs[id.index()];
        job.deadline = from + relative;
        job.share = hint.slice_ns.unwrap_or(self.slice).min(relative);
        job.spent_at = ran + job.share;
    }

    /// Tasks that have run for their whole share while others wait compete anew.
    fn renew_spent(&mut self, enclave: &Enclave<'_>) {
        for cpu in 0..self.given.len() {
            if enclave.cpu(CpuId(cpu as u32)).given == 0 {
                self.given[cpu] = [None; DEPTH];
            }
            let Some(id) = self.given[cpu][0] else { continue };
            let Job { until, spent_at, .. } = self.jobs[id.index()];
            if until <= enclave.now() {
                self.renew(enclave, id, enclave.now(), spent_at);
                let job = &mut self.jobs[id.index()];
                job.until = enclave.now() + job.share;
            }
        }
    }

    fn push(&mut self, enclave: &Enclave<'_>, id: TaskId) {
        if self.heap.len() == ENTRIES {
            let jobs = &self.jobs;
            self.heap.retain(|entry| is_valid(jobs, enclave, entry));
        }
        self.entries += 1;
        let job = &mut self.jobs[id.index()];
        job.entry = self.entries;
        self.heap.push(Reverse((job.deadline, job.entry, id)));
    }

    /// A task is not on its CPU any more. If it was the first there, the next begins to run: it has not while it waited.
    fn leave(&mut self, enclave: &Enclave<'_>, id: TaskId) {
        let Some(CpuId(cpu)) = self.jobs[id.index()].cpu.take() else { return };
        let given = &mut self.given[cpu as usize];
        let Some(at) = given.iter().position(|one| *one == Some(id)) else { return };
        given[at] = None;
        given[at..].rotate_left(1);
        if let (0, Some(next)) = (at, given[0]) {
            let job = &mut self.jobs[next.index()];
            job.until = enclave.now() + job.left;
        }
    }

    /// The earliest deadline of what a CPU has been given; later than any if it is free, earlier if it has enough.
    fn due(&self, enclave: &Enclave<'_>, cpu: CpuId) -> u64 {
        if enclave.cpu(cpu).given == 0 {
            return u64::MAX;
        }
        let given = &self.given[cpu.0 as usize];
        if given[DEPTH - 1].is_some() {
            return 0;
        }
        given.iter().flatten().map(|id| self.jobs[id.index()].deadline).min().unwrap_or(u64::MAX - 1)
    }

    /// The CPU for a task: a free one, best an idle one, best the one it was on; else the one with the latest
    /// deadline, if that is later than its own.
    fn cpu_for(&self, enclave: &Enclave<'_>, id: TaskId, deadline: u64) -> Option<CpuId> {
        let task = enclave.task(id);
        let key = |cpu: &CpuId| (self.due(enclave, *cpu), enclave.cpu(*cpu).pid == 0, *cpu == task.cpu());
        let usable = |cpu: &CpuId| task.may_run_on(*cpu) && self.due(enclave, *cpu) > deadline;
        enclave.cpus().filter(usable).max_by_key(key)
    }

    fn give(&mut self, enclave: &mut Enclave<'_>, id: TaskId, cpu: CpuId) -> bool {
        let job = &mut self.jobs[id.index()];
        let left = job.spent_at.saturating_sub(enclave.task(id).runtime_ns()).max(GRAIN);
        let run = Transaction::run(id, cpu).slice(left);
        if !enclave.submit(if enclave.cpu(cpu).given > 0 { run.preempt() } else { run }) {
            return false;
        }
        job.cpu = Some(cpu);
        job.until = enclave.now() + left;
        let given = &mut self.given[cpu.0 as usize];
        if let Some(overtaken) = given[0] {
            let job = &mut self.jobs[overtaken.index()];
            job.left = job.until.saturating_sub(enclave.now()).max(GRAIN);
        }
        given.rotate_right(1);
        given[0] = Some(id);
        true
    }
}

fn is_valid(jobs: &[Job], enclave: &Enclave<'_>, Reverse((_, entry, id)): &Entry) -> bool {
    jobs[id.index()].entry == *entry && enclave.waits(*id)
}

impl Policy for AgentEdf {
    fn task_new(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.leave(enclave, id);
        self.jobs[id.index()] = Job::default();
    }

    fn wakeup(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.leave(enclave, id);
        let (queued_at, ran) = (enclave.task(id).queued_at(), enclave.task(id).runtime_ns());
        self.renew(enclave, id, queued_at, ran);
        self.push(enclave, id);
    }

    fn preempted(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        let ran = enclave.task(id).runtime_ns();
        let job = &mut self.jobs[id.index()];
        if ran + GRAIN >= job.spent_at {
            return self.wakeup(enclave, id);
        }
        // It may have run less than the clock said, but has no more than one share ahead.
        job.spent_at = job.spent_at.min(ran + job.share);
        self.leave(enclave, id);
        self.push(enclave, id);
    }

    fn yielded(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.wakeup(enclave, id);
    }

    fn blocked(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.leave(enclave, id);
    }

    fn refused(&mut self, enclave: &mut Enclave<'_>, transaction: &Transaction, _why: Refused) {
        if enclave.waits(transaction.task()) {
            self.leave(enclave, transaction.task());
            self.push(enclave, transaction.task());
        }
    }

    fn schedule(&mut self, enclave: &mut Enclave<'_>) {
        self.renew_spent(enclave);
        while let Some(entry) = self.heap.pop() {
            let Reverse((deadline, _, id)) = entry;
            if !is_valid(&self.jobs, enclave, &entry) {
                continue;
            }
            let cpu = self.cpu_for(enclave, id, deadline);
            if cpu.is_some_and(|cpu| self.give(enclave, id, cpu)) {
                continue;
            }
            self.passed_over.push(entry);
            // Those behind it have later deadlines. If it is only tied to the wrong CPUs, they may have more luck.
            if cpu.is_some() || enclave.cpus().all(|cpu| self.due(enclave, cpu) <= deadline) {
                break;
            }
        }
        self.heap.extend(self.passed_over.drain(..));
        let running = self.given.iter().filter_map(|given| given[0]);
        if let Some(until) = running.map(|id| self.jobs[id.index()].until).min()
            && !self.heap.is_empty()
        {
            enclave.wake_at(Some(until));
        }
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn save(&self, _enclave: &Enclave<'_>, id: TaskId) -> Option<Value> {
        serde_json::to_value(self.jobs[id.index()]).ok()
    }

    /// A deadline that has been given stands.
    fn restore(&mut self, enclave: &mut Enclave<'_>, id: TaskId, state: Value) -> bool {
        let Ok(job) = serde_json::from_value::<Job>(state) else { return false };
        self.jobs[id.index()] = job;
        if enclave.waits(id) {
            self.preempted(enclave, id);
        }
        true
    }

    fn reset(&mut self) {
        self.heap.clear();
        self.given.fill([None; DEPTH]);
    }
}

#[cfg(test)]
mod tests;
