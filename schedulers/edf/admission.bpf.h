/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * edf: the admission check, which keeps the sum of what is promised below admit_pct of the CPUs.
 * Included once, by edf.bpf.c.
 */
#ifndef __ADMISSION_BPF_H
#define __ADMISSION_BPF_H

/* Sum of what is admitted; ONE_CPU is a CPU. */
static unsigned long long admitted;
#define UTIL_SHIFT 20
#define ONE_CPU	   (1ULL << UTIL_SHIFT)

/* Who was admitted before other policies were in force has to ask again. */
#define POLICY_CATCH_UP() (admitted = 0)

#include "policy.bpf.h"

PARAM_U64(admit_pct, 90, 1, 100, "%", "part of the CPUs that may be promised to tasks");

/* Promises @util. CPUs that ask at the same time may all be refused, and ask again. */
static __always_inline bool admit(u64 util)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	u64 limit = bpf_cpumask_weight(online) * ONE_CPU * admit_pct / 100;

	scx_bpf_put_cpumask(online);
	if (__sync_fetch_and_add(&admitted, util) + util <= limit)
		return true;
	__sync_fetch_and_sub(&admitted, util);
	return false;
}

#endif /* __ADMISSION_BPF_H */
