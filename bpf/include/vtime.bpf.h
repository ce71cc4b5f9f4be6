/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Virtual time: run time divided by weight, and where a task that has slept is
 * placed. See schedulers/vtime for the algorithm and its source.
 */
#ifndef __VTIME_BPF_H
#define __VTIME_BPF_H

#include "policy.bpf.h"

/* The nearest to @vtime that is no further from @from than @limit. */
static __always_inline u64 within(s64 limit, u64 from, u64 vtime)
{
	s64 ahead = vtime - from;

	return from + (ahead > limit ? limit : ahead < -limit ? -limit : ahead);
}

/* The queue, ordered by virtual time, that a task competes in. */
struct vtime_queue {
	u32 queue;
	/* a CPU that serves it */
	s32 cpu;
	/* its progress, followed here */
	u64 *now;
	u64 slice_ns;
	/* out: what the task has run since it was charged last, ns */
	u64 ran;
};

/**
 * vtime_at - the virtual time of @p with all that it has run until now
 * @unit: run time and virtual time are the same at this weight
 * @woke: it has slept since
 *
 * Virtual times of two queues have nothing to do with each other.
 */
static __always_inline u64 vtime_at(struct task_struct *p, struct vtime_queue *q, u64 weight,
				    u64 unit, bool woke)
{
	u64 ran, near, vtime;
	bool moved, known = policy_charge_in(p, q->queue, &ran, &moved);
	s64 worth = q->slice_ns * unit / weight, step;

	q->ran = ran;
	ran = ran * unit / weight;
	vtime = p->scx.dsq_vtime + ran;
	/* Who has been waiting is owed its whole lag, others are not. */
	if (woke || moved || !known) {
		if (!policy_first_vtime(q->queue, q->cpu, &near))
			near = *q->now;
		vtime = within(worth, near, vtime);
	}
	/*
	 * A step towards each sample, of limited length, is a running median; who ran for
	 * longer than a slice at a time, since nobody waited, takes @now along. CPUs race
	 * here: a step that is lost is one sample fewer.
	 */
	step = ran;
	*q->now = within(step > worth ? step : worth, *q->now, vtime);
	return vtime;
}

/**
 * vtime_in - the same with the weight that nice and cgroups give
 */
static __always_inline u64 vtime_in(struct task_struct *p, u32 queue, s32 cpu, u64 *now,
				    u64 slice_ns, bool woke)
{
	struct vtime_queue q = {.queue = queue, .cpu = cpu, .now = now, .slice_ns = slice_ns};

	return vtime_at(p, &q, policy_weight(p), 100, woke);
}

/**
 * vtime_goes_on - let @prev, which is in no queue, go on if it has had less than who waits
 * @vtime: that of @prev, which it gets
 * @slice_ns: for how long
 *
 * For POLICY_DISPATCH only. Return: whether it goes on.
 */
static __always_inline bool vtime_goes_on(struct task_struct *prev, u32 queue, s32 cpu, u64 vtime,
					  u64 slice_ns)
{
	u64 next;

	scx_bpf_task_set_dsq_vtime(prev, vtime);
	if (!policy_first_vtime(queue, cpu, &next) || !time_before(vtime, next))
		return false;
	scx_bpf_task_set_slice(prev, slice_ns);
	return true;
}

/**
 * vtime_of - the same as vtime_in() for a policy with one queue, whose progress outlives it
 */
static __always_inline u64 vtime_of(struct task_struct *p, u32 queue, u64 slice_ns, bool woke)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});

	/* Never: it is an array. */
	if (!shared)
		return p->scx.dsq_vtime;
	return vtime_in(p, queue, scx_bpf_task_cpu(p), &shared->vtime_now, slice_ns, woke);
}

#endif /* __VTIME_BPF_H */
