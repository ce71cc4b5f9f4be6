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

/* The mask is for the verifier: there are MAX_LLCS at most. */
static __always_inline u32 policy_llc_of(s32 cpu)
{
	return policy_cpu_llc[(u32)cpu & (NR_CPUS - 1)] & (MAX_LLCS - 1);
}

#endif /* __LLC_BPF_H */
