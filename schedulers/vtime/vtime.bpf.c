// SPDX-License-Identifier: GPL-2.0-only
/*
 * vtime - weighted fair shares by virtual run time
 *
 * Every task has a virtual time that advances by its run time divided by its
 * weight; the queue is ordered by it, so the task that has had least for its
 * weight runs next. This is weighted fair queueing (Demers, Keshav, Shenker,
 * SIGCOMM 1989). A task that wakes or is new is placed within a slice of those that
 * it competes with: sleeping earns a little latency, not a hoard, and what a task ran
 * while nobody else wanted the CPU is not held against it for long; but it does not come
 * before one that waits already.
 *
 * Where those are the task tells that its CPU would take next, and not the largest
 * virtual time that ever ran, which scx_simple takes: where affinities differ, tasks
 * on one CPU get ever further ahead of those on another, and sleepers placed by the
 * wrong ones would starve. But new tasks, if many come, would all be placed before the
 * others, so that these would never be next: who is new and may use all CPUs is placed
 * by a running median of where CPU time goes, if that is more by a slice, and moves it on.
 *
 * Good for: shares that follow nice and cgroup weights, without starvation.
 * Bad for: latency-critical tasks beside hogs of the same weight (no preemption
 * on wakeup), many CPUs (one queue, one lock), groups: a cgroup's weight applies
 * to each of its tasks, not to the group as a whole.
 *
 * A task is charged when it is queued again, from the run time the kernel
 * accounts: no op runs at every context switch for it. The task that runs is in no
 * queue when the kernel asks for the next one, so dispatch compares the two; without
 * that two tasks on a CPU would alternate whatever their weights.
 *
 * Cost: O(log n) an enqueue, O(1) a dispatch, O(n) while the n tasks at the head
 * may not run on the CPU that asks.
 *
 * Worst case. A share can be so small that a turn comes after minutes: who has waited for
 * 4 to 8 s has a slice out of turn (overdue.bpf.h), or the kernel would end the scheduler.
 *
 * Parameters: slice_us.
 */
#include "policy.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");

enum { QUEUE };

POLICY_ENQUEUE(vtime_enqueue, p, enq_flags)
{
	u64 vtime;

	if (policy_run_overdue(p, slice_us * 1000, enq_flags))
		return;
	vtime = vtime_of(p, QUEUE, slice_us * 1000, enq_flags & SCX_ENQ_WAKEUP);
	policy_queue_vtime(p, QUEUE, slice_us * 1000, vtime, enq_flags);
}

POLICY_DISPATCH(vtime_dispatch, cpu, prev)
{
	u64 vtime;

	policy_see_to_overdue(QUEUE);
	if (prev && (prev->scx.flags & SCX_TASK_QUEUED)) {
		vtime = vtime_of(prev, QUEUE, slice_us * 1000, false);
		/* A task that has slice left goes on to run. */
		if (vtime_goes_on(prev, QUEUE, cpu, vtime, slice_us * 1000))
			return;
	}
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(vtime, "weighted fair shares by virtual run time; honours nice and cgroup weight",
	      .enqueue = (void *)vtime_enqueue, .dispatch = (void *)vtime_dispatch)
