// SPDX-License-Identifier: GPL-2.0-only
//! `shinjuku`: one queue for all CPUs, preemption after a quantum, batch tasks in the gaps. Decided in user space.
//!
//! **Algorithm.** If most requests are short and a few are long, first come, first served makes the short ones wait
//! behind the long ones. Here a task that has run for `quantum_us` makes room for who waits. It goes to the tail of a
//! second queue, which is served when the first, of those that have not run a quantum since they woke up, is empty: who
//! is long shows by running, and need not be known. *Batch* tasks (`scx_run hint class=batch`, or nice above 0 unless the
//! hint says `class=latency`) run where no other task wants to, in turns of `batch_quantum_us`, and give way at once. In any
//! queue, who has waited for `turn_within_us` gets a quantum as if it had just woken up. A CPU is given one task at a
//! time: what it has not been given can still go to another.
//!
//! **Source.** Kaffes et al., "Shinjuku: Preemptive Scheduling for us-scale Tail Latency" (NSDI 2019), and the policy of
//! that name in ghOSt (Humphries et al., SOSP 2021). The two classes are ghOSt's (Shinjuku + Shenango); the second queue
//! is that of feedback scheduling (Corbato et al., 1962). Theirs have a CPU for the agent, which polls. Ours sleeps.
//!
//! **Complexity.** A decision looks at all CPUs for each task that it places, and once at each task that waits. A
//! preemption costs the agent's wakeup and a few context switches, some tens of microseconds; the agent's timer ends a quantum, not
//! the kernel's tick, so it can be far shorter than a tick. Nothing is allocated once it runs.
//!
//! **Worst case.** On m CPUs a task that wakes up waits for those that woke up before it, of which each has at most a
//! quantum; long and batch tasks wait for `turn_within_us`, and then as if they had just woken up. Where a CPU is busy
//! beyond that with first quanta, waits grow without limit, as with any policy that is offered too much.
//!
//! **When.** Requests of very different length, unknown beforehand, whose tail latency counts; batch work to fill
//! the gaps. Not for requests of one length (preempting only adds to them), nor for many much shorter than 100 us
//! (a decision costs as much), nor for fair shares (a weight only makes the class). A thread that takes request
//! after request without sleeping looks like a long one. With fewer CPUs the agent's share of them is larger.
//!
//! **Parameters.** `quantum_us` (500): short requests should fit in, long ones should not. `batch_quantum_us` (5000): as
//! long as caches want it, since latency tasks do not wait for it. `turn_within_us` (50000): the bound on starvation.

use std::collections::VecDeque;

use framework::agent::{Cpu, CpuId, Enclave, MAX_TASKS, Policy, Refused, Settings, TaskId, Transaction};
use framework::hints::Class;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tasks that a queue holds before it has to grow.
const CAPACITY: usize = 4096;
/// Weight of nice 0.
const NORMAL_WEIGHT: u32 = 100;
/// How soon to look again at a CPU on which a task has not begun yet, ns.
const SOON: u64 = 50_000;

/// Which queue a task waits in, the more urgent first.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Lane {
    /// Latency tasks that have not run a quantum since they woke up.
    #[default]
    Fresh,
    /// Those that have.
    Long,
    Batch,
}

const LANES: [Lane; 3] = [Lane::Fresh, Lane::Long, Lane::Batch];

/// A task's turn.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Turn {
    lane: Lane,
    /// Run time in all at which it is over.
    over_at: u64,
}

struct Shinjuku {
    /// By lane.
    quantum_ns: [u64; 3],
    max_wait_ns: u64,
    /// By lane.
    queues: [VecDeque<TaskId>; 3],
    /// By task.
    turns: Vec<Turn>,
    /// What each CPU was given last.
    given: Vec<Option<TaskId>>,
}

/// Makes the policy.
pub fn new(settings: &Settings) -> Box<dyn Policy> {
    let ns = |name| settings.param(name) * 1000;
    Box::new(Shinjuku {
        quantum_ns: [ns("quantum_us"), ns("quantum_us"), ns("batch_quantum_us")],
        max_wait_ns: ns("turn_within_us"),
        queues: LANES.map(|_| VecDeque::with_capacity(CAPACITY)),
        turns: vec![Turn::default(); MAX_TASKS],
        given: vec![None; settings.cpus as usize],
    })
}

impl Shinjuku {
    /// A whole quantum from now on.
    fn begin(&mut self, enclave: &Enclave<'_>, id: TaskId, lane: Lane) {
        let over_at = enclave.task(id).runtime_ns() + self.quantum_ns[lane as usize];
        self.turns[id.index()] = Turn { lane, over_at };
    }

    /// To the end of a queue.
    fn push(&mut self, enclave: &Enclave<'_>, id: TaskId, lane: Lane) {
        self.begin(enclave, id, lane);
        self.queues[lane as usize].push_back(id);
    }

    /// The rest of a turn, ns; 0 if it is not worth a context switch.
    fn left(&self, enclave: &Enclave<'_>, id: TaskId) -> u64 {
        let Turn { lane, over_at } = self.turns[id.index()];
        let left = over_at.saturating_sub(enclave.task(id).runtime_ns());
        if left > self.quantum_ns[lane as usize] / 16 { left } else { 0 }
    }

    /// Who has a CPU's turn, whether it has begun, and when it ends or is worth another look. `None`: it is free.
    fn turn(&self, enclave: &Enclave<'_>, cpu: CpuId) -> Option<(Lane, bool, u64)> {
        let Cpu { given, pid, since_ns } = enclave.cpu(cpu);
        let id = self.given[cpu.0 as usize].filter(|_| given > 0)?;
        let begun = pid == enclave.task(id).pid();
        let end = match pid {
            _ if begun => since_ns + self.left(enclave, id),
            // As soon as we sleep.
            0 => enclave.now() + self.left(enclave, id),
            // After a kernel thread, or what else comes first.
            _ => enclave.now() + SOON,
        };
        Some((self.turns[id.index()].lane, begun, end))
    }

    /// Whether a task of a lane can have a CPU, and how gladly: 0 is best.
    fn rank(&self, enclave: &Enclave<'_>, lane: Lane, cpu: CpuId) -> Option<u32> {
        let Some((theirs, begun, end)) = self.turn(enclave, cpu) else {
            return Some(u32::from(enclave.cpu(cpu).pid != 0));
        };
        match (theirs == Lane::Batch, lane == Lane::Batch) {
            (true, false) => begun.then_some(2),
            (false, true) => None,
            _ => (begun && end <= enclave.now()).then_some(3),
        }
    }

    fn give(&mut self, enclave: &mut Enclave<'_>, id: TaskId, lane: Lane) -> bool {
        let task = enclave.task(id);
        let allowed = enclave.cpus().filter(|cpu| task.may_run_on(*cpu));
        let ranked = allowed.filter_map(|cpu| Some((self.rank(enclave, lane, cpu)?, cpu != task.cpu(), cpu)));
        let Some((_, _, cpu)) = ranked.min() else { return false };
        let run = Transaction::run(id, cpu).slice(self.left(enclave, id));
        let done = enclave.submit(if enclave.cpu(cpu).given > 0 { run.take_turns() } else { run });
        if done {
            self.given[cpu.0 as usize] = Some(id);
        }
        done
    }

    /// Gives CPUs to those of a lane, in order, as long as there are any for it.
    fn fill(&mut self, enclave: &mut Enclave<'_>, lane: Lane) {
        let mut queue = std::mem::take(&mut self.queues[lane as usize]);
        let mut open = true;
        queue.retain(|id| {
            open = open && enclave.cpus().any(|cpu| self.rank(enclave, lane, cpu).is_some());
            // Whoever does not wait any more has left, or has had its turn without us.
            enclave.waits(*id) && !(open && self.give(enclave, *id, lane))
        });
        self.queues[lane as usize] = queue;
    }

    /// When the first of a queue has waited for too long.
    fn due(&self, enclave: &Enclave<'_>, lane: Lane) -> Option<u64> {
        let first = self.queues[lane as usize].front()?;
        Some(enclave.task(*first).queued_at() + self.max_wait_ns)
    }

    /// Who has waited for too long gets a quantum like one who has just woken up.
    fn promote(&mut self, enclave: &Enclave<'_>, lane: Lane) {
        while self.due(enclave, lane).is_some_and(|due| due <= enclave.now())
            && let Some(id) = self.queues[lane as usize].pop_front()
        {
            if enclave.waits(id) {
                self.push(enclave, id, Lane::Fresh);
            }
        }
    }

    /// Whether who wakes up has to wait for the end of a turn, behind others.
    fn is_full(&self, enclave: &Enclave<'_>) -> bool {
        let later = |(lane, _, end)| lane != Lane::Batch && end > enclave.now();
        let waits = |lane: Lane| !self.queues[lane as usize].is_empty();
        (waits(Lane::Fresh) || waits(Lane::Long))
            && enclave.cpus().all(|cpu| self.turn(enclave, cpu).is_some_and(later))
    }

    /// When there will be something to decide that nobody tells us of.
    fn next_look(&self, enclave: &Enclave<'_>) -> Option<u64> {
        let [fresh, long, batch] = LANES.map(|lane| !self.queues[lane as usize].is_empty());
        let look = |(lane, _, end)| match lane {
            // One that has not begun cannot be told to make room.
            Lane::Batch if fresh || long => Some(enclave.now() + SOON),
            Lane::Batch => batch.then_some(end),
            _ => (fresh || long).then_some(end),
        };
        let looks = enclave.cpus().filter_map(|cpu| self.turn(enclave, cpu)).filter_map(look);
        let looks = looks.filter(|at| *at > enclave.now());
        looks.chain([Lane::Long, Lane::Batch].into_iter().filter_map(|lane| self.due(enclave, lane))).min()
    }

    /// The queue of a task that has to wait: after a wakeup, or after its quantum.
    fn lane(enclave: &Enclave<'_>, id: TaskId, else_lane: Lane) -> Lane {
        let task = enclave.task(id);
        match task.hint().class {
            Class::Batch => Lane::Batch,
            Class::Normal if task.weight() < NORMAL_WEIGHT => Lane::Batch,
            _ => else_lane,
        }
    }
}

impl Policy for Shinjuku {
    fn wakeup(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.push(enclave, id, Self::lane(enclave, id, Lane::Fresh));
    }

    fn direct(&mut self, enclave: &mut Enclave<'_>, id: TaskId, cpu: CpuId) {
        self.begin(enclave, id, Self::lane(enclave, id, Lane::Fresh));
        self.given[cpu.0 as usize] = Some(id);
    }

    fn preempted(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        if self.turns[id.index()].lane == Lane::Batch || self.left(enclave, id) == 0 {
            return self.yielded(enclave, id);
        }
        // Not by who waits here, but by the agent, say: it is still its turn.
        self.queues[Lane::Fresh as usize].push_front(id);
    }

    fn yielded(&mut self, enclave: &mut Enclave<'_>, id: TaskId) {
        self.push(enclave, id, Self::lane(enclave, id, Lane::Long));
    }

    fn refused(&mut self, enclave: &mut Enclave<'_>, transaction: &Transaction, _why: Refused) {
        if enclave.waits(transaction.task()) {
            self.preempted(enclave, transaction.task());
        }
    }

    fn schedule(&mut self, enclave: &mut Enclave<'_>) {
        self.promote(enclave, Lane::Long);
        self.promote(enclave, Lane::Batch);
        LANES.into_iter().for_each(|lane| self.fill(enclave, lane));
        match self.next_look(enclave) {
            Some(at) if self.is_full(enclave) => enclave.doze_until(at),
            at => enclave.wake_at(at),
        }
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn save(&self, _enclave: &Enclave<'_>, id: TaskId) -> Option<Value> {
        serde_json::to_value(self.turns[id.index()]).ok()
    }

    /// Who was long still is: one that has slept since then is so until it wakes up again.
    fn restore(&mut self, enclave: &mut Enclave<'_>, id: TaskId, state: Value) -> bool {
        let Ok(turn) = serde_json::from_value::<Turn>(state) else { return false };
        self.turns[id.index()] = turn;
        match self.left(enclave, id) {
            _ if !enclave.waits(id) => {}
            0 => self.yielded(enclave, id),
            _ => self.queues[turn.lane as usize].push_back(id),
        }
        true
    }

    fn reset(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.given.fill(None);
    }
}

#[cfg(test)]
mod tests;
