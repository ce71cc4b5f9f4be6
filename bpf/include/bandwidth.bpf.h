/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies that honour cpu.max: include it beside policy.bpf.h.
 *
 * A cgroup has a budget, quota ns of run time in each period, as in the kernel's cgroup
 * bandwidth control (Turner, Rao, Rao, "CPU bandwidth control for CFS", OLS 2010). Each task
 * is billed for what it has run, and so is each cgroup above it that has a limit. When the
 * budget of one is used up, the task is parked: it waits in a queue that no CPU serves until
 * there is a budget again. What was run beyond it, since several CPUs run tasks of a cgroup
 * until their slices end, is a debt that the next periods pay; so the limit holds on average.
 * What is left over is lost, but for cpu.max.burst.
 *
 * A policy bills with bandwidth_left() when it queues a task, when a CPU is about to let one
 * go on, and in policy_switch() when one blocks; parks with bandwidth_park(); takes tasks
 * from its queue with bandwidth_pick(); puts off with policy_put_off() who would go on else.
 * Before it includes this it says which of its queues is PARKED.
 */
#ifndef __BANDWIDTH_BPF_H
#define __BANDWIDTH_BPF_H

#include "policy.bpf.h"
#include "evict.bpf.h"

/**
 * bandwidth_parks - the policy's: @p is about to wait where it does not compete
 *
 * Without the locks of the task, and so is the next.
 */
static void bandwidth_parks(struct task_struct *p);

/**
 * bandwidth_unpark - the policy's: move @p, at which @it is, to the queue it competes in
 */
static void bandwidth_unpark(struct bpf_iter_scx_dsq *it, struct task_struct *p);

/* What a task may run whose cgroups have no limit, ns. */
#define BANDWIDTH_UNLIMITED ((s64)(~0ULL >> 1))
/*
 * The most that a cgroup can owe, and the longest that a task waits for it, ns. The kernel takes
 * a task for stalled that waits for 30 s, whatever for, and ends the scheduler.
 */
#define BANDWIDTH_MAX_WAIT (5ULL * 1000 * 1000 * 1000)
/* The shortest slice for what is left of a budget, ns. */
#define BANDWIDTH_MIN_SLICE (250 * 1000)
/* Cgroups with a limit of which the budget is known at one time. */
#define BANDWIDTH_MAX_GROUPS 8192

struct budget {
	/* run time billed in this period, and what is owed, ns; negative: saved up */
	s64 used;
	/* when the period began, CLOCK_MONOTONIC ns */
	u64 start;
	u64 generation;
};

/* By the serial number of the cgroup. One that is forgotten has a full budget again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BANDWIDTH_MAX_GROUPS);
	__type(key, u64);
	__type(value, struct budget);
} budgets SEC(".maps");

struct bill {
	/* run time in all at which the task was billed last, ns */
	u64 at;
	u64 generation;
	/* since when it has not run as it may not, CLOCK_MONOTONIC ns; 0: it may, or has run */
	u64 parked_at;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bill);
} bills SEC(".maps");

struct parking {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct parking);
} parkings SEC(".maps");

/* 1: a cgroup with a limit has been seen. */
static u32 bandwidth_in_use;
/* When the timer looks at those that are parked, ns; 0: it does not. */
static u64 unpark_at;
/* Times that a task was parked, and what that was when the timer looked last. */
static u64 nr_parked, nr_looked_for;
/* How long until the timer looks again for who was not in the queue yet, ns. */
#define UNPARK_AGAIN (5 * 1000 * 1000)

/* The budget of @tg, in the period that @now is in. Return: NULL if there is no memory. */
static __always_inline struct budget *budget_of(struct task_group___sdk *tg, u64 now)
{
	u64 key = tg->css.serial_nr, quota = tg->cfs_bandwidth.quota;
	u64 period = tg->cfs_bandwidth.period, start, periods;
	struct budget *b = bpf_map_lookup_elem(&budgets, &key);
	s64 used, owed, saved = -(s64)tg->cfs_bandwidth.burst, most;

	if (!b || b->generation != policy_generation) {
		/* New, or of a time before another policy, which may have honoured no limit. */
		struct budget full = {.start = now, .generation = policy_generation};

		bpf_map_update_elem(&budgets, &key, &full, BPF_ANY);
		b = bpf_map_lookup_elem(&budgets, &key);
	}
	start = b ? READ_ONCE(b->start) : 0;
	if (!b || !period || time_before(now, start + period))
		return b;
	periods = (now - start) / period;
	/* One of those who see a new period begins it. Others add to what is used meanwhile. */
	if (__sync_val_compare_and_swap(&b->start, start, start + periods * period) == start) {
		most = quota * (BANDWIDTH_MAX_WAIT / period);
		used = READ_ONCE(b->used);
		owed = used - (s64)(periods * quota);
		if (owed < saved || periods > BANDWIDTH_MAX_WAIT / period)
			owed = saved;
		else if (owed > most)
			owed = most;
		__sync_fetch_and_add(&b->used, owed - used);
	}
	return b;
}

/**
 * bandwidth_of - bill the cgroups above @p, and look at what they may run
 * @ran: what it has run since it was billed last, ns
 * @refill: where it goes when there may be a budget again, if there is none
 *
 * Not static, as has_limit() is not: the verifier looks at them once, and not on each way to
 * them. Return: what they may run now, ns; 0 or less: nothing.
 */
__noinline s64 bandwidth_of(struct task_struct *p __arg_trusted, u64 ran, u64 *refill)
{
	struct task_group___sdk *tg = (void *)p->sched_task_group;
	s64 left = BANDWIDTH_UNLIMITED, its;
	u64 now = bpf_ktime_get_ns(), quota;
	struct budget *b;
	u32 i;

	if (!refill)
		return left;
	bpf_for (i, 0, POLICY_CGROUP_DEPTH) {
		if (i)
			tg = tg->parent;
		if (!tg || !tg->parent)
			break;
		quota = tg->cfs_bandwidth.quota;
		if (quota == ~0ULL)
			continue;
		b = budget_of(tg, now);
		if (!b)
			continue;
		its = quota - (ran ? __sync_fetch_and_add(&b->used, ran) : READ_ONCE(b->used)) -
		      ran;
		if (its >= left)
			continue;
		left = its;
		*refill = b->start + tg->cfs_bandwidth.period;
	}
	return left;
}

/* Whether a cgroup above @p has a limit. */
__noinline bool has_limit(struct task_struct *p __arg_trusted)
{
	struct task_group___sdk *tg = (void *)p->sched_task_group;
	u32 i;

	if (!bpf_core_field_exists(tg->cfs_bandwidth))
		return false;
	for (i = 0; i < POLICY_CGROUP_DEPTH && tg->parent; i++, tg = tg->parent) {
		if (tg->cfs_bandwidth.quota != ~0ULL)
			return true;
	}
	return false;
}

/**
 * bandwidth_left - bill @p for what it has run
 *
 * With the locks of the task held. Return: what it may run now, ns, BANDWIDTH_UNLIMITED if
 * nothing limits it; 0 or less: it has to be parked.
 */
static __always_inline s64 bandwidth_left(struct task_struct *p)
{
	u64 sum = p->se.sum_exec_runtime, ran = 0, refill = 0;
	struct bill *bill;

	if (likely(!has_limit(p)))
		return BANDWIDTH_UNLIMITED;
	if (!READ_ONCE(bandwidth_in_use))
		WRITE_ONCE(bandwidth_in_use, 1);
	bill = bpf_task_storage_get(&bills, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* Without memory for it the task is not billed this once. */
	if (bill) {
		if (bill->generation == policy_generation)
			ran = sum - bill->at;
		if (ran || bill->generation != policy_generation)
			bill->parked_at = 0;
		bill->generation = policy_generation;
		bill->at = sum;
	}
	return bandwidth_of(p, ran, &refill);
}

/*
 * Whether @p, which may not run, has waited for so long that it has to. So many tasks below
 * one limit may exceed it, by what each runs in a slice in that time.
 */
static __always_inline bool has_to_run(struct task_struct *p, u64 now)
{
	struct bill *bill = bpf_task_storage_get(&bills, p, NULL, 0);

	return bill && bill->parked_at && time_after(now, bill->parked_at + BANDWIDTH_MAX_WAIT);
}

/* A slice of at most @slice_ns for who may run for @left. Others of its cgroups run it, too. */
static __always_inline u64 bandwidth_slice(s64 left, u64 slice_ns)
{
	u64 slice = left > BANDWIDTH_MIN_SLICE ? left : BANDWIDTH_MIN_SLICE;

	return slice < slice_ns ? slice : slice_ns;
}

/* Has the timer look at @when at the latest. */
static __always_inline void unpark_by(u64 when)
{
	struct parking *parking = bpf_map_lookup_elem(&parkings, &(u32){0});
	u64 at = READ_ONCE(unpark_at);

	if (!parking || (at && !time_before(when, at)))
		return;
	/* Of two who race here the later time may win: then a task waits for that. */
	WRITE_ONCE(unpark_at, when);
	bpf_timer_start(&parking->timer, when, BPF_F_TIMER_ABS);
}

/*
 * @p is about to be in queue PARKED at least until @refill, which the timer has to know first:
 * see unpark().
 */
static __always_inline void note_parked(struct task_struct *p, u64 refill)
{
	struct bill *bill = bpf_task_storage_get(&bills, p, NULL, 0);

	if (bill && !bill->parked_at)
		bill->parked_at = bpf_ktime_get_ns();
	__sync_fetch_and_add(&nr_parked, 1);
	unpark_by(refill);
	bandwidth_parks(p);
}

/**
 * bandwidth_park - have @p, which may not run, wait in queue PARKED until it may
 *
 * For POLICY_ENQUEUE.
 */
static __always_inline void bandwidth_park(struct task_struct *p, u64 enq_flags)
{
	u64 refill = bpf_ktime_get_ns();

	bandwidth_of(p, 0, &refill);
	note_parked(p, refill);
	scx_bpf_dsq_insert(p, POLICY_DSQ(PARKED), SCX_SLICE_DFL, enq_flags);
}

/**
 * bandwidth_pick - give @cpu the first task of queue @n that may run there, and park those
 * before it that may run nowhere now
 *
 * For POLICY_DISPATCH only. Return: true if there was one.
 */
static __always_inline bool bandwidth_pick(u32 n, s32 cpu)
{
	u64 refill = 0, now;
	struct task_struct *p;

	if (!READ_ONCE(bandwidth_in_use))
		return policy_pick(n);
	now = bpf_ktime_get_ns();
	bpf_for_each (scx_dsq, p, POLICY_DSQ(n), 0) {
		if (!policy_may_take(p, cpu))
			continue;
		if (has_limit(p) && bandwidth_of(p, 0, &refill) <= 0 && !has_to_run(p, now)) {
			note_parked(p, refill);
			scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, POLICY_DSQ(PARKED), 0);
			continue;
		}
		/* It may be gone meanwhile, or have another affinity: then it is not moved. */
		if (scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0))
			return true;
	}
	return false;
}

/*
 * Whoever parks a task counts it and then looks whether the timer is set; this says that it is
 * not and then looks whether somebody has counted. One of the two sees the other, and this
 * comes again for whom it has not found in the queue yet.
 */
static int unpark(void *map, u32 *key, struct parking *parking)
{
	u64 now = bpf_ktime_get_ns(), refill, next = 0, parked;
	struct task_struct *p;
	s64 left;

	__sync_lock_test_and_set(&unpark_at, 0);
	parked = READ_ONCE(nr_parked);
	if (parked != nr_looked_for)
		next = now + UNPARK_AGAIN;
	nr_looked_for = parked;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(PARKED), 0) {
		refill = now + UNPARK_AGAIN;
		left = bandwidth_of(p, 0, &refill);
		if (left > 0 || has_to_run(p, now)) {
			scx_bpf_dsq_move_set_slice(BPF_FOR_EACH_ITER,
						   bandwidth_slice(left, SCX_SLICE_DFL));
			bandwidth_unpark(BPF_FOR_EACH_ITER, p);
			policy_kick_idle(p);
		} else if (!next || time_before(refill, next)) {
			next = refill;
		}
	}
	if (next)
		unpark_by(next);
	return 0;
}

/* For POLICY_INIT. Return: 0 or a negative errno. */
static __always_inline s32 bandwidth_init(void)
{
	struct parking *parking = bpf_map_lookup_elem(&parkings, &(u32){0});

	if (!parking)
		return -ENOENT;
	return bpf_timer_init(&parking->timer, &parkings, CLOCK_MONOTONIC)
		       ?: bpf_timer_set_callback(&parking->timer, unpark)
		       ?: policy_init_evictors();
}

#endif /* __BANDWIDTH_BPF_H */
