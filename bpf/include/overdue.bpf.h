/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The policy SDK: a bound on waiting. Shares can be so small, or what is ahead so much, that a
 * task's turn comes after minutes; the kernel ends a scheduler that lets one wait for 30 s.
 */
#ifndef __OVERDUE_BPF_H
#define __OVERDUE_BPF_H

#include "policy.bpf.h"

/* How often a queue is looked into, ns. Who was waiting before the last but one is overdue. */
#define OVERDUE_PERIOD (2000ULL * 1000 * 1000)
/* Tasks of a queue that a look passes at most, and that it lets run: they come out of turn. */
#define OVERDUE_BATCH 4096
#define OVERDUE_MOST  16
/* Queues that can be looked into. */
#define OVERDUE_QUEUES 64

struct overdue {
	/* when somebody last asked whether it is time, and the last two looks, jiffies */
	u64 asked, last, earlier;
	/* when the next look is due, ns */
	u64 next;
	/*
	 * Tasks that this look has passed, and that it has let run. Not on the stack: the verifier
	 * would look at each round.
	 */
	u32 nr_passed, nr_moved;
} __attribute__((aligned(64)));
static struct overdue overdues[OVERDUE_QUEUES];

/*
 * overdue_look - have the tasks that wait in queue @n since before @before run next where they are
 *
 * Those first that come last by the queue's order, and would wait for longest. Not static: the
 * verifier looks at it once.
 */
__noinline int overdue_look(u32 n, u64 before)
{
	struct overdue *o;
	struct task_struct *p;

	if (n >= OVERDUE_QUEUES)
		return 0;
	o = &overdues[n];
	o->nr_passed = 0;
	o->nr_moved = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(n), SCX_DSQ_ITER_REV) {
		if (o->nr_passed++ >= OVERDUE_BATCH || o->nr_moved >= OVERDUE_MOST)
			break;
		if (!time_before(p->scx.runnable_at, before))
			continue;
		/* It is there already, so it may run there, whatever becomes of its affinity. */
		if (scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL_ON | scx_bpf_task_cpu(p),
				     0))
			o->nr_moved++;
	}
	return 0;
}

/**
 * policy_see_to_overdue - let tasks run that have waited in queue @n for 4 to 8 s
 * @n: below OVERDUE_QUEUES
 *
 * For POLICY_DISPATCH, in each dispatch: it costs a few instructions, and every OVERDUE_PERIOD
 * one CPU looks into the queue, O(tasks). What the queue's order says is exceeded by a slice a
 * task for that long.
 */
static __always_inline void policy_see_to_overdue(u32 n)
{
	struct overdue *o = &overdues[n & (OVERDUE_QUEUES - 1)];
	u64 jiffies = bpf_jiffies64(), now, due, before;

	/* CPUs race here: they come to the clock once too often. */
	if (likely(READ_ONCE(o->asked) == jiffies))
		return;
	WRITE_ONCE(o->asked, jiffies);
	now = scx_bpf_now();
	due = READ_ONCE(o->next);
	/* Clocks of CPUs differ by less than the period: one of them looks. */
	if (time_before(now, due) ||
	    __sync_val_compare_and_swap(&o->next, due, now + OVERDUE_PERIOD) != due)
		return;
	before = o->earlier;
	o->earlier = o->last;
	o->last = jiffies;
	if (before)
		overdue_look(n, before);
}

/**
 * policy_run_overdue - run @p at once, for a slice of @slice_ns, if it has waited for long
 *
 * For POLICY_ENQUEUE, before all else: who changes affinity all the time is also taken from the
 * local DSQ to which policy_see_to_overdue() has moved it. It has not run since it was charged, and
 * keeps its place in the policy's order. Return: whether it was one.
 */
static __always_inline bool policy_run_overdue(struct task_struct *p, u64 slice_ns, u64 enq_flags)
{
	if (!policy_has_waited(p, enq_flags, POLICY_LONG_WAIT_MS))
		return false;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags | SCX_ENQ_PREEMPT);
	return true;
}

#endif /* __OVERDUE_BPF_H */
