// SPDX-License-Identifier: GPL-2.0-only
//! `agent_fifo`: first come, first served, decided in user space.
//!
//! One queue for all CPUs; with `per_cpu=1` there is one of this for each, with a queue of its own. A CPU is given one
//! task to run and, when all have one, others to run next, `depth` in all: so that a slice that is over is noticed by
//! the kernel itself, and a CPU whose task sleeps does not wait for the agent. The more, the more rarely the agent has
//! to be woken; but what was given to a CPU waits for that one.

use std::collections::VecDeque;

use framework::agent::{CpuId, Enclave, Policy, Refused, Settings, TaskId, Transaction};

struct AgentFifo {
    slice_ns: u64,
    depth: u32,
    queue: VecDeque<TaskId>,
}

/// Makes the policy.
pub fn new(settings: &Settings) -> Box<dyn Policy> {
    Box::new(AgentFifo {
        slice_ns: settings.param("slice_us") * 1000,
        depth: settings.param("depth") as u32,
        queue: VecDeque::with_capacity(4096),
    })
}

impl AgentFifo {
    /// The CPU for a task: the one it was on if that is as free as any, else the freest that it may use.
    fn cpu_for(&self, enclave: &Enclave<'_>, id: TaskId) -> Option<CpuId> {
        let task = enclave.task(id);
        let last = task.cpu();
        let key = |cpu: &CpuId| (enclave.cpu(*cpu).given, *cpu != last);
        let usable = |cpu: &CpuId| enclave.cpu(*cpu).given < self.depth && task.may_run_on(*cpu);
        enclave.cpus().filter(usable).min_by_key(key)
    }

    fn decide(&self, enclave: &mut Enclave<'_>, task: TaskId) -> bool {
        let cpu = self.cpu_for(enclave, task);
        cpu.is_some_and(|cpu| enclave.submit(Transaction::run(task, cpu).slice(self.slice_ns)))
    }
}

impl Policy for AgentFifo {
    fn wakeup(&mut self, _enclave: &mut Enclave<'_>, task: TaskId) {
        self.queue.push_back(task);
    }

    fn refused(&mut self, enclave: &mut Enclave<'_>, transaction: &Transaction, _why: Refused) {
        if enclave.waits(transaction.task()) {
            self.queue.push_front(transaction.task());
        }
    }

    fn schedule(&mut self, enclave: &mut Enclave<'_>) {
        let mut queue = std::mem::take(&mut self.queue);
        let mut room = true;
        queue.retain(|task| {
            room = room && enclave.cpus().any(|cpu| enclave.cpu(cpu).given < self.depth);
            // Whoever does not wait any more has had its turn without us.
            enclave.waits(*task) && !(room && self.decide(enclave, *task))
        });
        self.queue = queue;
    }

    fn reset(&mut self) {
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use framework::agent::sim::Kernel;

    use super::*;

    const MS: u64 = 1_000_000;

    fn settings(cpus: u32) -> Settings {
        let params = [("slice_us", 10_000), ("depth", 2)];
        let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Settings { params, cpus, cpu: None }
    }

    fn kernel(cpus: u32) -> Kernel {
        Kernel::new(cpus, new(&settings(cpus)))
    }

    fn per_cpu(cpus: u32) -> Kernel {
        Kernel::per_cpu(cpus, |cpu| new(&Settings { cpu: Some(cpu), ..settings(cpus) }))
    }

    #[test]
    fn tasks_run_in_the_order_in_which_they_woke() {
        let mut kernel = kernel(1);
        let tasks: Vec<_> = (0..10).map(|_| kernel.spawn(1)).collect();
        for task in tasks.iter().rev() {
            kernel.wake(*task);
        }
        for task in tasks.iter().rev() {
            kernel.run_agent();
            assert_eq!(kernel.running(CpuId(0)), Some(*task));
            kernel.block(*task);
        }
    }

    #[test]
    fn a_slice_ends_when_others_wait() {
        let mut kernel = kernel(1);
        let tasks: Vec<_> = (0..3).map(|_| kernel.spawn(1)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.advance(90 * MS);
        for task in &tasks {
            assert_eq!(kernel.runtime(*task), 30 * MS);
        }
        assert_eq!(kernel.order()[..4], [tasks[0], tasks[1], tasks[2], tasks[0]]);
    }

    #[test]
    fn no_cpu_idles_while_a_task_waits_that_it_may_run() {
        let mut kernel = kernel(4);
        let pinned: Vec<_> = (0..6).map(|_| kernel.spawn(0b1000)).collect();
        pinned.iter().for_each(|task| kernel.wake(*task));
        let free: Vec<_> = (0..3).map(|_| kernel.spawn(0b1111)).collect();
        free.iter().for_each(|task| kernel.wake(*task));
        kernel.run_agent();
        for cpu in 0..4 {
            assert!(kernel.running(CpuId(cpu)).is_some(), "CPU {cpu}");
        }
    }

    #[test]
    fn a_cpu_that_bpf_has_given_away_counts_as_given() {
        let mut kernel = kernel(2);
        let (direct, later) = (kernel.spawn(0b11), kernel.spawn(0b11));
        kernel.wake_direct(direct, CpuId(0));
        kernel.wake(later);
        kernel.run_agent();
        assert_eq!(kernel.running(CpuId(0)), Some(direct));
        assert_eq!(kernel.running(CpuId(1)), Some(later));
        kernel.block(direct);
        kernel.wake(direct);
        kernel.run_agent();
        assert_eq!(kernel.running(CpuId(0)), Some(direct));
    }

    #[test]
    fn a_task_that_bpf_has_run_meanwhile_is_not_run_twice() {
        let mut kernel = kernel(1);
        let (a, b) = (kernel.spawn(1), kernel.spawn(1));
        kernel.wake(a);
        kernel.wake(b);
        kernel.overdue(b);
        kernel.run_agent();
        assert_eq!(kernel.order(), [a]);
        let status = kernel.status();
        assert_eq!((status.committed, status.overdue, status.waiting), (1, 1, 0));
    }

    #[test]
    fn starting_over_keeps_the_order() {
        let mut kernel = kernel(1);
        let tasks: Vec<_> = (0..8).map(|_| kernel.spawn(1)).collect();
        for task in tasks.iter().rev() {
            kernel.wake(*task);
            kernel.advance(10_000);
        }
        // BPF runs one, and the agent hears of all the others once more.
        kernel.overdue(tasks[3]);
        kernel.advance(100 * MS);
        let order: Vec<_> = [7, 6, 5, 4, 2, 1, 0].map(|n| tasks[n]).into();
        assert_eq!(kernel.order().into_iter().filter(|task| *task != tasks[3]).take(7).collect::<Vec<_>>(), order);
    }

    #[test]
    fn late_outcomes_and_repeated_messages_change_nothing() {
        let mut kernel = kernel(2);
        let tasks: Vec<_> = (0..6).map(|_| kernel.spawn(0b11)).collect();
        kernel.hold_outcomes(true);
        for task in &tasks {
            kernel.wake(*task);
            kernel.repeat_message(*task);
        }
        kernel.run_agent();
        // They run and sleep before the agent hears that they were placed.
        let running = [CpuId(0), CpuId(1)].map(|cpu| kernel.running(cpu).unwrap());
        running.iter().for_each(|task| kernel.block(*task));
        kernel.run_agent();
        kernel.hold_outcomes(false);
        kernel.advance(200 * MS);
        for task in tasks.iter().filter(|task| !running.contains(task)) {
            assert!(kernel.runtime(*task) > 0, "{task:?} starves");
        }
        assert!(kernel.status().is_balanced(), "{:?}", kernel.status());
    }

    #[test]
    fn an_offline_cpu_and_a_new_affinity_are_made_up_for() {
        let mut kernel = kernel(2);
        kernel.set_online(CpuId(0), false);
        let task = kernel.spawn(0b11);
        kernel.wake(task);
        kernel.run_agent();
        assert_eq!(kernel.running(CpuId(1)), Some(task));
        assert_eq!(kernel.status().offline, 1);

        let other = kernel.spawn(0b10);
        kernel.wake(other);
        kernel.set_affinity(other, 0b11);
        kernel.run_agent();
        assert_eq!(kernel.status().queued, kernel.status().committed + kernel.status().left);
    }

    #[test]
    fn each_cpu_s_agent_runs_its_own_tasks_in_the_order_in_which_they_woke() {
        let mut kernel = per_cpu(3);
        let tasks: Vec<_> = (0..12).map(|n| kernel.spawn(1 << (n % 3))).collect();
        tasks.iter().rev().for_each(|task| kernel.wake(*task));
        for (n, task) in tasks.iter().enumerate().rev() {
            kernel.run_agent();
            let cpu = CpuId(n as u32 % 3);
            assert_eq!(kernel.running(cpu), Some(*task));
            kernel.block(*task);
        }
        let status = kernel.status();
        assert_eq!((status.agents, status.committed, status.fewest), (3, 12, 4));
        assert!(status.is_balanced(), "{status:?}");
    }

    #[test]
    fn with_an_agent_a_cpu_tasks_stay_where_they_were() {
        let mut kernel = per_cpu(2);
        let tasks: Vec<_> = (0..4).map(|_| kernel.spawn(0b11)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.advance(100 * MS);
        assert!(kernel.history().iter().all(|(_, cpu)| *cpu == CpuId(0)), "{:?}", kernel.history());
    }

    #[test]
    fn a_new_affinity_takes_a_task_to_another_cpu_s_agent_and_back() {
        let mut kernel = per_cpu(2);
        let tasks: Vec<_> = (0..4).map(|_| kernel.spawn(0b01)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.run_agent();
        // Two are given, two wait; one of these goes before its agent has heard of it, one after.
        kernel.set_affinity(tasks[3], 0b10);
        kernel.run_agent();
        assert_eq!(kernel.running(CpuId(1)), Some(tasks[3]));
        kernel.wake(tasks[2]);
        kernel.set_affinity(tasks[2], 0b10);
        kernel.run_agent();
        kernel.block(tasks[3]);
        assert_eq!(kernel.running(CpuId(1)), Some(tasks[2]));
        kernel.set_affinity(tasks[3], 0b01);
        kernel.wake(tasks[3]);
        kernel.advance(100 * MS);
        assert!(tasks.iter().all(|task| kernel.runtime(*task) > 0));
        assert!(kernel.history().contains(&(tasks[3], CpuId(0))), "{:?}", kernel.history());
        assert!(kernel.status().is_balanced(), "{:?}", kernel.status());
    }

    #[test]
    fn a_task_that_runs_and_leaves_its_cpu_makes_room_there() {
        let mut kernel = per_cpu(2);
        for _ in 0..10 {
            let task = kernel.spawn(0b01);
            kernel.wake(task);
            kernel.run_agent();
            assert_eq!(kernel.running(CpuId(0)), Some(task));
            kernel.set_affinity(task, 0b10);
            kernel.run_agent();
            assert_eq!((kernel.running(CpuId(0)), kernel.running(CpuId(1))), (None, Some(task)));
            kernel.block(task);
        }
        assert!(kernel.status().is_balanced(), "{:?}", kernel.status());
    }

    #[test]
    fn what_waits_for_a_cpu_that_goes_offline_runs_elsewhere() {
        let mut kernel = per_cpu(2);
        let tasks: Vec<_> = (0..5).map(|_| kernel.spawn(0b11)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.run_agent();
        kernel.set_online(CpuId(0), false);
        assert_eq!(kernel.status().agents, 1);
        kernel.advance(100 * MS);
        for task in &tasks[2..] {
            assert!(kernel.runtime(*task) > 0, "{task:?} starves");
        }
        // Those that it ran have blocked. When it is back its agent starts over.
        kernel.set_online(CpuId(0), true);
        let later = kernel.spawn(0b01);
        [later, tasks[0]].iter().for_each(|task| kernel.wake(*task));
        kernel.advance(100 * MS);
        assert_eq!(kernel.status().agents, 2);
        assert!(kernel.runtime(later) > 0 && kernel.runtime(tasks[0]) > 0);
        assert!(kernel.status().is_balanced(), "{:?}", kernel.status());
    }

    #[test]
    fn what_another_cpu_has_stolen_is_not_run_twice() {
        let mut kernel = per_cpu(2);
        let tasks: Vec<_> = (0..4).map(|_| kernel.spawn(0b11)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.run_agent();
        kernel.steal(tasks[2], CpuId(1));
        kernel.run_agent();
        kernel.block(tasks[2]);
        kernel.wake(tasks[2]);
        kernel.advance(100 * MS);
        assert_eq!(kernel.history().iter().filter(|(task, _)| *task == tasks[2]).count(), 2);
        let status = kernel.status();
        assert!(status.stolen == 1 && status.is_balanced(), "{status:?}");
    }

    const CPUS: u32 = 3;

    /// What may happen, of what a number chooses if it can at present.
    fn happen(kernel: &mut Kernel, tasks: &[TaskId], (what, task, cpu): (u8, usize, u32)) {
        let (task, cpu) = (tasks[task % tasks.len()], CpuId(cpu % CPUS));
        match what % 8 {
            0 | 1 if kernel.sleeps(task) => kernel.wake(task),
            2 => {
                if let Some(running) = kernel.running(cpu) {
                    kernel.block(running);
                }
            }
            3 => {
                if let Some(running) = kernel.running(cpu) {
                    kernel.yield_(running);
                }
            }
            4 => kernel.set_affinity(task, 1 << cpu.0 | 1),
            // Another than 0, which stays.
            5 if cpu.0 > 0 => kernel.set_online(cpu, what < 128),
            6 if kernel.waits(task) && kernel.running(cpu).is_none() => kernel.steal(task, cpu),
            _ => kernel.run_agent(),
        }
    }

    proptest::proptest! {
        #[test]
        fn no_task_is_lost_whatever_happens(
            per_cpu: bool,
            events in proptest::collection::vec(proptest::prelude::any::<(u8, usize, u32)>(), 1..200),
        ) {
            let mut kernel = if per_cpu { self::per_cpu(CPUS) } else { kernel(CPUS) };
            let tasks: Vec<_> = (0..6).map(|_| kernel.spawn(0b111)).collect();
            events.into_iter().for_each(|event| happen(&mut kernel, &tasks, event));
            (1..CPUS).for_each(|cpu| kernel.set_online(CpuId(cpu), true));
            for task in &tasks {
                if kernel.sleeps(*task) {
                    kernel.wake(*task);
                }
            }
            let before: Vec<_> = tasks.iter().map(|task| kernel.runtime(*task)).collect();
            // A CPU that was found offline is left alone for a second.
            kernel.advance(1_300 * MS);
            for (task, before) in tasks.iter().zip(before) {
                assert!(kernel.runtime(*task) > before, "{task:?} is lost");
            }
            assert!(kernel.status().is_balanced(), "{:?}", kernel.status());
        }
    }
}
