// SPDX-License-Identifier: GPL-2.0-only
//! A simulated kernel for delegated policies, so that decisions can be tested without booting one.
//!
//! It does what `bpf/include/delegate.bpf.h` does, on the same memory and with the same driver of policies: messages,
//! sequence numbers, refusals. Time is what [`Kernel::advance`] makes it. CPUs run what they are given, in order;
//! a task runs until it blocks, yields, has used up its slice while another waits for its CPU, or is preempted.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::Driver;
use super::handover::Saved;
use super::shared::{Message, Model, Shared, Txn, seq_of, state_of, word_of};
use super::status::Meters;
use super::{AgentStatus, CpuId, Policy, TaskId};
use crate::hints::{Hint, Raw as _};
use crate::intf;

const RING: usize = 1024;

/// A task, as the simulated kernel knows it.
#[derive(Debug, Clone)]
struct Thread {
    affinity: u64,
    slice_left: u64,
    runtime: u64,
    cpu: usize,
    alive: bool,
    hint: Hint,
}

impl Thread {
    fn new(affinity: u64, cpu: usize, alive: bool) -> Self {
        Thread { affinity, slice_left: 0, runtime: 0, cpu, alive, hint: Hint::default() }
    }
}

/// An agent, with what BPF shares with it.
struct Agent {
    shared: Arc<Shared>,
    driver: Driver,
    /// Number of the next transaction to be carried out.
    done: u64,
    /// There is news that wakes it.
    bell: Cell<bool>,
}

impl Agent {
    fn new(shared: Arc<Shared>, policy: Box<dyn Policy>) -> Self {
        shared.present().store(1, Ordering::SeqCst);
        let driver = Driver::new(shared.clone(), policy, Arc::default());
        Agent { shared, driver, done: 0, bell: Cell::new(true) }
    }

    /// BPF does not wait for it any more. It is told so.
    fn fall_silent(&self) {
        self.shared.silent().store(1, Ordering::Relaxed);
        self.bell.set(true);
    }
}

/// A simulated kernel with a policy.
pub struct Kernel {
    /// What is the same for all agents.
    shared: Arc<Shared>,
    agents: Vec<Agent>,
    tasks: Vec<Thread>,
    /// What each CPU runs (first) and runs next.
    cpus: Vec<VecDeque<TaskId>>,
    online: Vec<bool>,
    /// Tasks in the order in which they began to run.
    history: Vec<(TaskId, CpuId)>,
    now: u64,
    hold_outcomes: bool,
}

impl Kernel {
    /// A machine with at most 64 CPUs, all idle.
    pub fn new(cpus: u32, policy: Box<dyn Policy>) -> Self {
        Self::with(cpus, Model::Global, std::iter::once(policy))
    }

    /// The same with an agent for each CPU, each with a policy that is made for that one. A task wakes up on the CPU that it
    /// was on last, or on the first that it may use.
    pub fn per_cpu(cpus: u32, policy: impl Fn(CpuId) -> Box<dyn Policy>) -> Self {
        Self::with(cpus, Model::PerCpu, (0..).map(CpuId).map(policy))
    }

    fn with(cpus: u32, model: Model, policies: impl Iterator<Item = Box<dyn Policy>>) -> Self {
        let cpus = cpus.clamp(1, 64) as usize;
        let shared = Shared::simulated(cpus, RING, model);
        Kernel {
            shared: shared[0].clone(),
            agents: shared
                .into_iter()
                .zip(policies)
                .map(|(shared, policy)| Agent::new(shared, policy))
                .collect(),
            // Index 0 is nobody.
            tasks: vec![Thread::new(0, 0, false)],
            cpus: vec![VecDeque::new(); cpus],
            online: vec![true; cpus],
            history: Vec::new(),
            now: 1_000_000_000,
            hold_outcomes: false,
        }
    }

    /// A new task, which sleeps, and may run on the CPUs of a mask. Its pid is 1000 more than its number.
    pub fn spawn(&mut self, affinity: u64) -> TaskId {
        let index = self.tasks.len() as u32;
        self.tasks.push(Thread::new(affinity, self.cpu_for(affinity, 0), true));
        self.shared.task_pid(index).store(1000 + index as i32, Ordering::Relaxed);
        self.shared.task_tgid(index).store(1000 + index as i32, Ordering::Relaxed);
        self.shared.task_weight(index).store(100, Ordering::Relaxed);
        self.shared.task_affinity(index, 0).store(affinity, Ordering::Relaxed);
        self.shared.max_task().store(index, Ordering::Relaxed);
        self.set_word(index, intf::delegate_state_DELEGATE_BLOCKED);
        let task = TaskId(index);
        self.post(intf::delegate_kind_DELEGATE_TASK_NEW, task);
        task
    }

    /// A sleeping task wakes up.
    pub fn wake(&mut self, task: TaskId) {
        self.go_home(task);
        self.queue(task, intf::delegate_kind_DELEGATE_WAKEUP);
    }

    /// A sleeping task wakes up while nobody waits, and BPF gives it this CPU, which is idle.
    pub fn wake_direct(&mut self, task: TaskId, CpuId(cpu): CpuId) {
        let cpu = cpu as usize;
        self.tasks[task.0 as usize].cpu = cpu;
        self.set_word(task.0, intf::delegate_state_DELEGATE_PLACED);
        self.post(intf::delegate_kind_DELEGATE_DIRECT, task);
        self.cpus[cpu].push_back(task);
        self.start(cpu);
    }

    /// A running task blocks.
    pub fn block(&mut self, task: TaskId) {
        self.take_off(task);
        self.set_word(task.0, intf::delegate_state_DELEGATE_BLOCKED);
        self.post(intf::delegate_kind_DELEGATE_TASK_BLOCKED, task);
    }

    /// A running task yields.
    pub fn yield_(&mut self, task: TaskId) {
        self.take_off(task);
        self.queue(task, intf::delegate_kind_DELEGATE_YIELD);
    }

    /// A task gets another hint. The policy sees it when the task is queued next.
    pub fn set_hint(&mut self, task: TaskId, hint: Hint) {
        self.tasks[task.0 as usize].hint = hint;
    }

    /// A task dies.
    pub fn kill(&mut self, task: TaskId) {
        self.take_off(task);
        self.tasks[task.0 as usize].alive = false;
        self.set_word(task.0, intf::delegate_state_DELEGATE_FREE);
        self.post(intf::delegate_kind_DELEGATE_DEAD, task);
    }

    /// A task's affinity changes; it is queued again if it was. With an agent for each CPU it leaves one that it may not
    /// use any more.
    pub fn set_affinity(&mut self, task: TaskId, affinity: u64) {
        self.tasks[task.0 as usize].affinity = affinity;
        self.shared.task_affinity(task.0, 0).store(affinity, Ordering::Relaxed);
        let queued = self.state(task) == intf::delegate_state_DELEGATE_QUEUED;
        self.set_word(task.0, self.state(task));
        self.post(intf::delegate_kind_DELEGATE_AFFINITY, task);
        let last = self.tasks[task.0 as usize].cpu;
        if self.is_per_cpu() && affinity & (1 << last) == 0 {
            self.set_word(task.0, self.state(task));
            self.post(intf::delegate_kind_DELEGATE_TASK_DEPARTED, task);
        }
        if queued {
            self.queue(task, intf::delegate_kind_DELEGATE_PREEMPTED);
        }
        if queued || self.cpus[last].contains(&task) {
            self.leave_forbidden_cpu(task);
        }
    }

    /// The kernel moves a task that waits where it may not run any more.
    fn leave_forbidden_cpu(&mut self, task: TaskId) {
        if self.go_home(task) {
            self.take_off(task);
            self.queue(task, intf::delegate_kind_DELEGATE_PREEMPTED);
        }
    }

    fn is_per_cpu(&self) -> bool {
        self.agents.len() > 1
    }

    /// With an agent for each CPU it matters where a task is: the first CPU of a mask that is online, best this one.
    fn cpu_for(&self, affinity: u64, best: usize) -> usize {
        let usable = |cpu: &usize| affinity & (1 << cpu) != 0 && self.online[*cpu];
        if !self.is_per_cpu() || usable(&best) {
            best
        } else {
            (0..self.cpus.len()).find(usable).unwrap_or(best)
        }
    }

    /// Moves a task to a CPU that it may use, if its own is none. Whether it was moved.
    fn go_home(&mut self, task: TaskId) -> bool {
        let Thread { affinity, cpu: last, .. } = self.tasks[task.0 as usize];
        let cpu = self.cpu_for(affinity, last);
        self.tasks[task.0 as usize].cpu = cpu;
        cpu != last
    }

    /// The agent that decides for a CPU.
    fn agent_of(&self, cpu: usize) -> &Agent {
        &self.agents[if self.is_per_cpu() { cpu } else { 0 }]
    }

    /// Something of a higher class takes a CPU for no time: what runs there is queued for a decision again.
    pub fn displace(&mut self, CpuId(cpu): CpuId) {
        self.make_room(cpu as usize);
    }

    /// BPF runs a waiting task itself, as if the agent had been too slow. It is silent from here on, until it
    /// [runs](Self::run_agent).
    pub fn overdue(&mut self, task: TaskId) {
        let word = self.shared.word(task.0);
        assert_eq!(state_of(word.load(Ordering::Relaxed)), intf::delegate_state_DELEGATE_QUEUED);
        let seq = seq_of(word.load(Ordering::Relaxed));
        word.store(word_of(seq, intf::delegate_state_DELEGATE_FALLBACK), Ordering::Relaxed);
        add(self.shared.nr_overdue(0));
        self.agent_of(self.tasks[task.0 as usize].cpu).fall_silent();
    }

    /// An idle CPU takes a task that waits for the decision of another CPU's agent.
    pub fn steal(&mut self, task: TaskId, CpuId(cpu): CpuId) {
        let word = self.shared.word(task.0).load(Ordering::Relaxed);
        assert_eq!(state_of(word), intf::delegate_state_DELEGATE_QUEUED);
        self.shared
            .word(task.0)
            .store(word_of(seq_of(word), intf::delegate_state_DELEGATE_FALLBACK), Ordering::Relaxed);
        add(self.shared.nr_stolen(0));
        self.tasks[task.0 as usize].cpu = cpu as usize;
        self.cpus[cpu as usize].push_back(task);
        if self.cpus[cpu as usize].len() == 1 {
            self.start(cpu as usize);
        }
    }

    /// A CPU goes offline, with what it runs blocked; or comes back. Its own agent, if it has one, goes and comes with it,
    /// and what waits for that is queued elsewhere.
    pub fn set_online(&mut self, CpuId(cpu): CpuId, online: bool) {
        let cpu = cpu as usize;
        self.online[cpu] = online;
        for task in self.cpus[cpu].clone() {
            self.block(task);
        }
        if !self.is_per_cpu() {
            return;
        }
        let agent = &self.agents[cpu];
        agent.shared.offline().store((!online).into(), Ordering::Relaxed);
        agent.fall_silent();
        let tasks = (1..self.tasks.len() as u32).map(TaskId);
        let waiting: Vec<_> = tasks
            .filter(|task| self.tasks[task.0 as usize].cpu == cpu)
            .filter(|task| self.state(*task) == intf::delegate_state_DELEGATE_QUEUED)
            .collect();
        waiting.into_iter().for_each(|task| self.leave_forbidden_cpu(task));
    }

    /// From here on outcomes are kept back, or are not any more.
    pub fn hold_outcomes(&mut self, hold: bool) {
        self.hold_outcomes = hold;
        if !hold {
            self.publish();
            self.agents.iter().for_each(|agent| agent.bell.set(true));
        }
    }

    /// The agents see what has become of their transactions.
    fn publish(&self) {
        for agent in &self.agents {
            agent.shared.txn_head().store(agent.done, Ordering::Release);
        }
    }

    /// Posts the last message about a task once more.
    pub fn repeat_message(&mut self, task: TaskId) {
        self.post(intf::delegate_kind_DELEGATE_WAKEUP, task);
    }

    /// Another process takes over, as with `scx_run upgrade`: its policies, one for each agent, are told of all tasks, and get
    /// what those before them have saved.
    pub fn upgrade(&mut self, policy: impl Fn(CpuId) -> Box<dyn Policy>) {
        let saved = self.agents.iter_mut().map(|agent| agent.driver.save()).reduce(Saved::merge);
        let saved = Arc::new(saved.unwrap_or_default());
        for (agent, cpu) in self.agents.iter_mut().zip((0..).map(CpuId)) {
            agent.driver = Driver::new(agent.shared.clone(), policy(cpu), Arc::default());
            agent.driver.rebase();
            agent.driver.restore(&saved);
            agent.fall_silent();
        }
    }

    /// Lets the agent work until it has nothing more to do; of several, each that is not on a CPU that is offline.
    pub fn run_agent(&mut self) {
        // One may give a task to a CPU for which another decides.
        while (0..self.agents.len()).any(|n| self.run_one(n)) {}
    }

    /// Lets one of several agents work until it has nothing more to do. Whether there was anything.
    fn run_one(&mut self, n: usize) -> bool {
        if self.agents[n].shared.offline().load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.agents[n].bell.set(false);
        for round in 0..1000 {
            let progress = self.agents[n].driver.step(self.now);
            self.commit(n);
            if !progress.news && (!progress.transactions || self.hold_outcomes) {
                return round > 0;
            }
        }
        panic!("the policy never comes to an end");
    }

    /// Lets the time pass in steps of 10 us, with an agent at work in those in which something wakes it.
    pub fn advance(&mut self, ns: u64) {
        const STEP: u64 = 10_000;
        let end = self.now + ns;
        self.wake_agents();
        while self.now < end {
            self.now += STEP.min(end - self.now);
            for cpu in 0..self.cpus.len() {
                self.tick(cpu, STEP);
            }
            self.wake_agents();
        }
    }

    fn wake_agents(&mut self) {
        for n in 0..self.agents.len() {
            let Agent { bell, driver, .. } = &self.agents[n];
            if bell.get() || driver.timer().is_some_and(|at| at <= self.now) {
                self.run_one(n);
            }
        }
    }

    /// Whether a task sleeps.
    pub fn sleeps(&self, task: TaskId) -> bool {
        self.state(task) == intf::delegate_state_DELEGATE_BLOCKED
    }

    /// Whether a task waits for a decision.
    pub fn waits(&self, task: TaskId) -> bool {
        self.state(task) == intf::delegate_state_DELEGATE_QUEUED
    }

    /// What a CPU runs.
    pub fn running(&self, CpuId(cpu): CpuId) -> Option<TaskId> {
        self.cpus[cpu as usize].front().copied()
    }

    /// Tasks in the order in which they began to run, and where.
    pub fn history(&self) -> &[(TaskId, CpuId)] {
        &self.history
    }

    /// The tasks alone, in the order in which they began to run.
    pub fn order(&self) -> Vec<TaskId> {
        self.history.iter().map(|(task, _)| *task).collect()
    }

    /// What a task has run, ns.
    pub fn runtime(&self, task: TaskId) -> u64 {
        self.tasks[task.0 as usize].runtime
    }

    /// The time, ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The counters, of which the invariant holds at any time.
    pub fn status(&self) -> AgentStatus {
        let meters = Meters::default();
        AgentStatus::read(&self.agents.iter().map(|agent| (&*agent.shared, &meters)).collect::<Vec<_>>())
    }

    fn state(&self, task: TaskId) -> u32 {
        state_of(self.shared.word(task.0).load(Ordering::Relaxed))
    }

    /// The next sequence number, in a new state.
    fn set_word(&self, index: u32, state: u32) {
        let old = self.shared.word(index).load(Ordering::Relaxed);
        if state_of(old) == intf::delegate_state_DELEGATE_QUEUED {
            add(self.shared.nr_left(0));
        }
        if state == intf::delegate_state_DELEGATE_QUEUED {
            add(self.shared.nr_queued(0));
        }
        self.shared.word(index).store(word_of(seq_of(old) + 1, state), Ordering::Relaxed);
    }

    fn post(&self, kind: u32, task: TaskId) {
        let seq = seq_of(self.shared.word(task.0).load(Ordering::Relaxed));
        let cpu = self.tasks[task.0 as usize].cpu;
        let message = Message { kind, task: task.0, seq, cpu: cpu as i32, time: self.now };
        let waits =
            [intf::delegate_kind_DELEGATE_TASK_NEW, intf::delegate_kind_DELEGATE_WAKEUP].contains(&kind);
        let agent = self.agent_of(cpu);
        if !(waits && agent.driver.dozes()) {
            agent.bell.set(true);
        }
        if !self.shared.post(cpu, &message) {
            add(self.shared.nr_full(cpu));
            agent.fall_silent();
        }
    }

    fn queue(&mut self, task: TaskId, kind: u32) {
        let hint = self.tasks[task.0 as usize].hint;
        self.shared.task_deadline(task.0).store(hint.deadline_ns.unwrap_or(0), Ordering::Relaxed);
        self.shared.task_hint_slice(task.0).store(hint.slice_ns.unwrap_or(0), Ordering::Relaxed);
        self.shared.task_class(task.0).store(hint.class.raw(), Ordering::Relaxed);
        self.shared.task_queued_at(task.0).store(self.now, Ordering::Relaxed);
        self.shared.task_cpu(task.0).store(self.tasks[task.0 as usize].cpu as i32, Ordering::Relaxed);
        self.set_word(task.0, intf::delegate_state_DELEGATE_QUEUED);
        self.post(kind, task);
    }

    fn take_off(&mut self, task: TaskId) {
        for cpu in 0..self.cpus.len() {
            let ran = self.cpus[cpu].front() == Some(&task);
            self.cpus[cpu].retain(|other| *other != task);
            if ran {
                self.start(cpu);
            }
        }
    }

    /// What is now first on a CPU begins to run.
    fn start(&mut self, cpu: usize) {
        let next = self.cpus[cpu].front().copied();
        let pid = next.map_or(0, |TaskId(index)| 1000 + index as i32);
        self.shared.cpu_pid(cpu).store(pid, Ordering::Relaxed);
        self.shared.cpu_since(cpu).store(self.now, Ordering::Relaxed);
        match next {
            Some(task) => self.history.push((task, CpuId(cpu as u32))),
            None => {
                let kind = intf::delegate_kind_DELEGATE_CPU_IDLE;
                let idle = Message { kind, task: 0, seq: 0, cpu: cpu as i32, time: self.now };
                self.shared.post(cpu, &idle);
                self.agent_of(cpu).bell.set(true);
            }
        }
    }

    fn tick(&mut self, cpu: usize, ns: u64) {
        let Some(task) = self.cpus[cpu].front().copied() else { return };
        let thread = &mut self.tasks[task.0 as usize];
        thread.runtime += ns;
        thread.slice_left = thread.slice_left.saturating_sub(ns);
        self.shared.task_runtime(task.0).store(thread.runtime, Ordering::Relaxed);
        if thread.slice_left == 0 && self.cpus[cpu].len() > 1 {
            self.make_room(cpu);
        }
    }

    /// What runs on a CPU is queued for a decision again.
    fn make_room(&mut self, cpu: usize) {
        if let Some(task) = self.cpus[cpu].pop_front() {
            self.queue(task, intf::delegate_kind_DELEGATE_PREEMPTED);
            self.start(cpu);
        }
    }

    /// Carries out the pending transactions of an agent.
    fn commit(&mut self, n: usize) {
        let shared = self.agents[n].shared.clone();
        let end = shared.txn_tail().load(Ordering::Relaxed);
        let mut done = self.agents[n].done;
        while done < end {
            let more = |n| shared.txn(n).flags & intf::delegate_txn_flags_DELEGATE_MORE != 0;
            let mut last = done;
            while last + 1 < end && more(last) {
                last += 1;
            }
            self.commit_group(&shared, done, last);
            done = last + 1;
        }
        self.agents[n].done = done;
        if !self.hold_outcomes {
            self.publish();
        }
    }

    fn commit_group(&mut self, shared: &Shared, first: u64, last: u64) {
        let claims: Vec<_> = (first..=last).map(|n| self.claim(&shared.txn(n))).collect();
        let all = claims.iter().all(Result::is_ok);
        for (n, claim) in (first..=last).zip(claims) {
            let outcome = match claim {
                Ok(cpu) if all => {
                    self.place(&shared.txn(n), cpu);
                    shared.chosen(n).store(cpu as i32, Ordering::Relaxed);
                    intf::delegate_outcome_DELEGATE_COMMITTED
                }
                Ok(_) => intf::delegate_outcome_DELEGATE_ABORTED,
                Err(outcome) => outcome,
            };
            shared.outcome(n).store(outcome, Ordering::Relaxed);
            add(shared.nr_outcome(outcome));
        }
    }

    /// The CPU that a transaction goes to, or what is wrong with it.
    fn claim(&self, txn: &Txn) -> Result<usize, u32> {
        let word = self.shared.word(txn.task).load(Ordering::Relaxed);
        let thread = self.tasks.get(txn.task as usize).filter(|thread| thread.alive);
        let thread = thread.ok_or(intf::delegate_outcome_DELEGATE_GONE)?;
        if seq_of(word) != txn.seq {
            return Err(intf::delegate_outcome_DELEGATE_STALE);
        }
        if state_of(word) != intf::delegate_state_DELEGATE_QUEUED {
            return Err(intf::delegate_outcome_DELEGATE_NOT_QUEUED);
        }
        let usable = |cpu: usize| self.online.get(cpu) == Some(&true);
        let allowed = |cpu: usize| thread.affinity & (1 << cpu) != 0;
        let cpu = if txn.flags & intf::delegate_txn_flags_DELEGATE_ANY_OF != 0 {
            let set = || (0..self.cpus.len()).filter(|cpu| txn.cpus[0] & (1 << cpu) != 0);
            let may = |cpu: &usize| usable(*cpu) && allowed(*cpu);
            let idle = set().filter(may).find(|cpu| self.cpus[*cpu].is_empty());
            idle.or(set().rfind(may))
        } else {
            usize::try_from(txn.cpu).ok().filter(|cpu| usable(*cpu))
        };
        let cpu = cpu.ok_or(intf::delegate_outcome_DELEGATE_OFFLINE)?;
        if allowed(cpu) { Ok(cpu) } else { Err(intf::delegate_outcome_DELEGATE_NOT_ALLOWED) }
    }

    fn place(&mut self, txn: &Txn, cpu: usize) {
        let task = TaskId(txn.task);
        self.shared
            .word(txn.task)
            .store(word_of(txn.seq, intf::delegate_state_DELEGATE_PLACED), Ordering::Relaxed);
        self.shared.task_cpu(txn.task).store(cpu as i32, Ordering::Relaxed);
        let thread = &mut self.tasks[txn.task as usize];
        thread.slice_left = txn.slice;
        thread.cpu = cpu;
        let preempt = txn.flags & intf::delegate_txn_flags_DELEGATE_PREEMPT != 0;
        if preempt && !self.cpus[cpu].is_empty() {
            self.cpus[cpu].insert(1, task);
            self.make_room(cpu);
            return;
        }
        self.cpus[cpu].push_back(task);
        if self.cpus[cpu].len() == 1 {
            self.start(cpu);
        } else if txn.flags & intf::delegate_txn_flags_DELEGATE_TAKE_TURNS != 0 {
            self.make_room(cpu);
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
