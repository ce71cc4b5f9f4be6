// SPDX-License-Identifier: GPL-2.0-only
//! An agent that does what an agent should not: slow, and with wrong transactions of every kind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use framework::agent::{CpuId, Enclave, Policy, Refused, Settings, TaskId, Transaction};
use framework::policy::{BuiltIn, Catalogue, Half};

use crate::support::spin;

/// The policies of a scx_run that has this one.
pub const CATALOGUE: Catalogue = &[BuiltIn {
    name: "unruly",
    object: include_bytes!(concat!(env!("OUT_DIR"), "/unruly.bpf.o")),
    half: Some(Half::Agent(new)),
    compile: None,
}];

struct Unruly {
    burn: Duration,
    wrong: bool,
    forget: bool,
    preempt: bool,
    queue: VecDeque<TaskId>,
    dead: Option<(TaskId, u64)>,
}

fn new(settings: &Settings) -> Box<dyn Policy> {
    Box::new(Unruly {
        burn: Duration::from_millis(settings.param("burn_ms")),
        wrong: settings.param("wrong") != 0,
        forget: settings.param("forget") != 0,
        preempt: settings.param("preempt") != 0,
        queue: VecDeque::new(),
        dead: None,
    })
}

impl Unruly {
    fn do_wrong(&self, enclave: &mut Enclave<'_>, task: TaskId, right: CpuId) {
        let seq = enclave.seq(task);
        // Refused one and all, so it does not matter whether there is room.
        let _ = enclave.submit(Transaction::run(task, right).as_of(seq - 1));
        let _ = enclave.submit(Transaction::run(task, right).as_of(seq + 1));
        if let Some((dead, seq)) = self.dead {
            let _ = enclave.submit(Transaction::run(dead, right).as_of(seq));
        }
    }
}

impl Policy for Unruly {
    fn wakeup(&mut self, _enclave: &mut Enclave<'_>, task: TaskId) {
        self.queue.push_back(task);
    }

    fn dead(&mut self, enclave: &mut Enclave<'_>, task: TaskId) {
        self.dead = Some((task, enclave.seq(task)));
    }

    fn refused(&mut self, enclave: &mut Enclave<'_>, transaction: &Transaction, _why: Refused) {
        if enclave.waits(transaction.task()) && !self.queue.contains(&transaction.task()) {
            self.queue.push_back(transaction.task());
        }
    }

    fn schedule(&mut self, enclave: &mut Enclave<'_>) {
        while let Some(task) = self.queue.pop_front() {
            if !enclave.waits(task) || self.forget && enclave.task(task).pid() % 2 == 1 {
                continue;
            }
            let start = Instant::now();
            while start.elapsed() < self.burn {
                spin();
            }
            let allowed = |cpu: &CpuId| enclave.task(task).may_run_on(*cpu);
            let forbidden = enclave.cpus().find(|cpu| !allowed(cpu));
            // All that wait are given to the CPUs at once: these always have something to run.
            let given = |cpu: &CpuId| enclave.cpu(*cpu).given;
            let Some(cpu) = enclave.cpus().filter(allowed).min_by_key(given) else { continue };
            // Without wrong ones, every other leaves the CPU to BPF.
            let right = if self.wrong || enclave.seq(task).is_multiple_of(2) {
                Transaction::run(task, cpu)
            } else {
                Transaction::run_on_any(task, enclave.cpus())
            };
            let mut right = right.slice(1_000_000);
            if self.preempt {
                // Long before its slice is over, so that nobody else ever gets there.
                right = right.slice(100_000_000).preempt();
                enclave.wake_at(Some(enclave.now() + 1_000_000));
            }
            if self.wrong {
                self.do_wrong(enclave, task, cpu);
                // A CPU that there is not, one that it may not use, and a right one with it in a group: of these
                // one comes after another refusal, since a task is decided on once at a time.
                let wrong = match (enclave.seq(task) % 4, forbidden) {
                    (0, _) => Transaction::run(task, CpuId(4000)),
                    (1, Some(forbidden)) => Transaction::run(task, forbidden),
                    (2, Some(forbidden)) if !self.queue.is_empty() => {
                        let other = self.queue[0];
                        if enclave.waits(other) && other != task {
                            let group = [Transaction::run(other, cpu), Transaction::run(task, forbidden)];
                            let _ = enclave.submit_group(&group);
                            continue;
                        }
                        right
                    }
                    _ => right,
                };
                if wrong != right {
                    // What is refused comes back, and then it is time for the right one.
                    let _ = enclave.submit(wrong);
                    let _ = enclave.submit(right);
                    continue;
                }
            }
            if !enclave.submit(right) {
                self.queue.push_front(task);
                return;
            }
        }
    }

    fn reset(&mut self) {
        self.queue.clear();
    }
}
