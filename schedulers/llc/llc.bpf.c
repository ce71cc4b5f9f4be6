// SPDX-License-Identifier: GPL-2.0-only
/*
 * llc - a fair queue per last-level cache (LLC); tasks leave theirs only if that is worth it
 *
 * Algorithm. A task waits in the queue of the LLC where it ran last, ordered by virtual time as
 * in vtime. When it becomes runnable it gets an idle CPU there if there is one: the last one,
 * a core that is idle as a whole, a sibling of a busy one, in this order. Otherwise an idle CPU of
 * another LLC takes it, the nearest first. A CPU whose own queue is empty steals from the
 * others, the nearest first. What another NUMA node offers is worth the way only if far_tasks
 * wait for the LLC: one alone is served at home as soon as its cache is worth more.
 *
 * Source. Queues per LLC and stealing between them are scx_rusty's and scx_p2dq's, all in BPF
 * here; `balance` has a process that looks at all LLCs, and evens out busy ones, too.
 *
 * Good for: machines with several LLCs or NUMA nodes and tasks that profit from warm caches.
 * Bad for: shares across LLCs that are all busy (each is fair in itself), one small LLC (vtime
 * does the same with less), latency beside hogs of the same weight.
 *
 * Cost: O(log n) an enqueue, O(1) a dispatch; O(LLCs) if the own one has no idle CPU or no task.
 *
 * Worst case. Who is on a crowded LLC gets less than its share while all CPUs are busy, in the
 * ratio of the tasks per CPU; it never starves, since its own CPUs serve it. With far_tasks
 * above 1, so many tasks less one wait for a CPU of their own node while another is idle.
 *
 * Parameters: slice_us, far_tasks, llc_cpus.
 */
#include "llc.bpf.h"
#include "idle.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(far_tasks, 2, 1, 1024, "tasks", "so many have to wait before another NUMA node helps");

COUNTER_U64(stolen, "tasks that a CPU took from another LLC, since its own had none");
COUNTER_U64(left_home, "tasks that got an idle CPU of another LLC, since their own had none");

/* Whether a CPU of LLC @to may take one of the tasks that wait, or are about to, for LLC @home. */
static __always_inline bool is_worth_it(u32 home, u32 to, u32 about_to)
{
	return policy_llcs_are_near(home, to) ||
	       scx_bpf_dsq_nr_queued(POLICY_DSQ(home)) + about_to >= far_tasks;
}

/*
 * An idle CPU for @p, which was on @cpu last; it is then taken. A negative number if there is
 * none. @about_to: 1 if @p is in no queue yet.
 */
static __always_inline s32 find_idle(struct task_struct *p, s32 cpu, u32 about_to)
{
	u32 home = policy_llc_of(cpu), other, i;
	s32 found;

	if (policy_none_is_idle())
		return -1;
	found = policy_find_idle_at_home(p, cpu);
	if (found >= 0)
		return found;
	bpf_for (i, 1, policy_nr_llcs) {
		other = policy_llc_nth(home, i);
		if (!is_worth_it(home, other, about_to))
			continue;
		found = policy_pick_idle_in(p, other, SCX_PICK_IDLE_CORE);
		if (found < 0)
			found = policy_pick_idle_in(p, other, 0);
		if (found >= 0) {
			COUNT(left_home);
			return found;
		}
	}
	return -1;
}

/**
 * llc_select_cpu - an idle CPU, of the home if there is one, runs @p at once
 */
s32 BPF_STRUCT_OPS(llc_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu;

	if (policy_may_follow_waker(p, prev_cpu, wake_flags))
		cpu = bpf_get_smp_processor_id();
	else
		cpu = find_idle(p, prev_cpu, 1);
	if (cpu < 0)
		return prev_cpu;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, 0);
	return cpu;
}

POLICY_ENQUEUE(llc_enqueue, p, enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);
	u32 llc = policy_llc_of(cpu);
	u64 vtime;

	if (policy_run_overdue(p, slice_us * 1000, enq_flags))
		return;
	vtime = vtime_in(p, llc, cpu, policy_llc_now(llc), slice_us * 1000,
			 enq_flags & SCX_ENQ_WAKEUP);
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(llc), slice_us * 1000, vtime, enq_flags);
	cpu = find_idle(p, cpu, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

POLICY_DISPATCH(llc_dispatch, cpu, prev)
{
	bool runs = prev && prev->scx.flags & SCX_TASK_QUEUED;
	u32 own = policy_llc_of(cpu), other, i;
	u64 vtime;

	policy_see_to_overdue(own);
	if (policy_pick_abandoned(own, slice_us * 1000))
		return;
	if (runs) {
		vtime = vtime_in(prev, own, cpu, policy_llc_now(own), slice_us * 1000, false);
		if (vtime_goes_on(prev, own, cpu, vtime, slice_us * 1000))
			return;
	}
	/* Who would be stolen while @prev can run would only change places with it. */
	if (policy_pick(own) || runs)
		return;
	bpf_for (i, 1, policy_nr_llcs) {
		other = policy_llc_nth(own, i);
		if (is_worth_it(other, own, 0) && policy_pick(other)) {
			COUNT(stolen);
			return;
		}
	}
}

POLICY_INIT()
{
	return policy_create_llc_dsqs() ?: policy_create_llc_masks();
}

POLICY_DEFINE(llc, "a fair queue per last-level cache, stealing by distance and worth",
	      .select_cpu = (void *)llc_select_cpu, .enqueue = (void *)llc_enqueue,
	      .dispatch = (void *)llc_dispatch)
