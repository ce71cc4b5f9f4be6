/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delegation: tasks that have ended up where nobody looks.
 *
 * A CPU that goes offline is closed some time before cpu_offline says so. What is moved
 * there in between, the kernel puts into its global queue instead. CPUs take from that
 * when their own queue is empty, which it never is as long as agents decide ahead of
 * time. So while there is such a task BPF decides alone: nobody is asked, and CPUs come
 * to the end of their queues.
 */
#ifndef __DELEGATE_STRAYS_BPF_H
#define __DELEGATE_STRAYS_BPF_H

#include "words.bpf.h"

/* 1: there may be strays. Set by who moves a task, cleared by the timer. */
static u32 delegate_strays;

/* Whether @p is in the kernel's global queue. May change at any time. */
static __always_inline bool is_stray(struct task_struct *p)
{
	struct scx_dispatch_q *dsq = p->scx.dsq;

	return dsq && dsq->id == SCX_DSQ_GLOBAL;
}

/**
 * move_to_cpu - move a task to a CPU, and note whether it got there
 * @it: iterator of the queue that it is in
 * @t: its word, or NULL if it has none
 *
 * Return: false if it is not in that queue any more.
 */
static __always_inline bool move_to_cpu(struct bpf_iter_scx_dsq *it, struct task_struct *p,
					struct delegate_task *t, s32 cpu, u64 enq_flags)
{
	if (!scx_bpf_dsq_move(it, p, SCX_DSQ_LOCAL_ON | cpu, enq_flags))
		return false;
	if (unlikely(t && is_stray(p))) {
		/* In this order: who clears @delegate_strays looks at all words after it. */
		WRITE_ONCE(t->stray, 1);
		__sync_lock_test_and_set(&delegate_strays, 1);
	}
	return true;
}

/* Whether the task with word @index is a stray still. */
__noinline int is_still_stray(u32 index)
{
	struct delegate_task *t = bpf_map_lookup_elem(&delegate_tasks, &index);
	struct task_struct *p;
	bool stray = false;

	if (!t || !READ_ONCE(t->stray))
		return false;
	/* Whoever notes it anew after this has moved it after this. */
	WRITE_ONCE(t->stray, 0);
	p = bpf_task_from_pid(t->pid);
	if (p) {
		stray = is_stray(p);
		bpf_task_release(p);
	}
	if (stray)
		WRITE_ONCE(t->stray, 1);
	return stray;
}

/* Looks whether there are strays still. For the timer. */
static void look_for_strays(void)
{
	struct delegate_agent *agent = agent_of(0);
	bool any = false;
	u32 i;

	if (!agent)
		return;
	__sync_lock_test_and_set(&delegate_strays, 0);
	bpf_for (i, 1, agent->max_task + 1)
		any |= is_still_stray(i);
	if (any)
		__sync_lock_test_and_set(&delegate_strays, 1);
}

#endif /* __DELEGATE_STRAYS_BPF_H */
