/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Idle CPUs by topology, for policies with a queue per last-level cache (LLC): whole cores
 * first, then siblings of busy ones, in one LLC. The kernel's own choice goes to an idle core
 * of any LLC before it takes a sibling in the same.
 */
#ifndef __IDLE_BPF_H
#define __IDLE_BPF_H

#include "llc.bpf.h"
#include "masks.bpf.h"

/* The CPUs of each LLC, as policy_create_llc_masks() has made them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LLCS);
	__type(key, u32);
	__type(value, struct policy_mask);
} policy_llc_masks SEC(".maps");

/**
 * policy_create_llc_masks - for POLICY_INIT of who uses the functions below
 */
static __always_inline s32 policy_create_llc_masks(void)
{
	s32 ret, cpu;
	u32 i;

	bpf_for (i, 0, policy_nr_llcs) {
		ret = policy_new_mask(bpf_map_lookup_elem(&policy_llc_masks, &i));
		if (ret)
			return ret;
	}
	bpf_for (cpu, 0, policy_nr_cpus) {
		i = policy_llc_of(cpu);
		policy_set_in_mask(bpf_map_lookup_elem(&policy_llc_masks, &i), cpu, true);
	}
	return policy_create_scratch_masks();
}

/**
 * policy_pick_idle_in - an idle CPU of @llc for @p, which is then taken
 * @flags: 0, or SCX_PICK_IDLE_CORE for one whose siblings are idle, too
 *
 * Return: -1 or another negative number if there is none.
 */
static __always_inline s32 policy_pick_idle_in(struct task_struct *p, u32 llc, u64 flags)
{
	return policy_pick_idle_of(p, bpf_map_lookup_elem(&policy_llc_masks, &llc), flags);
}

/**
 * policy_find_idle_at_home - an idle CPU of @cpu's LLC for @p, which is then taken
 * @cpu: where its cache is warm; it comes first, but for a core that is idle as a whole
 *
 * Return: a negative number if there is none.
 */
static __always_inline s32 policy_find_idle_at_home(struct task_struct *p, s32 cpu)
{
	u32 llc = policy_llc_of(cpu);
	bool allowed = bpf_cpumask_test_cpu(cpu, p->cpus_ptr);
	s32 found;

	if (allowed && policy_core_is_idle(cpu) && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	found = policy_pick_idle_in(p, llc, SCX_PICK_IDLE_CORE);
	if (found >= 0)
		return found;
	if (allowed && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	return policy_pick_idle_in(p, llc, 0);
}

/* How long an empty queue is taken to be empty still, ns. */
#define EMPTY_FOR_NS 100000

/* Of each CPU, when it saw the queue of its LLC empty. */
static u64 seen_empty[NR_CPUS];

/**
 * policy_queue_is_empty - whether nobody waits in the queue of @llc, that of this CPU, @cpu
 *
 * To look is to look up the DSQ by its number, a quarter of what a wakeup costs a policy: once in a
 * while is enough. Who is queued meanwhile waits that much longer behind tasks that wake each other
 * in turns, but no longer: they never get to dispatch, where the queue is asked. The time is that
 * at which who runs here began to, or had a tick, which is there to be read. For select_cpu only,
 * where no other program of this CPU gets between.
 */
static __always_inline bool policy_queue_is_empty(u32 llc, s32 cpu)
{
	u64 now = bpf_get_current_task_btf()->se.exec_start;
	u64 *seen = &seen_empty[cpu & (NR_CPUS - 1)];

	if (now - *seen < EMPTY_FOR_NS)
		return true;
	if (scx_bpf_dsq_nr_queued(POLICY_DSQ(llc)))
		return false;
	*seen = now;
	return true;
}

/**
 * policy_waker_makes_room - whether @p is woken by who says that it is about to sleep, in the same
 * LLC, and nobody else waits there
 * @prev_cpu: where @p ran last
 *
 * For select_cpu only, of a policy with a queue per LLC. Interrupts say so for whom they interrupt.
 */
static __always_inline bool policy_waker_makes_room(struct task_struct *p, s32 prev_cpu,
						    u64 wake_flags)
{
	s32 cpu = bpf_get_smp_processor_id();
	u32 llc = policy_llc_of(cpu);

	return wake_flags & SCX_WAKE_SYNC && llc == policy_llc_of(prev_cpu) &&
	       bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) &&
	       policy_queue_is_empty(llc, cpu);
}

/**
 * policy_may_follow_waker - whether @p may run where its waker is, which is about to sleep
 * @prev_cpu: where @p ran last
 *
 * For select_cpu only, of a policy with a queue per LLC. As in policy_find_idle(), only while
 * nobody else waits there; and only if a CPU is idle, since otherwise it has to queue like the
 * others.
 */
static __always_inline bool policy_may_follow_waker(struct task_struct *p, s32 prev_cpu,
						    u64 wake_flags)
{
	return policy_waker_makes_room(p, prev_cpu, wake_flags) && !policy_none_is_idle();
}

#endif /* __IDLE_BPF_H */
