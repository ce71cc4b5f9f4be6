/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delegation: wakeups that need no decision. While nobody waits, any policy that keeps
 * CPUs busy would give an idle one to a task that wakes: BPF does so and tells. ghOSt
 * has the same for the CPU's side of it, as a BPF program at pick_next_task.
 */
#ifndef __DELEGATE_DIRECT_BPF_H
#define __DELEGATE_DIRECT_BPF_H

#include "messages.bpf.h"

/*
 * Whether nobody waits for the agent of @cpu. Somebody who begins to wait at this moment
 * has not overtaken anybody and is not overtaken: the agent hears of both, and of this
 * one first.
 */
static __always_inline bool may_go_direct(s32 cpu)
{
	return fast_path && !somebody_waits(cpu) &&
	       scx_bpf_dsq_nr_queued(POLICY_DSQ(Q_FALLBACK)) <= 0;
}

/**
 * claim_idle - whether @cpu has nothing to run, and nobody else sends a task there
 *
 * For enqueue. With an agent for each CPU select_cpu has claimed the CPU before, if it
 * has chosen it; but under the run queue's lock there is nobody to race with.
 */
static __always_inline bool claim_idle(s32 cpu)
{
	struct delegate_cpu *c;

	if (!per_cpu)
		return scx_bpf_test_and_clear_cpu_idle(cpu);
	c = cpu_word(cpu);
	return c && !c->pid && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu);
}

/**
 * go_direct - run @p, which has woken up, on @cpu, which was idle
 *
 * Under the task's pi_lock at least, and not yet or no more on a run queue: nothing
 * else happens to it meanwhile. With an agent for each CPU under @cpu's run queue lock,
 * too, which the message needs. A task without a status word gets one when it has to
 * wait for the first time.
 */
static __always_inline void go_direct(struct delegate_agent *agent, struct task_struct *p, s32 cpu,
				      u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());
	struct delegate_task *t;
	u64 slice = SCX_SLICE_DFL;
	u32 index;

	t = task_word(p, &index);
	if (t && c) {
		slice = t->slice ?: slice;
		t->slice = slice;
		t->cpu = cpu;
		t->yielded = 0;
		c->nr_direct++;
		tell_on(cpu, p, t, index, DELEGATE_DIRECT, DELEGATE_PLACED);
	}
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, enq_flags);
}

#endif /* __DELEGATE_DIRECT_BPF_H */
