/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: what BPF does without the agent, so that nobody waits for it without limit. */
#ifndef __DELEGATE_FALLBACK_BPF_H
#define __DELEGATE_FALLBACK_BPF_H

#include "transactions.bpf.h"
#include "vtime.bpf.h"

/* Slice of a task that BPF schedules, ns. */
#define FALLBACK_SLICE (10ULL * 1000 * 1000)
/* Tasks that the timer rescues of each queue at once. */
#define RESCUE_BATCH 32

/* BPF schedules @p itself, by virtual time. */
static __always_inline void fall_back(struct task_struct *p, u64 enq_flags)
{
	u64 vtime = vtime_of(p, Q_FALLBACK, FALLBACK_SLICE, enq_flags & SCX_ENQ_WAKEUP);

	policy_queue_vtime(p, Q_FALLBACK, FALLBACK_SLICE, vtime, enq_flags);
}

/**
 * take_over - take a task from the agent and move it to @cpu
 *
 * Return: false if a transaction has just got it, or the kernel has taken it away.
 */
static __always_inline bool take_over(struct bpf_iter_scx_dsq *it, struct task_struct *p,
				      struct delegate_task *t, s32 cpu, u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());
	u64 old = t ? t->word : 0;
	bool queued = (old & DELEGATE_STATE_MASK) == DELEGATE_QUEUED, moved;

	if ((old & DELEGATE_STATE_MASK) == DELEGATE_PLACED)
		return false;
	if (queued &&
	    __sync_val_compare_and_swap(
		    &t->word, old, word_of(old >> DELEGATE_STATE_BITS, DELEGATE_FALLBACK)) != old)
		return false;
	moved = scx_bpf_dsq_move(it, p, SCX_DSQ_LOCAL_ON | cpu, enq_flags);
	/* The timer may be interrupted here by an op that counts. */
	if (c && queued && moved)
		__sync_fetch_and_add(&c->nr_overdue, 1);
	else if (c && queued)
		__sync_fetch_and_add(&c->nr_left, 1);
	return moved;
}

/**
 * take_overdue - run a task that has waited for the agent for too long
 *
 * Return: true if there was one.
 */
static __always_inline bool take_overdue(struct delegate_agent *agent, s32 cpu)
{
	u64 now = bpf_ktime_get_ns();
	bool moved = false;
	struct delegate_task *t;
	struct task_struct *p;
	u32 index;

	if (!scx_bpf_dsq_nr_queued(POLICY_DSQ(Q_AGENT)))
		return false;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(Q_AGENT), 0) {
		t = task_word(p, &index);
		if (!is_overdue(agent, t, now))
			/* in order of arrival: the others are younger */
			break;
		if (!may_run(p, cpu))
			continue;
		moved = take_over(BPF_FOR_EACH_ITER, p, t, cpu, 0);
		if (moved)
			break;
	}
	return moved;
}

/* A CPU for a task that nobody has come for: the last it was on, if it can. */
static __always_inline s32 rescue_cpu(struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);

	if (!may_run(p, cpu) || *policy_off_flag(cpu))
		cpu = bpf_cpumask_any_distribute(p->cpus_ptr);
	return cpu < policy_nr_cpus && !*policy_off_flag(cpu) ? cpu : -1;
}

/*
 * A CPU that always has something in its own queue never dispatches, so tasks that the
 * agent has forgotten, or that BPF has queued itself, could wait for ever. The timer puts
 * them at the head of a CPU's own queue, some of them at a time.
 */
static __always_inline void rescue_overdue(struct delegate_agent *agent, u64 now)
{
	struct delegate_task *t;
	struct task_struct *p;
	u32 index, n = 0;
	s32 cpu;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(Q_AGENT), 0) {
		t = task_word(p, &index);
		if (n++ == RESCUE_BATCH || !is_overdue(agent, t, now))
			break;
		cpu = rescue_cpu(p);
		if (cpu >= 0)
			take_over(BPF_FOR_EACH_ITER, p, t, cpu, SCX_ENQ_HEAD);
	}
}

static __always_inline void rescue_fallback(void)
{
	struct task_struct *p;
	u32 n = 0;
	s32 cpu;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(Q_FALLBACK), 0) {
		if (n++ == RESCUE_BATCH)
			break;
		cpu = rescue_cpu(p);
		if (cpu >= 0)
			scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL_ON | cpu,
					 SCX_ENQ_HEAD);
	}
}

static int delegate_watch(void *map, u32 *key, struct delegate_timer *timer)
{
	struct delegate_agent *agent = the_agent();
	u64 now = bpf_ktime_get_ns();
	u32 cpu;

	if (agent && READ_ONCE(agent->present)) {
		rescue_overdue(agent, now);
		if (delegating(agent))
			rescue_fallback();
		/* Idle CPUs do not look by themselves. */
		if (!delegating(agent) || agent->txn_head != agent->txn_tail) {
			bpf_for (cpu, 0, policy_nr_cpus)
				scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		}
	}
	bpf_timer_start(&timer->timer, agent_timeout_us * 500, 0);
	return 0;
}

#endif /* __DELEGATE_FALLBACK_BPF_H */
