// SPDX-License-Identifier: GPL-2.0-only
/*
 * vtime - weighted fair shares by virtual run time
 *
 * Every task has a virtual time that advances by its run time divided by its
 * weight; the queue is ordered by it, so the task that has had least for its
 * weight runs next. A task that slept may lag behind the queue's progress by one
 * slice at most: sleeping earns a little latency, not a hoard. This is weighted
 * fair queueing (Demers, Keshav, Shenker, SIGCOMM 1989) with start-time clamping
 * as in the kernel's scx_simple.
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
 * Parameters: slice_us.
 */
#include "policy.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");

enum { QUEUE };

/* @p's virtual time with all that it has run until now. */
static __always_inline u64 vtime_of(struct task_struct *p)
{
	return p->scx.dsq_vtime + policy_charge(p) * 100 / policy_weight(p);
}

POLICY_ENQUEUE(vtime_enqueue, p, enq_flags)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	u64 slice_ns = slice_us * 1000, vtime = vtime_of(p);

	/* Only a sleeper is moved up: who has been waiting is owed its whole lag. */
	if (shared && (enq_flags & SCX_ENQ_WAKEUP)) {
		u64 oldest = shared->vtime_now - slice_ns;

		if (time_before(vtime, oldest))
			vtime = oldest;
	}
	policy_queue_vtime(p, QUEUE, slice_ns, vtime, enq_flags);
}

POLICY_DISPATCH(vtime_dispatch, cpu, prev)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	u64 vtime, next;

	/*
	 * Progress is the largest vtime that got to run. @prev still has the one
	 * it was queued with. CPUs race here; the loser's value is at most one
	 * dispatch old and the next one puts it right.
	 */
	if (prev && shared && time_before(shared->vtime_now, prev->scx.dsq_vtime))
		shared->vtime_now = prev->scx.dsq_vtime;

	if (prev && (prev->scx.flags & SCX_TASK_QUEUED)) {
		vtime = vtime_of(prev);
		scx_bpf_task_set_dsq_vtime(prev, vtime);
		/* A task that has slice left goes on to run. */
		if (policy_first_vtime(QUEUE, cpu, &next) && time_before(vtime, next)) {
			scx_bpf_task_set_slice(prev, slice_us * 1000);
			return;
		}
	}
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(vtime, "weighted fair shares by virtual run time; honours nice and cgroup weight",
	      .enqueue = (void *)vtime_enqueue, .dispatch = (void *)vtime_dispatch)
