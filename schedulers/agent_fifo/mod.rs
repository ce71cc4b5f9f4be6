// SPDX-License-Identifier: GPL-2.0-only
//! `agent_fifo`: first come, first served, decided in user space.
//!
//! One queue for all CPUs, or with `per_cpu=1` one for each, in which a task waits for the CPU it was on last. A
//! CPU is given one task to run and, when all have one, another to run next: so that a slice that is over is noticed
//! by the kernel itself, and a CPU whose task sleeps does not wait for the agent.

use std::collections::VecDeque;

use framework::agent::{CpuId, Enclave, Policy, Refused, Settings, TaskId, Transaction};

/// Tasks that a CPU is given: one that runs and one that is next.
const DEPTH: u32 = 2;

struct AgentFifo {
    slice_ns: u64,
    per_cpu: bool,
    queue: VecDeque<TaskId>,
}

/// Makes the policy.
pub fn new(settings: &Settings) -> Box<dyn Policy> {
    Box::new(AgentFifo {
        slice_ns: settings.param("slice_us") * 1000,
        per_cpu: settings.param("per_cpu") != 0,
        queue: VecDeque::with_capacity(4096),
    })
}

impl AgentFifo {
    /// The CPU for a task: the one it was on if that is as free as any, else the freest that it may use.
    fn cpu_for(&self, enclave: &Enclave<'_>, id: TaskId) -> Option<CpuId> {
        let task = enclave.task(id);
        let last = task.cpu();
        let stays = self.per_cpu && task.may_run_on(last);
        let key = |cpu: &CpuId| (enclave.cpu(*cpu).given, *cpu != last);
        let usable = |cpu: &CpuId| {
            enclave.cpu(*cpu).given < DEPTH && task.may_run_on(*cpu) && (!stays || *cpu == last)
        };
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
            room = room && enclave.cpus().any(|cpu| enclave.cpu(cpu).given < DEPTH);
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
    use std::collections::BTreeMap;

    use framework::agent::sim::Kernel;

    use super::*;

    const MS: u64 = 1_000_000;

    fn kernel(cpus: u32, per_cpu: u64) -> Kernel {
        let params = BTreeMap::from([("slice_us".to_owned(), 10_000), ("per_cpu".to_owned(), per_cpu)]);
        Kernel::new(cpus, new(&Settings { params, cpus }))
    }

    fn order(kernel: &Kernel) -> Vec<TaskId> {
        kernel.history().iter().map(|(task, _)| *task).collect()
    }

    #[test]
    fn tasks_run_in_the_order_in_which_they_woke() {
        let mut kernel = kernel(1, 0);
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
        let mut kernel = kernel(1, 0);
        let tasks: Vec<_> = (0..3).map(|_| kernel.spawn(1)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.advance(90 * MS);
        for task in &tasks {
            assert_eq!(kernel.runtime(*task), 30 * MS);
        }
        assert_eq!(order(&kernel)[..4], [tasks[0], tasks[1], tasks[2], tasks[0]]);
    }

    #[test]
    fn no_cpu_idles_while_a_task_waits_that_it_may_run() {
        let mut kernel = kernel(4, 0);
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
    fn with_a_queue_a_cpu_tasks_stay_where_they_were() {
        let mut kernel = kernel(2, 1);
        let tasks: Vec<_> = (0..4).map(|_| kernel.spawn(0b11)).collect();
        tasks.iter().for_each(|task| kernel.wake(*task));
        kernel.advance(100 * MS);
        assert!(kernel.history().iter().all(|(_, cpu)| *cpu == CpuId(0)), "{:?}", kernel.history());
    }

    #[test]
    fn a_task_that_bpf_has_run_meanwhile_is_not_run_twice() {
        let mut kernel = kernel(1, 0);
        let (a, b) = (kernel.spawn(1), kernel.spawn(1));
        kernel.wake(a);
        kernel.wake(b);
        kernel.overdue(b);
        kernel.run_agent();
        assert_eq!(order(&kernel), [a]);
        let status = kernel.status();
        assert_eq!((status.committed, status.overdue, status.waiting), (1, 1, 0));
    }

    #[test]
    fn late_outcomes_and_repeated_messages_change_nothing() {
        let mut kernel = kernel(2, 0);
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
        let status = kernel.status();
        assert_eq!(status.queued, status.committed + status.overdue + status.left + status.waiting);
    }

    #[test]
    fn an_offline_cpu_and_a_new_affinity_are_made_up_for() {
        let mut kernel = kernel(2, 0);
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
}
