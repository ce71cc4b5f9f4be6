// SPDX-License-Identifier: GPL-2.0-only
/*
 * faulty - fifo with a fault to order, for the tests of what happens then
 *
 * After @after enqueues: fault 1 raises scx_bpf_error, 2 stalls every task whose
 * name is "victim" (it is put into a queue that nobody serves), 3 makes dispatch
 * loop for as long as the kernel lets it.
 */
#include "policy.bpf.h"

PARAM_U64(fault, 0, 0, 3, "", "0 none, 1 scx_bpf_error, 2 stall, 3 dispatch loop");
PARAM_U64(after, 100, 0, 1000000, "tasks", "enqueues before the fault strikes");

enum { QUEUE, LIMBO };

static u64 enqueues;

static bool is_victim(struct task_struct *p)
{
	char comm[16] = {}, name[] = "victim";

	bpf_probe_read_kernel_str(comm, sizeof(comm), p->comm);
	return !__builtin_memcmp(comm, name, sizeof(name));
}

POLICY_ENQUEUE(faulty_enqueue, p, enq_flags)
{
	bool strikes = __sync_fetch_and_add(&enqueues, 1) >= after;

	if (strikes && fault == 1)
		scx_bpf_error("injected fault");
	if (strikes && fault == 2 && is_victim(p))
		scx_bpf_dsq_insert(p, POLICY_DSQ(LIMBO), SCX_SLICE_DFL, enq_flags);
	else
		policy_queue(p, QUEUE, SCX_SLICE_DFL, enq_flags);
}

POLICY_DISPATCH(faulty_dispatch, cpu, prev)
{
	struct task_struct *p;
	u32 i;

	if (fault == 3 && enqueues >= after) {
		/*
		 * A task that cannot run here is dispatched over and over: the
		 * kernel sees progress and asks again.
		 */
		bpf_for (i, 0, 1 << 20) {
			p = bpf_task_from_pid(2);
			if (p) {
				scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, 1, 0);
				bpf_task_release(p);
			}
			scx_bpf_dispatch_cancel();
		}
		return;
	}
	policy_pick(QUEUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1) ?: policy_create_dsq(LIMBO, -1);
}

POLICY_DEFINE(faulty, "fifo with a fault to order", .enqueue = (void *)faulty_enqueue,
	      .dispatch = (void *)faulty_dispatch)
