/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For policies that put a task off its CPU though no other is to run there: include it beside
 * policy.bpf.h and call policy_policy_init_evictors() in POLICY_INIT.
 *
 * Without SCX_OPS_ENQ_LAST, which is all or nothing in the root, the kernel lets the task
 * that runs go on if dispatch finds nothing else. A kernel thread takes its place: a timer,
 * since dispatch runs under the lock of the run queue and wakes nobody, queues a work item,
 * and the worker comes for that. The task is queued then, and the policy's enqueue decides.
 */
#ifndef __EVICT_BPF_H
#define __EVICT_BPF_H

#include "policy.bpf.h"

/* What puts a task off its CPU. */
struct evictor {
	struct bpf_timer timer;
	struct bpf_wq work;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_CPUS);
	__type(key, u32);
	__type(value, struct evictor);
} evictors SEC(".maps");

/* The scx headers lack these; until v6.19 the third had its hidden argument in sight. */
extern int bpf_wq_init(struct bpf_wq *wq, void *map, unsigned int flags) __ksym __weak;
extern int bpf_wq_start(struct bpf_wq *wq, unsigned int flags) __ksym __weak;
extern int bpf_wq_set_callback(struct bpf_wq *wq, int (*callback)(void *, int *, void *),
			       unsigned int flags) __ksym __weak;
extern int bpf_wq_set_callback_impl(struct bpf_wq *wq, int (*callback)(void *, int *, void *),
				    unsigned int flags, void *aux__ign) __ksym __weak;

/* How long a task goes on that is about to be put off its CPU, ns. */
#define LAST_SLICE (1000 * 1000)

/**
 * policy_put_off - put @prev off @cpu, which is this one, soon
 *
 * For POLICY_DISPATCH, when it has found nothing else to run.
 */
static __always_inline void policy_put_off(s32 cpu, struct task_struct *prev)
{
	struct evictor *e = bpf_map_lookup_elem(&evictors, &(u32){cpu});

	scx_bpf_task_set_slice(prev, LAST_SLICE);
	if (e)
		bpf_timer_start(&e->timer, 0, BPF_F_TIMER_CPU_PIN);
}

static int evict(void *map, u32 *key, struct evictor *e)
{
	/* The worker is one of this CPU. It comes to the local queue before the kick counts. */
	bpf_wq_start(&e->work, 0);
	scx_bpf_kick_cpu(bpf_get_smp_processor_id(), SCX_KICK_PREEMPT);
	return 0;
}

static int nothing(void *map, int *key, void *e)
{
	return 0;
}

/* The number of a CPU, not on the stack: the verifier would look at each round. */
static u32 next_evictor;

/* For POLICY_INIT. Return: 0 or a negative errno. */
static __always_inline s32 policy_init_evictors(void)
{
	struct evictor *e;
	s32 ret;
	u32 i;

	bpf_for (i, 0, policy_nr_cpus) {
		next_evictor = i;
		e = bpf_map_lookup_elem(&evictors, &next_evictor);
		if (!e)
			break;
		ret = bpf_timer_init(&e->timer, &evictors, CLOCK_MONOTONIC) ?:
		      bpf_timer_set_callback(&e->timer, evict) ?:
		      bpf_wq_init(&e->work, &evictors, 0);
		if (ret)
			return ret;
		ret = bpf_ksym_exists(bpf_wq_set_callback_impl)
			      ? bpf_wq_set_callback_impl(&e->work, nothing, 0, NULL)
			      : bpf_wq_set_callback(&e->work, nothing, 0);
		if (ret)
			return ret;
	}
	return 0;
}

#endif /* __EVICT_BPF_H */
