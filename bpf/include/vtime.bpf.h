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
	/* weights change with who else is there, so that @now is no measure of what they have */
	bool weights_vary;
	/* where the next new task of the same group is placed, and how far each moves that on;
	 * if there is such a group
	 */
	u64 *newcomers;
	u64 newcomer_worth;
	/* out: what the task has run since it was charged last, ns */
	u64 ran;
	/* out: whether it was placed as a new one */
	bool is_new;
};

/*
 * What a task that is new is taken to run, ns: twice what the shortest do, since each slice of who
 * runs beside them takes the progress back by half.
 */
#define VTIME_FIRST (2000ULL * 1000)

/* More slices than a task that others wait for can get, even if ticks are late. */
#define VTIME_AHEAD 16

/* Where the tasks are that @p competes with: the first that waits for its CPU. */
static __always_inline u64 vtime_near(struct vtime_queue *q)
{
	u64 near;

	return policy_first_vtime(q->queue, q->cpu, &near) ? near : *q->now;
}

/* The largest virtual time of those that wait, or @least if that is more. */
static __always_inline u64 vtime_last(struct vtime_queue *q, u64 least)
{
	struct task_struct *p;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(q->queue), SCX_DSQ_ITER_REV) {
		if (time_before(least, p->scx.dsq_vtime))
			least = p->scx.dsq_vtime;
		break;
	}
	return least;
}

/*
 * New tasks move @now, by which they are placed, on by what they are expected to run, @worth in
 * virtual time. It is counted when they are queued again, and if none ever is, those behind would
 * wait for as long as some come.
 */
static __always_inline void vtime_expect(u64 *now, u32 queue, u64 worth)
{
	*now += worth / (scx_bpf_dsq_nr_queued(POLICY_DSQ(queue)) + 1);
}

/*
 * Where a new task is placed. Many that come one after the other must not each be placed before
 * the last: time would go back with them, and the rest starve.
 */
static __always_inline u64 vtime_of_new(struct vtime_queue *q, bool free, u64 worth, u64 first)
{
	u64 vtime = vtime_near(q);

	if (q->newcomers) {
		/* CPUs race here: a step that is lost is one newcomer that pays for two. */
		vtime = within(worth, vtime, *q->newcomers);
		*q->newcomers = vtime + q->newcomer_worth;
	} else if (free) {
		if (time_before(vtime, *q->now - worth))
			vtime = *q->now - worth;
		vtime -= worth;
	} else {
		vtime_expect(&vtime, q->queue, first);
	}
	vtime_expect(q->now, q->queue, VTIME_FIRST);
	return vtime;
}

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
	struct policy_task *history = policy_history(p);
	/* Others get ever further ahead or behind: they are not to be compared with all. */
	bool free = p->nr_cpus_allowed >= policy_nr_cpus && !q->weights_vary;
	bool moved = false, known = true;
	s64 worth = q->slice_ns * unit / weight;
	u64 ran = 0, own, vtime, step, most;

	/* No other policy has met it either. */
	q->is_new = history && !history->epoch;
	/* Without memory the task is not charged this once, nothing breaks. */
	if (history)
		known = policy_charge_to(p, history, q->queue, &ran, &moved);
	q->ran = step = ran;
	ran = ran * unit / weight;
	own = vtime = p->scx.dsq_vtime + ran;
	most = *q->now + VTIME_AHEAD * worth;
	if (q->is_new) {
		vtime = vtime_of_new(q, free, worth, VTIME_FIRST * unit / weight);
	} else if (woke || moved || !known) {
		/* Who has been waiting is owed its whole lag, others are not. */
		vtime = within(worth, vtime_near(q), own);
	} else if (free && time_before(most, own)) {
		/* What it ran while nobody else wanted the CPU is not held against it. */
		most = vtime_last(q, most);
		vtime = time_before(most, own) ? most : own;
		step = step < q->slice_ns ? step : q->slice_ns;
	}
	/*
	 * A step towards the middle of what was run, as long as that, makes a running median of
	 * where CPU time goes, whatever the weights; where these vary, one that follows the tasks
	 * instead. CPUs race here: a step that is lost is one sample fewer.
	 */
	if (q->weights_vary)
		*q->now = within((s64)ran > worth ? ran : worth, *q->now, vtime);
	else
		*q->now = within(step, *q->now, vtime - step * unit / weight / 2);
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
