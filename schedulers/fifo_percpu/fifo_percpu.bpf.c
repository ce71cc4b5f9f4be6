// SPDX-License-Identifier: GPL-2.0-only
/*
 * fifo_percpu - a queue a CPU, each served in order of arrival; idle CPUs steal
 *
 * A task waits in the queue of the CPU it ran on last, where its cache is warm.
 * A CPU that finds its own queue empty looks through the others', its neighbours
 * by number first, and takes the task that has waited longest in the first queue
 * that has one.
 *
 * Good for: many CPUs (no shared lock on the common path), cache locality.
 * Bad for: latency beside CPU hogs, fair shares (weights are ignored; a short
 * queue is served more often than a long one until somebody is idle to steal).
 *
 * Cost: O(1) an enqueue; O(1) a dispatch from the own queue, O(CPUs) a steal.
 *
 * Parameters: slice_us, steal.
 */
#include "policy.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before it goes to the end");
PARAM_U64(steal, 1, 0, 1, "bool", "whether a CPU with an empty queue takes from the others");

POLICY_ENQUEUE(fifo_percpu_enqueue, p, enq_flags)
{
	policy_queue(p, scx_bpf_task_cpu(p), slice_us * 1000, enq_flags);
}

POLICY_DISPATCH(fifo_percpu_dispatch, cpu, prev)
{
	u32 i;

	if (policy_pick(cpu))
		return;

	/*
	 * @prev keeps its CPU if it can run on: taking another's task would only
	 * exchange one waiting task for another.
	 */
	if (!steal || (prev && (prev->scx.flags & SCX_TASK_QUEUED)))
		return;

	bpf_for (i, 1, policy_nr_cpus) {
		if (policy_pick((cpu + i) % policy_nr_cpus))
			return;
	}
}

POLICY_INIT()
{
	s32 ret, i;

	bpf_for (i, 0, policy_nr_cpus) {
		ret = policy_create_dsq(i, __COMPAT_scx_bpf_cpu_node(i));
		if (ret)
			return ret;
	}
	return 0;
}

POLICY_DEFINE(fifo_percpu, "a queue a CPU in order of arrival, idle CPUs steal",
	      .enqueue = (void *)fifo_percpu_enqueue, .dispatch = (void *)fifo_percpu_dispatch)
