/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cosched: trust groups, and which of them has a core. Included once, by cosched.bpf.c,
 * after its parameters.
 */
#ifndef __CLAIMS_BPF_H
#define __CLAIMS_BPF_H

#include "cores.bpf.h"

/* Nobody's and everybody's group: no cgroup has this number. */
#define TRUSTED 0

/* The group in the upper half, in the lower one a bit for each CPU that may run a task of it. */
#define GROUP_SHIFT 32

struct core {
	u64 claims;
	/* when the turn of the group is over, if another one waits; racy, a turn is no secret */
	u64 turn_end;
} __attribute__((aligned(64)));
static struct core cores[NR_CPUS];

/*
 * 1: the CPU looks for a task, or is idle and nobody has woken it. Set before it looks into
 * the queue; who queues a task looks here afterwards. So one of the two sees the other.
 */
static u32 looking[NR_CPUS];

struct group {
	/* when its last turn began */
	u64 served;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct group);
} groups SEC(".maps");

static __always_inline struct core *core_of(s32 cpu)
{
	return &cores[policy_core_of(cpu) & (NR_CPUS - 1)];
}

static __always_inline u32 *looking_of(s32 cpu)
{
	return &looking[(u32)cpu & (NR_CPUS - 1)];
}

static __always_inline u32 group_in(u64 claims)
{
	return claims >> GROUP_SHIFT;
}

/* The lower half of a cgroup's id is its inode number: no two that exist share one. */
static __always_inline u32 group_of(struct task_struct *p)
{
	if (p->flags & PF_KTHREAD || p->tgid == policy_agent.tgid)
		return TRUSTED;
	return p->cgroups->dfl_cgrp->kn->id;
}

/* What is known of @p's group; NULL without memory for it. */
static __always_inline struct group *about_group(struct task_struct *p)
{
	return bpf_cgrp_storage_get(&groups, p->cgroups->dfl_cgrp, NULL,
				    BPF_LOCAL_STORAGE_GET_F_CREATE);
}

/* Whether @cpu is offline for good, and not only about to be: it runs tasks until then. */
static __always_inline bool is_gone(s32 cpu)
{
	const struct cpumask *online;
	bool gone;

	if (likely(!*policy_off_flag(cpu)))
		return false;
	online = scx_bpf_get_online_cpumask();
	gone = !bpf_cpumask_test_cpu(cpu, online);
	scx_bpf_put_cpumask(online);
	return gone;
}

/**
 * bits_of_others - the bits in @claims of @cpu's siblings
 * @at_work: only of those that are not looking for a task themselves
 */
__noinline u32 bits_of_others(u64 claims, s32 cpu, bool at_work)
{
	s32 sibling;
	u32 bits = 0, i;

	for_each_sibling (sibling, i, cpu) {
		if (claims & policy_core_bit(sibling) && !is_gone(sibling) &&
		    !(at_work && READ_ONCE(*looking_of(sibling))))
			bits |= policy_core_bit(sibling);
	}
	return bits;
}

/* Claims @cpu's core for @group, if no sibling has it for another. */
__noinline bool claim(s32 cpu, u32 group)
{
	struct core *core = core_of(cpu);
	u64 old, new;
	u32 others, tries;

	bpf_for (tries, 0, MAX_CORE_CPUS) {
		old = READ_ONCE(core->claims);
		others = bits_of_others(old, cpu, false);
		if (others && group_in(old) != group)
			return false;
		new = (u64)group << GROUP_SHIFT | others | policy_core_bit(cpu);
		if (__sync_val_compare_and_swap(&core->claims, old, new) != old)
			continue;
		/* The first CPU begins a turn, even if it is the same group's. */
		if (!others) {
			WRITE_ONCE(core->turn_end, scx_bpf_now() + slice_us * 1000);
			if (group_in(old) != group)
				COUNT(turns);
		}
		return true;
	}
	return false;
}

/* Gives @cpu's bit back. Return: what the claims are now. */
static __always_inline u64 give_back(s32 cpu)
{
	u64 bit = policy_core_bit(cpu), *claims = &core_of(cpu)->claims;

	if (!(READ_ONCE(*claims) & bit))
		return READ_ONCE(*claims);
	return __sync_fetch_and_and(claims, ~bit) & ~bit;
}

/*
 * What runs now is another policy's, and nobody knows whose: until a CPU has been through
 * dispatch it might run anything.
 */
static __always_inline void forget_claims(void)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	u32 cpu;

	bpf_for (cpu, 0, policy_nr_cpus)
		core_of(cpu)->claims = 0;
	bpf_for (cpu, 0, policy_nr_cpus) {
		*looking_of(cpu) = 1;
		if (bpf_cpumask_test_cpu(cpu, online))
			core_of(cpu)->claims |= policy_core_bit(cpu);
	}
	scx_bpf_put_cpumask(online);
}

#endif /* __CLAIMS_BPF_H */
