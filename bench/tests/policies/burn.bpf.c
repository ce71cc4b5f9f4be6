// SPDX-License-Identifier: GPL-2.0-only
/*
 * burn - fifo made slower by a known amount, for the test that such a difference
 * is always seen
 *
 * The default is about 5 % of what a switch of workload `pipe` costs on one CPU,
 * where each has one enqueue.
 */
#include "policy.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before it goes to the end");
PARAM_U64(burn, 95, 0, 10000, "loops", "iterations burned in each enqueue");

enum { QUEUE };

POLICY_ENQUEUE(burn_enqueue, p, enq_flags)
{
	u64 i;

	for (i = 0; i < burn; i++)
		asm volatile("" : "+r"(i));
	policy_queue(p, QUEUE, slice_us * 1000, enq_flags);
}

POLICY_DISPATCH(burn_dispatch, cpu, prev)
{
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(burn, "fifo with a burned number of loops", .enqueue = (void *)burn_enqueue,
	      .dispatch = (void *)burn_dispatch)
