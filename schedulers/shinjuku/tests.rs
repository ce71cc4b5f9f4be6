// SPDX-License-Identifier: GPL-2.0-only
//! A quantum at a time on a simulated kernel.

use std::collections::BTreeMap;

use framework::agent::sim::Kernel;
use framework::hints::Hint;

use super::*;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const CPU: CpuId = CpuId(0);
const BOTH: u64 = 0b11;
const QUANTUM: u64 = 500 * US;
const MAX_WAIT: u64 = 50 * MS;

fn policy(cpus: u32) -> Box<dyn Policy> {
    let params = [("quantum_us", 500), ("batch_quantum_us", 5000), ("turn_within_us", 50_000)];
    let params = BTreeMap::from(params.map(|(name, value)| (name.to_owned(), value)));
    new(&Settings { params, cpus, cpu: None })
}

fn kernel(cpus: u32) -> Kernel {
    Kernel::new(cpus, policy(cpus))
}

fn awake(kernel: &mut Kernel, class: Class) -> TaskId {
    let task = kernel.spawn(BOTH);
    kernel.set_hint(task, Hint { class, ..Hint::default() });
    kernel.wake(task);
    task
}

fn hogs<const N: usize>(kernel: &mut Kernel, class: Class) -> [TaskId; N] {
    [(); N].map(|()| awake(kernel, class))
}

fn running(kernel: &Kernel, cpus: u32) -> Vec<TaskId> {
    (0..cpus).filter_map(|cpu| kernel.running(CpuId(cpu))).collect()
}

fn assert_accounted(kernel: &Kernel) {
    let status = kernel.status();
    assert!(status.is_balanced(), "{status:?}");
}

/// The longest time for which a task does not run, to 100 us.
fn longest_wait(kernel: &mut Kernel, task: TaskId, ns: u64) -> u64 {
    let (mut longest, mut waited) = (0, 0);
    for _ in 0..ns / (100 * US) {
        let before = kernel.runtime(task);
        kernel.advance(100 * US);
        waited = if kernel.runtime(task) == before { waited + 100 * US } else { 0 };
        longest = longest.max(waited);
    }
    longest
}

#[test]
fn tasks_take_turns_of_a_quantum() {
    let mut kernel = kernel(1);
    let tasks: [_; 3] = hogs(&mut kernel, Class::Normal);
    kernel.advance(30 * MS);
    assert_eq!(tasks.map(|task| kernel.runtime(task)), [10 * MS; 3]);
    for (n, task) in kernel.order().into_iter().enumerate() {
        assert_eq!(task, tasks[n % 3], "turn {n}");
    }
    assert_eq!(kernel.order().len(), 61);
    assert_accounted(&kernel);
}

#[test]
fn who_is_alone_is_not_disturbed() {
    let mut kernel = kernel(2);
    awake(&mut kernel, Class::Latency);
    awake(&mut kernel, Class::Batch);
    kernel.advance(100 * MS);
    assert_eq!(kernel.order().len(), 2);
}

#[test]
fn who_was_given_an_idle_cpu_by_bpf_has_a_quantum_too() {
    let mut kernel = kernel(1);
    let [direct, later] = [kernel.spawn(BOTH), kernel.spawn(BOTH)];
    kernel.wake_direct(direct, CPU);
    kernel.wake(later);
    kernel.advance(100 * US);
    assert_eq!(kernel.running(CPU), Some(direct));
    kernel.advance(QUANTUM);
    assert_eq!(kernel.running(CPU), Some(later));
    assert_accounted(&kernel);
}

#[test]
fn a_short_request_waits_for_a_quantum_and_not_for_long_requests() {
    let mut kernel = kernel(1);
    let long: [_; 4] = hogs(&mut kernel, Class::Normal);
    kernel.advance(20 * MS);
    let short = awake(&mut kernel, Class::Normal);
    kernel.advance(QUANTUM);
    assert_eq!(kernel.running(CPU), Some(short));
    kernel.block(short);
    kernel.advance(0);
    assert!(long.contains(&running(&kernel, 1)[0]));
}

#[test]
fn a_latency_task_takes_the_cpu_of_a_batch_task_at_once() {
    let mut kernel = kernel(2);
    let batch: [_; 2] = hogs(&mut kernel, Class::Batch);
    kernel.advance(MS);
    let latency = awake(&mut kernel, Class::Latency);
    kernel.run_agent();
    assert!(running(&kernel, 2).contains(&latency));
    kernel.advance(3 * MS);
    assert_eq!(kernel.runtime(latency), 3 * MS);
    kernel.block(latency);
    kernel.run_agent();
    assert!(running(&kernel, 2).iter().all(|task| batch.contains(task)));
    assert_accounted(&kernel);
}

#[test]
fn batch_tasks_take_longer_turns() {
    let mut kernel = kernel(1);
    let batch: [_; 2] = hogs(&mut kernel, Class::Batch);
    kernel.advance(40 * MS);
    assert_eq!(batch.map(|task| kernel.runtime(task)), [20 * MS; 2]);
    assert_eq!(kernel.order().len(), 9);
}

#[test]
fn batch_tasks_get_little_but_are_not_starved() {
    let mut kernel = kernel(1);
    let batch: [_; 2] = hogs(&mut kernel, Class::Batch);
    let latency: [_; 4] = hogs(&mut kernel, Class::Normal);
    kernel.advance(10 * MS);
    for task in batch {
        let longest = longest_wait(&mut kernel, task, 400 * MS);
        // Then all others may have a quantum before it.
        assert!(longest <= MAX_WAIT + 6 * QUANTUM, "{task:?} waits for {longest} ns");
    }
    assert!(latency.iter().all(|task| kernel.runtime(*task) > 190 * MS));
    assert_accounted(&kernel);
}

#[test]
fn a_long_request_is_not_starved_by_short_ones() {
    let mut kernel = kernel(1);
    let long = awake(&mut kernel, Class::Normal);
    let short: [_; 2] = hogs(&mut kernel, Class::Normal);
    let mut waited = 0;
    for _ in 0..2000 {
        let before = kernel.runtime(long);
        kernel.advance(100 * US);
        waited = if kernel.runtime(long) == before { waited + 100 * US } else { 0 };
        assert!(waited <= MAX_WAIT + 2 * QUANTUM, "{waited} ns");
        // One of them is awake at any time.
        if let Some(done) = short.into_iter().find(|task| kernel.running(CPU) == Some(*task)) {
            kernel.block(done);
            kernel.wake(done);
        }
    }
    assert!((MS..20 * MS).contains(&kernel.runtime(long)), "{}", kernel.runtime(long));
}

#[test]
fn the_class_is_that_of_the_hint_at_the_latest_wakeup() {
    let mut kernel = kernel(1);
    let task = awake(&mut kernel, Class::Normal);
    kernel.run_agent();
    kernel.block(task);
    kernel.set_hint(task, Hint { class: Class::Batch, ..Hint::default() });
    kernel.wake(task);
    kernel.advance(MS);
    let other = awake(&mut kernel, Class::Normal);
    kernel.run_agent();
    assert_eq!(kernel.running(CPU), Some(other));
}

#[test]
fn who_is_interrupted_has_the_rest_of_the_quantum() {
    let mut kernel = kernel(1);
    let [a, b] = hogs(&mut kernel, Class::Normal);
    for _ in 0..4 {
        kernel.advance(100 * US);
        kernel.displace(CPU);
    }
    kernel.advance(90 * US);
    assert_eq!((kernel.runtime(a), kernel.runtime(b)), (490 * US, 0));
    kernel.advance(20 * US);
    assert_eq!(kernel.running(CPU), Some(b));
}

#[test]
fn who_yields_goes_behind_the_others() {
    let mut kernel = kernel(1);
    let [a, b] = hogs(&mut kernel, Class::Normal);
    kernel.run_agent();
    kernel.yield_(a);
    kernel.run_agent();
    assert_eq!(kernel.running(CPU), Some(b));
    kernel.advance(QUANTUM);
    assert_eq!(kernel.running(CPU), Some(a));
}

#[test]
fn who_is_tied_to_a_busy_cpu_does_not_hold_up_the_rest() {
    let mut kernel = kernel(2);
    let tied = [(); 4].map(|()| kernel.spawn(0b10));
    tied.iter().for_each(|task| kernel.wake(*task));
    let free = awake(&mut kernel, Class::Normal);
    kernel.advance(20 * MS);
    assert!(kernel.runtime(free) >= 19 * MS);
    assert!(kernel.history().iter().all(|(task, cpu)| !tied.contains(task) || *cpu == CpuId(1)));
    let queued = tied.iter().find(|task| !running(&kernel, 2).contains(task)).unwrap();
    kernel.set_affinity(*queued, 0b01);
    let before = kernel.runtime(*queued);
    kernel.advance(20 * MS);
    assert!(kernel.runtime(*queued) > before + 9 * MS);
    assert_accounted(&kernel);
}

#[test]
fn a_task_that_bpf_has_run_meanwhile_is_not_run_twice() {
    let mut kernel = kernel(1);
    let [a, b] = hogs(&mut kernel, Class::Normal);
    kernel.overdue(b);
    kernel.run_agent();
    assert_eq!(kernel.order(), [a]);
    let status = kernel.status();
    assert_eq!((status.committed, status.overdue, status.waiting), (1, 1, 0));
}

#[test]
fn late_outcomes_and_repeated_messages_change_nothing() {
    let mut kernel = kernel(2);
    kernel.hold_outcomes(true);
    let tasks: [_; 6] = hogs(&mut kernel, Class::Normal);
    tasks.iter().for_each(|task| kernel.repeat_message(*task));
    kernel.run_agent();
    // They run and sleep before the agent hears that they were placed.
    let ran = running(&kernel, 2);
    assert_eq!(ran, tasks[..2]);
    ran.iter().for_each(|task| kernel.block(*task));
    kernel.advance(5 * MS);
    kernel.hold_outcomes(false);
    kernel.advance(20 * MS);
    for task in &tasks[2..] {
        assert!(kernel.runtime(*task) > 9 * MS, "{task:?} starves");
    }
    assert_accounted(&kernel);
}

#[test]
fn an_offline_cpu_and_the_dead_are_made_up_for() {
    let mut kernel = kernel(2);
    kernel.set_online(CPU, false);
    let [a, b] = hogs(&mut kernel, Class::Normal);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [b]);
    kernel.kill(b);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [a]);
    kernel.set_online(CPU, true);
    kernel.advance(1001 * MS);
    let c = awake(&mut kernel, Class::Normal);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [c, a]);
    assert_accounted(&kernel);
}

#[test]
fn who_is_long_still_is_after_an_upgrade() {
    let mut kernel = kernel(1);
    let long: [_; 3] = hogs(&mut kernel, Class::Normal);
    kernel.advance(20 * MS);
    let short = awake(&mut kernel, Class::Normal);
    kernel.upgrade(|_| policy(1));
    // The rest of a quantum at most: the others have used up theirs.
    kernel.advance(QUANTUM + 50 * US);
    assert_eq!(kernel.running(CPU), Some(short));
    kernel.block(short);
    kernel.advance(30 * MS);
    let ran = long.map(|task| kernel.runtime(task));
    assert!(ran.iter().all(|ns| ns.abs_diff(ran[0]) <= QUANTUM), "{ran:?}");
    assert_accounted(&kernel);
}
