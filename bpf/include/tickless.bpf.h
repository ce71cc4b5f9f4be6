/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies under which CPUs run without ticks: the kernel stops the tick of a CPU in nohz_full
 * if the task that it switches to has an infinite slice. Somebody else has to see to it then that
 * it makes room.
 */
#ifndef __TICKLESS_BPF_H
#define __TICKLESS_BPF_H

#include "policy.bpf.h"

/**
 * policy_infinite_slice - a slice for a task that runs until it blocks or is preempted
 *
 * They end when another policy comes into force.
 */
static __always_inline u64 policy_infinite_slice(void)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});

	if (shared && READ_ONCE(shared->infinite_by) != policy_epoch)
		WRITE_ONCE(shared->infinite_by, policy_epoch);
	return SCX_SLICE_INF;
}

#endif /* __TICKLESS_BPF_H */
