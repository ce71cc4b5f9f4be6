// SPDX-License-Identifier: GPL-2.0-only
/* ticker - fifo with a tick op, which the root has only if it was asked for */
#include "policy.bpf.h"

enum { QUEUE };

u64 ticks;

POLICY_ENQUEUE(ticker_enqueue, p, enq_flags)
{
	policy_queue(p, QUEUE, SCX_SLICE_DFL, enq_flags);
}

POLICY_DISPATCH(ticker_dispatch, cpu, prev)
{
	policy_pick(QUEUE);
}

void BPF_STRUCT_OPS(ticker_tick, struct task_struct *p)
{
	__sync_fetch_and_add(&ticks, 1);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(ticker, "fifo with a tick op", .enqueue = (void *)ticker_enqueue,
	      .dispatch = (void *)ticker_dispatch, .tick = (void *)ticker_tick)
