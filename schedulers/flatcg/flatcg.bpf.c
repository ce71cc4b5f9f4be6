// SPDX-License-Identifier: GPL-2.0-only
/*
 * flatcg - the weights of nested cgroups, flattened into one level
 *
 * Algorithm. In each cgroup what is active, tasks and cgroups below it, shares what the cgroup
 * gets by weight. So the part of the machine that a task should have is the product of weight /
 * sum of weights over its level and all above. That product is its weight in one queue, ordered
 * by virtual time as in vtime: the tree costs nothing where the next task is picked, and a group
 * gets its share however many tasks it has. A task is active from when it becomes runnable
 * until it blocks or may not run by cpu.max (bandwidth.bpf.h), a cgroup while anything in it is.
 *
 * Source. Flattening is scx_flatcg's, which keeps a queue per cgroup and a tree of these, and
 * serves one cgroup for a while; here it is one queue of tasks. Proportional shares by virtual
 * time are those of vtime.
 *
 * Good for: containers and services with weights, on up to some tens of CPUs.
 * Bad for: latency beside hogs of the same weight (as vtime), many CPUs (one queue, one lock).
 * Cost: as vtime, and O(1) more when a task becomes runnable or blocks; O(levels) when a cgroup
 * becomes active or not, and for the first charge of a cgroup's task after that has happened
 * anywhere, or a tenth of a second later, when a weight may have changed.
 *
 * Worst case. A share is exact while the same tasks are active; who wakes and sleeps all the time
 * is charged by what is active at the moment when it is queued. A part of less than a millionth
 * of the machine counts as a millionth; deeper cgroups count as that of level MAX_LEVELS. One
 * with a limit may run more than its quota in a period, by up to a slice on each CPU, and less
 * in the next; of many tasks below a low limit each runs once in 5 s or so, whatever the limit
 * says, since the kernel ends a scheduler under which tasks wait.
 *
 * Parameters: slice_us.
 */
#define POLICY_QUEUE_OF(cpu) QUEUE

enum { QUEUE, PARKED };

#include "bandwidth.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"

PARAM_U64(slice_us, 5000, 100, 1000000, "us", "time a task may run before the next is picked");

#define MAX_LEVELS 8
/* The whole machine. */
#define ONE (1ULL << 20)
/* Weights are looked at so often, ns. */
#define REFRESH (100ULL * 1000 * 1000)

/* Progress of virtual time; its unit is not that of policies with absolute weights. */
static u64 vtime_now;
/* Changes with each change of what is active above the level of tasks. */
static u64 tree_version = 1;

/*
 * What is kept of a cgroup. All CPUs add to sums; each takes away in the end what it has added,
 * in whatever order.
 */
struct group {
	/* weights of what is active right below it, and how many that are */
	u64 sum;
	u64 nr;
	/* what it has added to the sum above it: its weight while it is active */
	u64 given;
	/* its part of the machine, of which version of the tree, and when; racy, right the next
	 * time */
	u64 share;
	u64 version;
	u64 looked_at;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct group);
} groups SEC(".maps");

/* What a task has added to the sum of a cgroup. */
struct member {
	/* 0: it is not active; whoever changes it adds the difference to the sum */
	u64 given;
	u64 cgroup;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct member);
} members SEC(".maps");

static __always_inline struct group *group_of(struct cgroup *cgrp)
{
	return bpf_cgrp_storage_get(&groups, cgrp, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline u64 weight_of(struct cgroup *cgrp)
{
	struct task_group___sdk *tg = (void *)BPF_CORE_READ(cgrp, subsys[cpu_cgrp_id]);
	u64 weight = 0;

	if (tg && bpf_core_field_exists(tg->scx.weight))
		weight = BPF_CORE_READ(tg, scx.weight);
	else if (tg && bpf_core_field_exists(tg->scx_weight))
		weight = BPF_CORE_READ(tg, scx_weight);
	return weight ?: 100;
}

/**
 * cgroup_of - the cgroup by which @p is scheduled: the nearest with the cpu controller
 *
 * To be released. Return: NULL if it is gone, or hidden by autogroups on an old kernel.
 */
static __always_inline struct cgroup *cgroup_of(struct task_struct *p)
{
	struct task_group___sdk *tg = (void *)p->sched_task_group;
	struct cgroup *cgrp = tg->css.cgroup;
	int level = cgrp ? cgrp->level : 0;

	return bpf_cgroup_ancestor(p->cgroups->dfl_cgrp, level < MAX_LEVELS ? level : MAX_LEVELS);
}

/**
 * settle - make what @cgrp adds to the sum of the one above it what it should be
 *
 * Whoever changes @g->nr from or to 0 comes here afterwards, so the last to come sees the last
 * value. Two may be here at once: each adds the difference to what it has found, so the sum is
 * that of what was put there last, and each looks again. Return: whether it has changed.
 */
static __always_inline bool settle(struct cgroup *cgrp, struct group *g, struct group *above)
{
	u64 want, had, weight = weight_of(cgrp);
	bool changed = false;
	u32 i;

	bpf_for (i, 0, 8) {
		want = READ_ONCE(g->nr) ? weight : 0;
		if (READ_ONCE(g->given) == want)
			break;
		had = __sync_lock_test_and_set(&g->given, want);
		changed = true;
		__sync_fetch_and_add(&above->sum, want - had);
		if (want && !had)
			__sync_fetch_and_add(&above->nr, 1);
		else if (had && !want)
			__sync_fetch_and_sub(&above->nr, 1);
	}
	if (changed)
		__sync_fetch_and_add(&tree_version, 1);
	return changed;
}

/**
 * walk_up - settle @leaf and those above it
 * @all: even those above one that has not changed
 *
 * Return: the part of the machine that @leaf should have, if @all.
 */
static __noinline u64 walk_up(struct cgroup *leaf, bool all)
{
	struct cgroup *cgrp, *parent;
	int level = leaf->level;
	struct group *g, *above;
	bool changed = false;
	u64 share = ONE, sum;
	u32 i;

	bpf_for (i, 0, MAX_LEVELS) {
		if (level < 1)
			break;
		cgrp = bpf_cgroup_ancestor(leaf, level);
		if (!cgrp)
			break;
		parent = bpf_cgroup_ancestor(leaf, level - 1);
		g = group_of(cgrp);
		above = parent ? group_of(parent) : NULL;
		if (g && above) {
			changed = settle(cgrp, g, above);
			/* Both may be changing: a wrong share lasts for one charge. */
			sum = above->sum;
			if (g->given && g->given < sum)
				share = share * g->given / sum;
		}
		bpf_cgroup_release(cgrp);
		if (parent)
			bpf_cgroup_release(parent);
		if (!changed && !all)
			break;
		level--;
	}
	return share ?: 1;
}

/* The part of the machine that @cgrp should have. */
static __always_inline u64 share_of(struct cgroup *cgrp, struct group *g)
{
	u64 version = READ_ONCE(tree_version), now;

	if (!cgrp->level)
		return ONE;
	now = scx_bpf_now();
	if (g->version != version || time_after(now, g->looked_at + REFRESH)) {
		g->share = walk_up(cgrp, true);
		g->version = version;
		g->looked_at = now;
	}
	return g->share;
}

static __always_inline void deactivate(struct cgroup *cgrp, struct member *m)
{
	struct group *g = group_of(cgrp);
	u64 had = __sync_lock_test_and_set(&m->given, 0);

	if (!g || !had)
		return;
	__sync_fetch_and_sub(&g->sum, had);
	if (__sync_fetch_and_sub(&g->nr, 1) == 1)
		walk_up(cgrp, false);
}

/* The same if the task is in another cgroup now. */
static __always_inline void leave(struct member *m)
{
	struct cgroup *cgrp = bpf_cgroup_from_id(m->cgroup);

	if (cgrp) {
		deactivate(cgrp, m);
		bpf_cgroup_release(cgrp);
	}
	/* Otherwise its sum is gone with it. */
	m->given = 0;
}

static __always_inline void activate(struct cgroup *cgrp, struct group *g, struct member *m,
				     u64 weight)
{
	u64 had;

	if (READ_ONCE(m->given) == weight)
		return;
	m->cgroup = cgrp->kn->id;
	had = __sync_lock_test_and_set(&m->given, weight);
	__sync_fetch_and_add(&g->sum, weight - had);
	if (!had && __sync_fetch_and_add(&g->nr, 1) == 0)
		walk_up(cgrp, false);
}

/**
 * join - make @p active, if it is not
 *
 * Return: the part of the machine that it should have, of ONE.
 */
static __noinline u64 join(struct task_struct *p)
{
	struct member *m;
	struct cgroup *cgrp;
	struct group *g;
	u64 share = ONE, sum;

	m = bpf_task_storage_get(&members, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	cgrp = cgroup_of(p);
	/* Without memory it is charged little this once. */
	if (!cgrp)
		return share;
	g = group_of(cgrp);
	if (m && g) {
		if (m->given && m->cgroup != cgrp->kn->id)
			leave(m);
		activate(cgrp, g, m, p->scx.weight ?: 1);
		share = share_of(cgrp, g);
		sum = g->sum;
		if (m->given < sum)
			share = share * m->given / sum;
	}
	bpf_cgroup_release(cgrp);
	return share ?: 1;
}

static __always_inline u64 vtime_of_task(struct task_struct *p, bool woke)
{
	struct vtime_queue q = {
		.queue = QUEUE,
		.cpu = scx_bpf_task_cpu(p),
		.now = &vtime_now,
		.slice_ns = slice_us * 1000,
		.weights_vary = true,
	};

	return vtime_at(p, &q, join(p), ONE, woke);
}

/**
 * flatcg_select_cpu - an idle CPU runs @p at once, and it counts from now on
 */
s32 BPF_STRUCT_OPS(flatcg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s64 left = bandwidth_left(p);
	bool is_idle = false;
	s32 cpu;

	if (left <= 0)
		return prev_cpu;
	cpu = policy_find_idle(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle) {
		join(p);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, bandwidth_slice(left, slice_us * 1000), 0);
	}
	return cpu;
}

/* @p is not active any more. */
static __noinline void retire(struct task_struct *p)
{
	struct member *m = bpf_task_storage_get(&members, p, NULL, 0);
	struct cgroup *cgrp;

	if (!m || !m->given)
		return;
	cgrp = cgroup_of(p);
	if (cgrp && cgrp->kn->id == m->cgroup)
		deactivate(cgrp, m);
	else
		leave(m);
	if (cgrp)
		bpf_cgroup_release(cgrp);
}

POLICY_ENQUEUE(flatcg_enqueue, p, enq_flags)
{
	s64 left = bandwidth_left(p);
	u64 vtime = vtime_of_task(p, enq_flags & SCX_ENQ_WAKEUP);

	if (likely(left > 0)) {
		policy_queue_vtime(p, QUEUE, bandwidth_slice(left, slice_us * 1000), vtime,
				   enq_flags);
		return;
	}
	scx_bpf_task_set_dsq_vtime(p, vtime);
	bandwidth_park(p, enq_flags);
}

static __always_inline void bandwidth_parks(struct task_struct *p)
{
	retire(p);
}

/*
 * It competes anew: nobody owes it what it could not have. Nothing keeps it from being taken
 * away here, run and put to sleep before it is made active; then it is not queued any more.
 */
static __always_inline void bandwidth_unpark(struct bpf_iter_scx_dsq *it, struct task_struct *p)
{
	u64 vtime = p->scx.dsq_vtime, first;

	join(p);
	if (!policy_first_vtime(QUEUE, scx_bpf_task_cpu(p), &first))
		first = vtime_now;
	scx_bpf_dsq_move_set_vtime(it, time_before(vtime, first) ? first : vtime);
	if (!scx_bpf_dsq_move_vtime(it, p, POLICY_DSQ(QUEUE), 0) &&
	    !(p->scx.flags & SCX_TASK_QUEUED))
		retire(p);
}

POLICY_DISPATCH(flatcg_dispatch, cpu, prev)
{
	s64 left;

	policy_see_to_overdue(QUEUE);
	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED)) {
		bandwidth_pick(QUEUE, cpu);
		return;
	}
	left = bandwidth_left(prev);
	if (left > 0 && vtime_goes_on(prev, QUEUE, cpu, vtime_of_task(prev, false),
				      bandwidth_slice(left, slice_us * 1000)))
		return;
	if (!bandwidth_pick(QUEUE, cpu) && left <= 0)
		policy_put_off(cpu, prev);
}

/**
 * policy_switch - who blocks is billed, and not active any more
 *
 * Under the run queue's lock; while another policy is in force for a while, too.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(policy_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	if (!preempt && prev_state) {
		bandwidth_left(prev);
		retire(prev);
	}
	return 0;
}

POLICY_INIT()
{
	return bandwidth_init() ?: policy_create_dsq(QUEUE, -1) ?: policy_create_dsq(PARKED, -1);
}

POLICY_DEFINE(flatcg, "the weights of nested cgroups, flattened into one level, and cpu.max",
	      .select_cpu = (void *)flatcg_select_cpu, .enqueue = (void *)flatcg_enqueue,
	      .dispatch = (void *)flatcg_dispatch)
