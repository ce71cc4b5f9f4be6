// SPDX-License-Identifier: GPL-2.0-only
/*
 * fifo - one queue for all CPUs, served in order of arrival
 *
 * A task that wakes and finds an idle CPU runs there at once; otherwise it goes
 * to the end of the queue. A task that uses up its slice goes to the end too.
 *
 * Good for: batches of similar tasks, throughput on few CPUs, and as the
 * yardstick others are measured against: nothing is simpler.
 * Bad for: latency beside CPU hogs (a waking task waits for all before it), fair
 * shares (nice and cgroup weights are ignored), many CPUs (one lock).
 *
 * Cost: O(1) an enqueue; O(1) a dispatch, O(n) while n tasks at the head of the
 * queue may not run on the CPU that asks.
 *
 * Parameters: slice_us.
 */
#include "policy.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before it goes to the end");

enum { QUEUE };

POLICY_ENQUEUE(fifo_enqueue, p, enq_flags)
{
	policy_queue(p, QUEUE, slice_us * 1000, enq_flags);
}

POLICY_DISPATCH(fifo_dispatch, cpu, prev)
{
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(fifo, "one shared queue, served in order of arrival", .enqueue = (void *)fifo_enqueue,
	      .dispatch = (void *)fifo_dispatch)
