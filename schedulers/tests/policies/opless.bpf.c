// SPDX-License-Identifier: GPL-2.0-only
/* opless - a policy without dispatch: what it queues would never run */
#include "policy.bpf.h"

enum { QUEUE };

POLICY_ENQUEUE(opless_enqueue, p, enq_flags)
{
	policy_queue(p, QUEUE, SCX_SLICE_DFL, enq_flags);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(opless, "lacks dispatch", .enqueue = (void *)opless_enqueue)
