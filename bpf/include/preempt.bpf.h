/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies in which a task that becomes runnable takes the CPU of one that matters less.
 */
#ifndef __PREEMPT_BPF_H
#define __PREEMPT_BPF_H

#include "policy.bpf.h"

/**
 * policy_rank - how much the running task @p can wait: the policy defines it
 *
 * The task with the largest rank makes room first; one of rank 0 for nobody.
 */
static __always_inline u64 policy_rank(struct task_struct *p);

/*
 * Rank of the task that runs on @cpu, 0 if it does not make room for anybody. Not static: the
 * verifier looks at it once, and not in each round of the loop around it.
 */
__noinline u64 policy_rank_on(s32 cpu)
{
	struct task_struct *curr;
	u64 rank = 0;

	bpf_rcu_read_lock();
	curr = __COMPAT_scx_bpf_cpu_curr(cpu);
	/* An idle one is woken otherwise; tasks of a higher class stay. */
	if (curr && curr->pid && curr->prio >= 100)
		rank = policy_rank(curr);
	bpf_rcu_read_unlock();
	return rank;
}

/**
 * policy_find_victim - the CPU whose task can wait longest, if longer than @rank
 *
 * O(CPUs). The tasks may change meanwhile: then another one makes room than would have been
 * best, and goes on as soon as its CPU asks for the next. Return: -1 if there is none that @p
 * may use.
 */
static __always_inline s32 policy_find_victim(struct task_struct *p, u64 rank)
{
	s32 victim = -1;
	u64 theirs;
	u32 cpu;

	bpf_for (cpu, 0, policy_nr_cpus) {
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		theirs = policy_rank_on(cpu);
		if (theirs > rank) {
			rank = theirs;
			victim = cpu;
		}
	}
	return victim;
}

/**
 * policy_find_cpu - make a CPU take @p, which has just been queued: an idle one, or the one
 * whose task can wait longest
 * @rank: that of @p
 *
 * Return: whether a task has to make room.
 */
static __always_inline bool policy_find_cpu(struct task_struct *p, u64 rank)
{
	s32 cpu;

	if (policy_kick_idle(p))
		return false;
	cpu = policy_find_victim(p, rank);
	if (cpu < 0)
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	return true;
}

#endif /* __PREEMPT_BPF_H */
