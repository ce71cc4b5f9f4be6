/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies that know the SMT siblings of a CPU: include it beside policy.bpf.h. The
 * framework says which CPUs share a core before the policy is loaded
 * (framework/src/cores.rs), attached by itself or in a slot, built in or not.
 */
#ifndef __CORES_BPF_H
#define __CORES_BPF_H

#include "policy.bpf.h"

PARAM_U64(core_cpus, 0, 0, 8, "CPUs",
	  "CPUs that are taken for one core, in order of their numbers; 0: as the hardware has it");

/* CPUs that a core has at most; framework/src/cores.rs has the same number. */
#define MAX_CORE_CPUS 8

/* Set by the framework. Cores are numbered from 0 without gaps. */
const volatile u16 policy_cpu_core[NR_CPUS];
/* The next CPU of the same core, round in a ring; the CPU itself if it has the core alone. */
const volatile u16 policy_cpu_next[NR_CPUS];
/* How many CPUs of the core come before it. */
const volatile u8 policy_cpu_rank[NR_CPUS];

static __always_inline u32 policy_core_of(s32 cpu)
{
	return policy_cpu_core[(u32)cpu & (NR_CPUS - 1)];
}

static __always_inline s32 policy_next_sibling(s32 cpu)
{
	return policy_cpu_next[(u32)cpu & (NR_CPUS - 1)];
}

/* A bit that no sibling of @cpu has. */
static __always_inline u32 policy_core_bit(s32 cpu)
{
	return 1U << (policy_cpu_rank[(u32)cpu & (NR_CPUS - 1)] & (MAX_CORE_CPUS - 1));
}

/**
 * for_each_sibling - each other CPU of @cpu's core, the next one first
 * @sibling: an s32
 * @i: a u32, the verifier's
 */
#define for_each_sibling(sibling, i, cpu)                   \
	for ((sibling) = policy_next_sibling(cpu), (i) = 0; \
	     (sibling) != (cpu) && (i) < MAX_CORE_CPUS - 1; \
	     (sibling) = policy_next_sibling(sibling), (i)++)

#endif /* __CORES_BPF_H */
