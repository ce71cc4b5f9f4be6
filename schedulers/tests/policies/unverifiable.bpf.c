// SPDX-License-Identifier: GPL-2.0-only
/*
 * unverifiable - a policy the verifier must refuse: it uses a map value without
 * having tested it for NULL
 */
#include "policy.bpf.h"

enum { QUEUE };

POLICY_ENQUEUE(unverifiable_enqueue, p, enq_flags)
{
	struct policy_task *task = bpf_task_storage_get(&policy_tasks, p, NULL, 0);

	task->charged_ns++;
	policy_queue(p, QUEUE, SCX_SLICE_DFL, enq_flags);
}

POLICY_DISPATCH(unverifiable_dispatch, cpu, prev)
{
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(unverifiable, "refused by the verifier", .enqueue = (void *)unverifiable_enqueue,
	      .dispatch = (void *)unverifiable_dispatch)
