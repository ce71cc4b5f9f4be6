/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Idle CPUs out of a set, for policies that keep some tasks to some CPUs: whole cores first,
 * then siblings of busy ones. The kernel's own choice knows no such sets.
 */
#ifndef __MASKS_BPF_H
#define __MASKS_BPF_H

#include "policy.bpf.h"

/* The value of an array map, a set for each entry. */
struct policy_mask {
	struct bpf_cpumask __kptr *cpus;
};

/* Room for a mask, for each CPU: ops do not interrupt each other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct policy_mask);
} policy_scratch_mask SEC(".maps");

static __always_inline s32 policy_new_mask(struct policy_mask *slot)
{
	struct bpf_cpumask *mask;

	if (!slot)
		return -EINVAL;
	mask = bpf_cpumask_create();
	if (!mask)
		return -ENOMEM;
	mask = bpf_kptr_xchg(&slot->cpus, mask);
	if (mask)
		bpf_cpumask_release(mask);
	return 0;
}

/**
 * policy_create_scratch_masks - for POLICY_INIT of who uses the functions below
 */
static __always_inline s32 policy_create_scratch_masks(void)
{
	s32 ret, cpu;

	bpf_for (cpu, 0, policy_nr_cpus) {
		ret = policy_new_mask(
			bpf_map_lookup_percpu_elem(&policy_scratch_mask, &(u32){0}, cpu));
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * policy_set_in_mask - put @cpu into the set in @slot or take it out
 */
static __always_inline void policy_set_in_mask(struct policy_mask *slot, u32 cpu, bool in)
{
	struct bpf_cpumask *mask;

	bpf_rcu_read_lock();
	mask = slot ? slot->cpus : NULL;
	if (mask && in)
		bpf_cpumask_set_cpu(cpu, mask);
	else if (mask)
		bpf_cpumask_clear_cpu(cpu, mask);
	bpf_rcu_read_unlock();
}

/**
 * policy_pick_idle_of - an idle CPU of the set in @slot for @p, which is then taken
 * @flags: 0, or SCX_PICK_IDLE_CORE for one whose siblings are idle, too
 *
 * Return: -1 or another negative number if there is none.
 */
static __always_inline s32 policy_pick_idle_of(struct task_struct *p, struct policy_mask *slot,
					       u64 flags)
{
	struct bpf_cpumask *cpus = slot ? slot->cpus : NULL, *both;
	struct policy_mask *scratch;

	if (!cpus)
		return -1;
	if (p->nr_cpus_allowed >= policy_nr_cpus)
		return scx_bpf_pick_idle_cpu(cast_mask(cpus), flags);
	scratch = bpf_map_lookup_elem(&policy_scratch_mask, &(u32){0});
	both = scratch ? scratch->cpus : NULL;
	if (!both)
		return -1;
	bpf_cpumask_and(both, cast_mask(cpus), p->cpus_ptr);
	return scx_bpf_pick_idle_cpu(cast_mask(both), flags);
}

/* Whether @cpu and its siblings are idle. */
static __always_inline bool policy_core_is_idle(s32 cpu)
{
	const struct cpumask *cores = scx_bpf_get_idle_smtmask();
	bool is_idle = bpf_cpumask_test_cpu(cpu, cores);

	scx_bpf_put_idle_cpumask(cores);
	return is_idle;
}

/* Whether no CPU at all is idle: the usual case under load, and a cheap question. */
static __always_inline bool policy_none_is_idle(void)
{
	const struct cpumask *idle = scx_bpf_get_idle_cpumask();
	bool none = bpf_cpumask_empty(idle);

	scx_bpf_put_idle_cpumask(idle);
	return none;
}

#endif /* __MASKS_BPF_H */
