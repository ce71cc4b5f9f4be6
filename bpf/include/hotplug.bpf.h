/* SPDX-License-Identifier: GPL-2.0-only */
/* The policy SDK: CPUs that come and go. */
#ifndef __HOTPLUG_BPF_H
#define __HOTPLUG_BPF_H

#include "queues.bpf.h"

/* Set by the framework: CPU ids are below this. */
const volatile u32 policy_nr_cpus = 1;

/*
 * CPUs that went offline under this policy, and queues that no other CPU serves first;
 * hotplug is serialized by the kernel.
 */
static bool policy_cpu_is_off[NR_CPUS];
static bool policy_queue_is_off[NR_CPUS];
static u32 policy_nr_off;

/* Where a CPU's flag is; the mask is for the verifier, ids are below NR_CPUS. */
static __always_inline bool *policy_off_flag(s32 cpu)
{
	return &policy_cpu_is_off[(u32)cpu & (NR_CPUS - 1)];
}

/* Whether @cpu may take @p from a queue. The kernel moves nothing to a CPU that is going. */
static __always_inline bool policy_may_take(struct task_struct *p, s32 cpu)
{
	return bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
	       (likely(!*policy_off_flag(cpu)) || scx_bpf_task_cpu(p) == cpu);
}

/**
 * policy_pick_orphan - take a task from the queue of CPUs that went offline
 *
 * Nobody else would: they no longer dispatch, the others may never be idle and
 * steal, and the kernel waits for the tasks of a CPU that is going.
 * Return: true if there was one.
 */
static __always_inline bool policy_pick_orphan(void)
{
	u32 i;

	if (likely(!policy_nr_off))
		return false;
	bpf_for (i, 0, policy_nr_dsqs) {
		if (i < NR_CPUS && policy_queue_is_off[i & (NR_CPUS - 1)] && policy_pick(i))
			return true;
	}
	return false;
}

/* Notes whether queue @n has lost the last of the CPUs that serve it first. */
static __always_inline void policy_note_queue(u32 n)
{
	/* A CPU that is going is still in here; one that never was under us is not. */
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	bool is_off = true;
	u32 i;

	bpf_for (i, 0, policy_nr_cpus) {
		if (POLICY_QUEUE_OF(i) == n && !*policy_off_flag(i) &&
		    bpf_cpumask_test_cpu(i, online))
			is_off = false;
	}
	scx_bpf_put_cpumask(online);
	policy_queue_is_off[n & (NR_CPUS - 1)] = is_off;
}

static __always_inline void policy_note_online(s32 cpu)
{
	bool *off = policy_off_flag(cpu);

	if (*off) {
		*off = false;
		policy_nr_off--;
	}
	policy_note_queue(POLICY_QUEUE_OF(cpu));
}

struct policy_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct policy_timer);
} policy_leave_timer SEC(".maps");

/* The CPU that went offline last. */
static s32 policy_leaver = -1;

/* How often the CPU that is going is told to look, ns. */
#define POLICY_LEAVE_PERIOD (1000 * 1000)

/*
 * A policy whose queues nobody else may take tasks from sees to those itself that are tied to a
 * CPU that goes.
 */
#ifndef POLICY_SEES_TO_TIED
/* Tasks of a queue that are looked at in one go. */
#define POLICY_LEAVE_BATCH 4096

/*
 * Tasks of a queue that the timer has looked at. Not on the stack: the verifier would look at each
 * round. There is one timer, so nobody else writes it.
 */
static u32 policy_nr_left;

/*
 * Moves tasks of queue @n that may run on none of @others to where they wait for their CPU alone.
 * The kernel gives them other CPUs when they come out of that.
 */
static __noinline void policy_push_tied(u32 n, struct bpf_cpumask *others)
{
	struct task_struct *p;

	policy_nr_left = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(n), 0) {
		if (policy_nr_left++ == POLICY_LEAVE_BATCH)
			break;
		if (!bpf_cpumask_intersects((const struct cpumask *)others, p->cpus_ptr))
			scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p,
					 SCX_DSQ_LOCAL_ON | scx_bpf_task_cpu(p), 0);
	}
}

/* Does so with all queues. */
static void policy_push_all_tied(s32 leaver, const struct cpumask *online)
{
	struct bpf_cpumask *others = bpf_cpumask_create();
	u32 i;

	/* Out of memory: the timer comes again. */
	if (!others)
		return;
	bpf_cpumask_copy(others, online);
	bpf_cpumask_clear_cpu(leaver, others);
	bpf_for (i, 0, policy_nr_dsqs) {
		if (scx_bpf_dsq_nr_queued(POLICY_DSQ(i)) > 0)
			policy_push_tied(i, others);
	}
	bpf_cpumask_release(others);
}
#endif /* POLICY_SEES_TO_TIED */

static int policy_push_leaver(void *map, u32 *key, struct policy_timer *timer)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	s32 cpu = policy_leaver;
	bool going = cpu >= 0 && cpu < policy_nr_cpus && *policy_off_flag(cpu) &&
		     bpf_cpumask_test_cpu(cpu, online);

#ifndef POLICY_SEES_TO_TIED
	if (going)
		policy_push_all_tied(cpu, online);
#endif
	scx_bpf_put_cpumask(online);
	if (!going)
		return 0;
	scx_bpf_kick_cpu(cpu, 0);
	bpf_timer_start(&timer->timer, POLICY_LEAVE_PERIOD, 0);
	return 0;
}

/**
 * policy_see_off - see to it that @cpu, which is going, can go
 *
 * The kernel waits until nobody is on the CPU's run queue, and it looks for that when the
 * CPU schedules. But what waits in a DSQ is on a run queue, and others can take it from
 * there while the CPU is idle and has nothing to schedule for: it would wait for ever. And
 * the CPU does schedule, but asks us for nothing any more: what is tied to it would wait
 * for ever, too.
 */
static __always_inline void policy_see_off(s32 cpu)
{
	struct policy_timer *timer = bpf_map_lookup_elem(&policy_leave_timer, &(u32){0});

	policy_leaver = cpu;
	if (timer)
		bpf_timer_start(&timer->timer, POLICY_LEAVE_PERIOD, 0);
}

/*
 * For the policy's init, since tracepoint programs may not have tasks moved. Return: 0 or a
 * negative errno.
 */
static __always_inline s32 policy_init_leave_timer(void)
{
	struct policy_timer *timer = bpf_map_lookup_elem(&policy_leave_timer, &(u32){0});

	if (!timer)
		return -ENOENT;
	return bpf_timer_init(&timer->timer, &policy_leave_timer, CLOCK_MONOTONIC)
		       ?: bpf_timer_set_callback(&timer->timer, policy_push_leaver);
}

static __always_inline void policy_note_offline(s32 cpu)
{
	bool *off = policy_off_flag(cpu);
	u32 i;

	if (!*off) {
		*off = true;
		policy_nr_off++;
	}
	policy_note_queue(POLICY_QUEUE_OF(cpu));
	/* Somebody has to come and fetch what waits there. */
	bpf_for (i, 0, policy_nr_cpus)
		scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
	policy_see_off(cpu);
}

/* Notes the CPUs that have come back while another policy was in force. */
static __always_inline void policy_note_all_online(void)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	u32 i;

	bpf_for (i, 0, policy_nr_cpus) {
		if (*policy_off_flag(i) && bpf_cpumask_test_cpu(i, online))
			policy_note_online(i);
	}
	scx_bpf_put_cpumask(online);
}

/* That the two exist keeps the kernel from ending the scheduler on hotplug. */
void BPF_STRUCT_OPS(policy_cpu_online, s32 cpu)
{
	policy_note_online(cpu);
}

void BPF_STRUCT_OPS(policy_cpu_offline, s32 cpu)
{
	policy_note_offline(cpu);
}

/*
 * From the step that makes a CPU inactive on the kernel asks it for nothing, but tells us only
 * after a grace period. What waits in its queue would wait that long, and if a thread that the
 * grace period needs is among it, and the other CPUs are never idle, for ever. So a policy is
 * told before that step, in force or not: it may come into force in between.
 */
static __always_inline bool policy_is_last_active(int step)
{
	return step == (int)bpf_core_enum_value(enum cpuhp_state, CPUHP_AP_ACTIVE);
}

/**
 * policy_cpu_goes - note that @cpu is about to go
 */
SEC("tp_btf/cpuhp_enter")
int BPF_PROG(policy_cpu_goes, unsigned int cpu, int target, int step, void *fun)
{
	if (policy_is_last_active(step) && target < step)
		policy_note_offline(cpu);
	return 0;
}

/**
 * policy_cpu_stays - note that @cpu does not go, since the kernel needs it
 */
SEC("tp_btf/cpuhp_exit")
int BPF_PROG(policy_cpu_stays, unsigned int cpu, int state, int step, int ret)
{
	if (policy_is_last_active(step) && ret)
		policy_note_online(cpu);
	return 0;
}

#endif /* __HOTPLUG_BPF_H */
