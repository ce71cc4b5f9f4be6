// SPDX-License-Identifier: GPL-2.0-only
//! Earliest deadline first on a simulated kernel.

use std::collections::BTreeMap;

use framework::agent::sim::Kernel;
use framework::hints::Hint;

use super::*;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const BOTH: u64 = 0b11;

/// Without a hint: a deadline of 100 ms, a share of 10 ms.
fn policy(cpus: u32) -> Box<dyn Policy> {
    let params =
        BTreeMap::from([("default_deadline_us".to_owned(), 100_000), ("slice_us".to_owned(), 10_000)]);
    new(&Settings { params, cpus, cpu: None })
}

fn kernel(cpus: u32) -> Kernel {
    Kernel::new(cpus, policy(cpus))
}

fn hinted(kernel: &mut Kernel, affinity: u64, deadline_ns: u64) -> TaskId {
    let task = kernel.spawn(affinity);
    kernel.set_hint(task, Hint { deadline_ns: Some(deadline_ns), ..Hint::default() });
    task
}

fn running(kernel: &Kernel, cpus: u32) -> Vec<Option<TaskId>> {
    (0..cpus).map(|cpu| kernel.running(CpuId(cpu))).collect()
}

fn assert_accounted(kernel: &Kernel) {
    let status = kernel.status();
    assert!(status.is_balanced(), "{status:?}");
}

#[test]
fn tasks_run_in_the_order_of_their_deadlines() {
    let mut kernel = kernel(1);
    let deadlines = [30, 5, 200, 80, 10];
    let mut tasks: Vec<_> = deadlines.iter().map(|ms| (*ms, hinted(&mut kernel, 1, ms * MS))).collect();
    tasks.push((100, kernel.spawn(1)));
    tasks.iter().for_each(|(_, task)| kernel.wake(*task));
    tasks.sort();
    for (ms, task) in tasks {
        kernel.run_agent();
        assert_eq!(kernel.running(CpuId(0)), Some(task), "{ms} ms");
        kernel.block(task);
    }
    assert_accounted(&kernel);
}

#[test]
fn two_cpus_run_the_two_earliest() {
    let mut kernel = kernel(2);
    let tasks: Vec<_> = [40, 20, 10, 30].map(|ms| hinted(&mut kernel, BOTH, ms * MS)).into();
    tasks.iter().for_each(|task| kernel.wake(*task));
    kernel.run_agent();
    assert_eq!(kernel.order(), [tasks[2], tasks[1]]);
    kernel.block(tasks[1]);
    kernel.run_agent();
    assert_eq!(kernel.order()[2..], [tasks[3]]);
    kernel.block(tasks[2]);
    kernel.run_agent();
    assert_eq!(kernel.order()[3..], [tasks[0]]);
}

#[test]
fn an_earlier_deadline_preempts_the_latest_and_a_later_one_nobody() {
    let mut kernel = kernel(2);
    let (near, far) = (hinted(&mut kernel, BOTH, 20 * MS), hinted(&mut kernel, BOTH, 50 * MS));
    kernel.wake(near);
    kernel.wake(far);
    kernel.advance(MS);
    let later = kernel.spawn(BOTH);
    kernel.wake(later);
    kernel.advance(MS);
    assert_eq!(kernel.order(), [near, far]);

    let urgent = hinted(&mut kernel, BOTH, 5 * MS);
    kernel.wake(urgent);
    kernel.run_agent();
    let now = running(&kernel, 2);
    assert!(now.contains(&Some(near)) && now.contains(&Some(urgent)), "{now:?}");
    // The one that made room still has its deadline, which comes before that of the one that was there first.
    kernel.block(urgent);
    kernel.run_agent();
    assert!(running(&kernel, 2).contains(&Some(far)));
    assert_accounted(&kernel);
}

#[test]
fn who_is_tied_to_a_busy_cpu_does_not_hold_up_the_rest() {
    let mut kernel = kernel(2);
    let first = hinted(&mut kernel, 0b01, 10 * MS);
    let tied: Vec<_> = (0..3).map(|_| hinted(&mut kernel, 0b01, 20 * MS)).collect();
    let free = hinted(&mut kernel, BOTH, 90 * MS);
    [first, tied[0], tied[1], tied[2], free].iter().for_each(|task| kernel.wake(*task));
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [Some(first), Some(free)]);
    kernel.set_affinity(tied[2], BOTH);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [Some(first), Some(tied[2])]);
    assert_accounted(&kernel);
}

/// Runs tasks of this run time and period (= deadline), all released together, and counts the deadlines missed.
fn misses(cpus: u32, set: &[(u64, u64)], span: u64) -> usize {
    let mut kernel = kernel(cpus);
    let start = kernel.now();
    let everywhere = (1 << cpus) - 1;
    // Next release, run time at which the present job is done, whether it is.
    let mut jobs: Vec<_> =
        set.iter().map(|(_, period)| (hinted(&mut kernel, everywhere, *period), start, 0, true)).collect();
    let mut misses = 0;
    while kernel.now() < start + span {
        for ((task, release, end, done), (time, period)) in jobs.iter_mut().zip(set) {
            if !*done && kernel.runtime(*task) >= *end {
                kernel.block(*task);
                *done = true;
            }
            if kernel.now() < *release {
                continue;
            }
            *release += period;
            if *done {
                *end = kernel.runtime(*task) + time;
                *done = false;
                kernel.wake(*task);
            } else {
                misses += 1;
                *end += time;
            }
        }
        kernel.advance(10 * US);
    }
    assert_accounted(&kernel);
    misses
}

#[test]
fn a_feasible_set_misses_nothing() {
    // 25 + 40 + 33.3 = 98.3 %, where fixed priorities by period would miss some.
    assert_eq!(misses(1, &[(MS, 4 * MS), (2 * MS, 5 * MS), (3 * MS, 9 * MS)], 360 * MS), 0);
    // Global EDF on m CPUs keeps what needs at most m - (m - 1) * (the largest single load): here 2 - 0.3 = 1.7.
    let set = [(3 * MS, 10 * MS), (2 * MS, 8 * MS), (3 * MS, 12 * MS), (MS, 4 * MS), (4 * MS, 16 * MS), (4 * MS, 20 * MS)];
    assert_eq!(misses(2, &set, 480 * MS), 0);
}

#[test]
fn an_infeasible_set_misses_some() {
    assert!(misses(1, &[(3 * MS, 4 * MS), (2 * MS, 5 * MS)], 100 * MS) > 0);
}

#[test]
fn who_never_sleeps_cannot_keep_the_rest_out() {
    let mut kernel = kernel(1);
    let hogs: Vec<_> = [5, 10].map(|ms| hinted(&mut kernel, 1, ms * MS)).into();
    let rest: Vec<_> = (0..3).map(|_| kernel.spawn(1)).collect();
    hogs.iter().chain(&rest).for_each(|task| kernel.wake(*task));
    kernel.advance(2000 * MS);
    for task in hogs.iter().chain(&rest) {
        // A fifth would be an equal part.
        assert!(kernel.runtime(*task) > 80 * MS, "{task:?} got {} ms", kernel.runtime(*task) / MS);
    }
    // The urgent ones get more, but not all.
    assert!(kernel.runtime(hogs[0]) > kernel.runtime(rest[0]));
    assert_accounted(&kernel);
}

#[test]
fn a_yield_is_the_end_of_a_share() {
    let mut kernel = kernel(1);
    let (near, far) = (hinted(&mut kernel, 1, 20 * MS), hinted(&mut kernel, 1, 25 * MS));
    kernel.wake(near);
    kernel.wake(far);
    kernel.advance(15 * MS);
    assert_eq!(kernel.running(CpuId(0)), Some(far), "the first one's share of 10 ms is over");
    kernel.yield_(far);
    kernel.run_agent();
    assert_eq!(kernel.running(CpuId(0)), Some(near));
}

#[test]
fn a_task_that_bpf_has_run_meanwhile_is_not_run_twice() {
    let mut kernel = kernel(1);
    let (a, b) = (hinted(&mut kernel, 1, 20 * MS), hinted(&mut kernel, 1, 10 * MS));
    kernel.wake(a);
    kernel.wake(b);
    kernel.overdue(b);
    kernel.run_agent();
    assert_eq!(kernel.order(), [a]);
    let status = kernel.status();
    assert_eq!((status.committed, status.overdue, status.waiting), (1, 1, 0));
}

#[test]
fn late_outcomes_and_repeated_messages_change_nothing() {
    let mut kernel = kernel(2);
    let tasks: Vec<_> = (1..=6).map(|n| hinted(&mut kernel, BOTH, n * 10 * MS)).collect();
    kernel.hold_outcomes(true);
    for task in &tasks {
        kernel.wake(*task);
        kernel.repeat_message(*task);
    }
    kernel.run_agent();
    // They run and sleep before the agent hears that they were placed.
    assert_eq!(kernel.order(), tasks[..2]);
    tasks[..2].iter().for_each(|task| kernel.block(*task));
    kernel.run_agent();
    assert_eq!(kernel.order(), tasks[..4]);
    kernel.hold_outcomes(false);
    kernel.advance(200 * MS);
    for task in &tasks[2..] {
        assert!(kernel.runtime(*task) > 0, "{task:?} starves");
    }
    assert_accounted(&kernel);
}

#[test]
fn an_offline_cpu_and_the_dead_are_made_up_for() {
    let mut kernel = kernel(2);
    kernel.set_online(CpuId(0), false);
    let (a, b) = (hinted(&mut kernel, BOTH, 10 * MS), hinted(&mut kernel, BOTH, 20 * MS));
    kernel.wake(a);
    kernel.wake(b);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [None, Some(a)]);
    kernel.kill(a);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [None, Some(b)]);
    kernel.set_online(CpuId(0), true);
    kernel.advance(1001 * MS);
    let c = hinted(&mut kernel, BOTH, 500 * MS);
    kernel.wake(c);
    kernel.run_agent();
    assert_eq!(running(&kernel, 2), [Some(c), Some(b)]);
    assert_accounted(&kernel);
}

#[test]
fn a_hint_counts_from_the_next_wakeup_on() {
    let mut kernel = kernel(1);
    let (a, b) = (kernel.spawn(1), hinted(&mut kernel, 1, 50 * MS));
    kernel.wake(a);
    kernel.wake(b);
    kernel.set_hint(a, Hint { deadline_ns: Some(MS), ..Hint::default() });
    kernel.run_agent();
    assert_eq!(kernel.running(CpuId(0)), Some(b));
    kernel.block(b);
    kernel.run_agent();
    kernel.block(a);
    kernel.wake(b);
    kernel.wake(a);
    kernel.run_agent();
    assert_eq!(kernel.running(CpuId(0)), Some(a));
}

#[test]
fn a_deadline_that_was_given_stands_after_an_upgrade() {
    let mut kernel = kernel(1);
    let [first, second] = [hinted(&mut kernel, 1, 50 * MS), hinted(&mut kernel, 1, 50 * MS)];
    kernel.wake(first);
    kernel.advance(2 * MS);
    kernel.wake(second);
    kernel.advance(2 * MS);
    // It makes room, and has waited for less long than the second from then on.
    let urgent = hinted(&mut kernel, 1, 10 * MS);
    kernel.wake(urgent);
    kernel.advance(MS);
    assert_eq!(kernel.running(CpuId(0)), Some(urgent));
    kernel.upgrade(|_| policy(1));
    kernel.block(urgent);
    kernel.run_agent();
    assert_eq!(kernel.running(CpuId(0)), Some(first));
    assert_accounted(&kernel);
}
