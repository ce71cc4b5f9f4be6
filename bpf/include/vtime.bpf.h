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

/**
 * vtime_in - the virtual time of @p with all that it has run until now
 * @queue: the queue, ordered by virtual time, that it competes in
 * @cpu: a CPU that serves the queue
 * @now: the queue's progress, followed here
 * @slice_ns: the policy's slice
 * @woke: it has slept since
 *
 * Virtual times of two queues have nothing to do with each other.
 */
static __always_inline u64 vtime_in(struct task_struct *p, u32 queue, s32 cpu, u64 *now,
				    u64 slice_ns, bool woke)
{
	u64 ran, near, vtime, weight = policy_weight(p);
	bool moved, known = policy_charge_in(p, queue, &ran, &moved);
	s64 worth = slice_ns * 100 / weight, step;

	ran = ran * 100 / weight;
	vtime = p->scx.dsq_vtime + ran;
	/* Who has been waiting is owed its whole lag, others are not. */
	if (woke || moved || !known) {
		if (!policy_first_vtime(queue, cpu, &near))
			near = *now;
		vtime = within(worth, near, vtime);
	}
	/*
	 * A step towards each sample, of limited length, is a running median; who ran for
	 * longer than a slice at a time, since nobody waited, takes @now along. CPUs race
	 * here: a step that is lost is one sample fewer.
	 */
	step = ran;
	*now = within(step > worth ? step : worth, *now, vtime);
	return vtime;
}

/**
 * vtime_of - the same for a policy with one queue, whose progress outlives it
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
