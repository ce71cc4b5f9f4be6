/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies with a queue per last-level cache (LLC): include it in the place of
 * policy.bpf.h. The framework says which CPU belongs to which before the policy is
 * loaded (framework/src/llc.rs), attached by itself or in a slot, built in or not.
 */
#ifndef __LLC_BPF_H
#define __LLC_BPF_H

/* LLCs that are told apart; framework/src/llc.rs has the same number. */
#define MAX_LLCS 64

/* A CPU that serves queue n is one of LLC n. */
#define POLICY_QUEUE_OF(cpu) policy_llc_of(cpu)

static __attribute__((always_inline)) unsigned int policy_llc_of(int cpu);

#include "policy.bpf.h"

PARAM_U64(llc_cpus, 0, 0, 1024, "CPUs",
	  "CPUs that are taken for one LLC, in order of their numbers; 0: as the hardware has it");

/* Set by the framework. LLCs are numbered from 0 without gaps. */
const volatile u32 policy_nr_llcs = 1;
const volatile u8 policy_cpu_llc[NR_CPUS];

const volatile u16 policy_llc_cpus[NR_CPUS];
const volatile u32 policy_llc_first[MAX_LLCS + 1];
const volatile u8 policy_llc_node[MAX_LLCS];
const volatile u8 policy_llc_near[MAX_LLCS * MAX_LLCS];

/* The mask is for the verifier: there are MAX_LLCS at most. */
static __always_inline u32 policy_llc_of(s32 cpu)
{
	return policy_cpu_llc[(u32)cpu & (NR_CPUS - 1)] & (MAX_LLCS - 1);
}

/* The @n-th LLC by distance from @llc, 0 <= @n < policy_nr_llcs; the first is @llc itself. */
static __always_inline u32 policy_llc_nth(u32 llc, u32 n)
{
	return policy_llc_near[(llc * MAX_LLCS + n) & (MAX_LLCS * MAX_LLCS - 1)] & (MAX_LLCS - 1);
}

/* The first of the places in policy_llc_cpus that belong to @llc; those of the next one follow. */
static __always_inline u32 policy_llc_begin(u32 llc)
{
	return llc > MAX_LLCS ? 0 : policy_llc_first[llc];
}

/* Whether two LLCs are on the same NUMA node. */
static __always_inline bool policy_llcs_are_near(u32 llc, u32 other)
{
	return policy_llc_node[llc & (MAX_LLCS - 1)] == policy_llc_node[other & (MAX_LLCS - 1)];
}

/* What is kept for an LLC; on cache lines of their own. */
struct policy_llc {
	/* progress of virtual time in its queue, for vtime_in() */
	u64 now;
	/* when one of its CPUs last asked for work, and the LLC that it looked after; racy */
	u64 served;
	u32 watched;
} __attribute__((aligned(64)));
static struct policy_llc policy_llcs[MAX_LLCS];

static __always_inline u64 *policy_llc_now(u32 llc)
{
	return &policy_llcs[llc & (MAX_LLCS - 1)].now;
}

/* An LLC whose CPUs have not asked for so much longer than two slices is abandoned, ns. */
#define POLICY_LLC_ABANDONED (100ULL * 1000 * 1000)

/**
 * policy_pick_abandoned - take a task from an LLC whose CPUs do not come any more
 * @own: the LLC of the CPU that dispatches
 *
 * For POLICY_DISPATCH only. A CPU that is going offline may run nothing long before the policy
 * is told, and what waits for it may hold up the very grace period that the kernel waits for in
 * between. Each dispatch looks at one LLC, in turns. Return: true if there was such a task.
 */
static __always_inline bool policy_pick_abandoned(u32 own, u64 slice_ns)
{
	struct policy_llc *mine = &policy_llcs[own & (MAX_LLCS - 1)];
	u64 now = scx_bpf_now();
	u32 other;

	if (policy_nr_llcs < 2)
		return false;
	mine->served = now;
	other = mine->watched++ % policy_nr_llcs;
	if (time_before(now, policy_llcs[other & (MAX_LLCS - 1)].served + POLICY_LLC_ABANDONED +
				     2 * slice_ns))
		return false;
	return policy_pick(other);
}

/**
 * policy_create_llc_dsqs - create a queue for each LLC, on the NUMA node of its CPUs
 *
 * For POLICY_INIT only. Virtual time goes on there where it was under the policy before.
 */
static __always_inline s32 policy_create_llc_dsqs(void)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	s32 ret, cpu;
	u32 i;

	bpf_for (i, 0, policy_nr_llcs) {
		s32 node = -1;

		bpf_for (cpu, 0, policy_nr_cpus) {
			if (node < 0 && policy_llc_of(cpu) == i)
				node = __COMPAT_scx_bpf_cpu_node(cpu);
		}
		ret = policy_create_dsq(i, node);
		if (ret)
			return ret;
		if (shared)
			*policy_llc_now(i) = shared->vtime_now;
	}
	return 0;
}

#endif /* __LLC_BPF_H */
