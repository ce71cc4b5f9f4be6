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

/**
 * policy_end_infinite_slices - end those of the tasks that run, once this policy is not in force
 *
 * For a timer of the policy, to be called until it returns false: the agent, which ends them all,
 * waits for a grace period before, and who runs without an end may keep a CPU from the kernel's
 * threads that end one. Return: whether there may be more.
 */
static __always_inline bool policy_end_infinite_slices(void)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	struct task_struct *curr;
	u32 cpu;

	if (!shared || READ_ONCE(shared->infinite_by) != policy_epoch)
		return false;
	bpf_rcu_read_lock();
	bpf_for (cpu, 0, policy_nr_cpus) {
		curr = __COMPAT_scx_bpf_cpu_curr(cpu);
		if (curr && curr->scx.slice == SCX_SLICE_INF)
			scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	}
	bpf_rcu_read_unlock();
	return true;
}

#endif /* __TICKLESS_BPF_H */
