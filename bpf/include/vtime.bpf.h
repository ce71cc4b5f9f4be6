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
 * vtime_of - the virtual time of @p with all that it has run until now
 * @queue: the queue, ordered by virtual time, that it competes in
 * @slice_ns: the policy's slice
 * @woke: it has slept since
 */
static __always_inline u64 vtime_of(struct task_struct *p, u32 queue, u64 slice_ns, bool woke)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	u64 ran, near, vtime, weight = policy_weight(p);
	bool known = policy_charge(p, &ran);
	s64 worth = slice_ns * 100 / weight;

	vtime = p->scx.dsq_vtime + ran * 100 / weight;
	if (!shared)
		return vtime;

	/* Who has been waiting is owed its whole lag, others are not. */
	if (woke || !known) {
		if (!policy_first_vtime(queue, scx_bpf_task_cpu(p), &near))
			near = shared->vtime_now;
		vtime = within(worth, near, vtime);
	}
	/*
	 * A step towards each sample, of limited length, is a running median. CPUs
	 * race here: a step that is lost is one sample fewer.
	 */
	shared->vtime_now = within(worth, shared->vtime_now, vtime);
	return vtime;
}

#endif /* __VTIME_BPF_H */
