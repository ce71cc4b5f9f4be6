/* SPDX-License-Identifier: GPL-2.0-only */
/* The policy SDK: queues. */
#ifndef __QUEUES_BPF_H
#define __QUEUES_BPF_H

#include <scx/common.bpf.h>
#include "intf.h"

/* Set by the framework: first DSQ id of this policy; a base is never used twice. */
const volatile u64 policy_dsq_base = SLOT_MAX_DSQS;

/* Read by the framework: DSQs that policy_create_dsq() made. */
u32 policy_nr_dsqs;

/* DSQ id of the policy's queue @n. Never shared with another policy. */
#define POLICY_DSQ(n) (policy_dsq_base + (n))

/*
 * The queue that @cpu serves first. A policy whose queues are not numbered by CPU
 * defines it before it includes this.
 */
#ifndef POLICY_QUEUE_OF
#define POLICY_QUEUE_OF(cpu) ((u32)(cpu) % (policy_nr_dsqs ?: 1))
#endif

/**
 * policy_create_dsq - create queue @n, 0 <= n < SLOT_MAX_DSQS
 * @n: number of the queue, as in POLICY_DSQ()
 * @node: NUMA node to allocate on, or -1
 *
 * For POLICY_INIT only. Queues are numbered from 0 without gaps.
 */
static __always_inline s32 policy_create_dsq(u32 n, s32 node)
{
	s32 ret;

	if (n >= SLOT_MAX_DSQS)
		return -E2BIG;
	ret = scx_bpf_create_dsq(POLICY_DSQ(n), node);
	if (!ret && n >= policy_nr_dsqs)
		policy_nr_dsqs = n + 1;
	return ret;
}

/**
 * policy_kick_idle - wake an idle CPU that may run @p
 *
 * Without it a task in a shared queue waits for the next tick while CPUs sleep.
 * select_cpu has usually looked already, but it is not called for a task tied to
 * one CPU, and a CPU may have gone idle since. Return: whether there was one.
 */
static __always_inline bool policy_kick_idle(struct task_struct *p)
{
	s32 cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);

	if (cpu < 0)
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

/* How long a task may have to wait because it loses its place in a queue, ms. */
#define POLICY_LONG_WAIT_MS 4000

/**
 * policy_has_waited - whether @p, which is queued, has not run for @ms although it was ready to
 *
 * A change of affinity, nice or cgroup takes a task off where it waits and has it queued again.
 * Where these come all the time it would lose its place for ever, and the kernel would end the
 * scheduler: who asks this lets it run.
 */
static __always_inline bool policy_has_waited(struct task_struct *p, u64 enq_flags, u64 ms)
{
	/* 30 s: what the kernel's types say of the length of its ticks. */
	u64 half_a_minute = bpf_core_enum_value(enum scx_consts, SCX_WATCHDOG_MAX_TIMEOUT);

	return unlikely(!(enq_flags & SCX_ENQ_WAKEUP) &&
			bpf_jiffies64() - p->scx.runnable_at > ms * half_a_minute / 30000);
}

/**
 * policy_keeps_turn - whether it is @p's turn already, who is queued
 *
 * A task that was picked and lost its CPU to a higher class has had its turn in the queue. One that
 * loses its place over and over has not, and gets it.
 */
static __always_inline bool policy_keeps_turn(struct task_struct *p, u64 enq_flags)
{
	return unlikely(enq_flags & SCX_ENQ_REENQ) ||
	       policy_has_waited(p, enq_flags, POLICY_LONG_WAIT_MS);
}

/**
 * policy_queue - put @p at the end of queue @n and wake an idle CPU for it
 * @slice_ns: how long it may run once picked
 *
 * If it keeps its turn it goes to the front, with what is left of its slice.
 */
static __always_inline void policy_queue(struct task_struct *p, u32 n, u64 slice_ns, u64 enq_flags)
{
	if (policy_keeps_turn(p, enq_flags)) {
		enq_flags |= SCX_ENQ_HEAD;
		slice_ns = p->scx.slice ?: slice_ns;
	}
	scx_bpf_dsq_insert(p, POLICY_DSQ(n), slice_ns, enq_flags);
	policy_kick_idle(p);
}

/**
 * policy_queue_vtime - put @p into queue @n ordered by @vtime and wake an idle CPU
 *
 * A queue is ordered by arrival or by vtime for its whole life: never mix.
 */
static __always_inline void policy_queue_vtime(struct task_struct *p, u32 n, u64 slice_ns,
					       u64 vtime, u64 enq_flags)
{
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(n), slice_ns, vtime, enq_flags);
	policy_kick_idle(p);
}

/**
 * policy_pick - give the calling CPU the first task of queue @n that may run there
 *
 * For POLICY_DISPATCH only. Return: true if there was one.
 */
static __always_inline bool policy_pick(u32 n)
{
	return scx_bpf_dsq_move_to_local(POLICY_DSQ(n), 0);
}

/* Tasks at the head of a queue that policy_first_vtime() looks at. */
#define POLICY_FIRST_SCAN 8

/**
 * policy_first_vtime - vtime of the task that @cpu would get from queue @n
 * @vtime: where it goes
 *
 * Looks at POLICY_FIRST_SCAN tasks at most, so it may miss one behind that many
 * that are not allowed on @cpu. Return: false if it found none.
 */
static __always_inline bool policy_first_vtime(u32 n, s32 cpu, u64 *vtime)
{
	struct task_struct *p;
	u32 seen = 0;

	/* The usual case, and cheaper than an iterator that finds nothing. */
	if (!scx_bpf_dsq_nr_queued(POLICY_DSQ(n)))
		return false;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(n), 0) {
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			*vtime = p->scx.dsq_vtime;
			return true;
		}
		if (++seen == POLICY_FIRST_SCAN)
			break;
	}
	return false;
}

#endif /* __QUEUES_BPF_H */
