/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * flatcg: the tree of cgroups, what is active in it, and the part of the machine that each
 * should have. Included once, by flatcg.bpf.c.
 */
#ifndef __TREE_BPF_H
#define __TREE_BPF_H

#include "policy.bpf.h"

#define MAX_LEVELS 8
#define TASK_DEAD  0x80 /* linux/sched.h */
/* The whole machine. */
#define ONE (1ULL << 20)
/* Weights are looked at so often, ns. */
#define REFRESH (100ULL * 1000 * 1000)

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
	/* virtual time at which its next new task is placed */
	u64 newcomers;
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
	/* by how much it has moved on where the next new task of its group is placed */
	u64 newcomer_worth;
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
 * @group: out: what is kept of its cgroup, NULL without memory
 *
 * Return: the part of the machine that it should have, of ONE.
 */
static __noinline u64 join(struct task_struct *p, struct group **group)
{
	struct member *m;
	struct cgroup *cgrp;
	struct group *g;
	u64 share = ONE, sum;

	*group = NULL;
	m = bpf_task_storage_get(&members, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	cgrp = cgroup_of(p);
	/* Without memory it is charged little this once. */
	if (!cgrp)
		return share;
	*group = g = group_of(cgrp);
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

/* Virtual time of a group that has run for @ns. */
static __always_inline u64 in_group(struct group *g, u64 ns)
{
	return ns * ONE / (g->share ?: ONE);
}

/* @p, which is new, has moved on by @worth where the next one is placed. */
static __always_inline void note_new(struct task_struct *p, u64 worth)
{
	struct member *m = bpf_task_storage_get(&members, p, NULL, 0);

	if (m)
		m->newcomer_worth = worth;
}

/* @p has ended: if it has run for less than a new task is taken to, the next one need not wait. */
static __noinline void refund_new(struct task_struct *p)
{
	struct member *m = bpf_task_storage_get(&members, p, NULL, 0);
	struct cgroup *cgrp;
	struct group *g;
	u64 ran;

	if (!m || !m->newcomer_worth)
		return;
	cgrp = cgroup_of(p);
	if (!cgrp)
		return;
	g = group_of(cgrp);
	if (g) {
		ran = in_group(g, p->se.sum_exec_runtime);
		if (ran < m->newcomer_worth)
			__sync_fetch_and_sub(&g->newcomers, m->newcomer_worth - ran);
	}
	bpf_cgroup_release(cgrp);
}

#endif /* __TREE_BPF_H */
