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
 * @overdue: the agent is too late; otherwise @cpu steals it from another CPU's agent
 *
 * Return: false if a transaction has just got it, or the kernel has taken it away.
 */
static __always_inline bool take_over(struct bpf_iter_scx_dsq *it, struct task_struct *p,
				      struct delegate_task *t, s32 cpu, bool overdue, u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());
	u64 old = t ? t->word : 0;
	bool queued = state_of(old) == DELEGATE_QUEUED, moved;

	if (state_of(old) == DELEGATE_PLACED)
		return false;
	if (queued && __sync_val_compare_and_swap(&t->word, old,
						  word_of(seq_of(old), DELEGATE_FALLBACK)) != old)
		return false;
	moved = move_to_cpu(it, p, t, cpu, enq_flags);
	/* The timer may be interrupted here by an op that counts. */
	if (c && queued)
		__sync_fetch_and_add(!moved    ? &c->nr_left
				     : overdue ? &c->nr_overdue
					       : &c->nr_stolen,
				     1);
	return moved;
}

/**
 * take_overdue - run on @cpu a task that has waited for the agent of @owner for too long
 * @steal: or one that has not
 *
 * Return: true if there was one.
 */
static __always_inline bool take_overdue(struct delegate_agent *agent, s32 owner, s32 cpu,
					 bool steal)
{
	bool moved = false, overdue;
	struct delegate_task *t;
	struct task_struct *p;
	u32 index;
	u64 now;

	if (!somebody_waits(owner))
		return false;
	now = bpf_ktime_get_ns();
	bpf_for_each (scx_dsq, p, queue_of(owner), 0) {
		t = task_word(p, &index);
		overdue = is_overdue(agent, owner, t, now);
		if (!overdue && !steal)
			/* in order of arrival: the others are younger */
			break;
		if (!may_run(p, cpu))
			continue;
		moved = take_over(BPF_FOR_EACH_ITER, p, t, cpu, overdue, 0);
		if (moved)
			break;
	}
	return moved;
}

/*
 * Runs on @cpu what waits for the agent of @owner. Not static, as watch_agent() is not:
 * then the verifier looks at it once and not in each round of the loop around it.
 * Return: whether there was something.
 */
__noinline int help_one(u32 owner, s32 cpu, bool steal)
{
	struct delegate_agent *agent = agent_of(owner);

	return agent && take_overdue(agent, owner, cpu, steal);
}

/**
 * help_others - run on @cpu what waits for the agents of other CPUs
 *
 * What is overdue, such as with the agent of a CPU that is offline. An idle CPU takes
 * what is not, too, for the same reason for which tasks that wake get idle CPUs.
 */
static __always_inline void help_others(s32 cpu, bool idle)
{
	u32 i;

	bpf_for (i, 1, policy_nr_cpus) {
		if (help_one((cpu + i) % policy_nr_cpus, cpu, idle && fast_path))
			break;
	}
}

/*
 * A CPU for a task that nobody has come for: the last it was on, if it can. If the task
 * may run on no other but that one goes offline, the kernel moves it on from there.
 */
static __always_inline s32 rescue_cpu(struct task_struct *p)
{
	s32 last = scx_bpf_task_cpu(p), cpu = last;

	if (!may_run(p, cpu) || *policy_off_flag(cpu))
		cpu = bpf_cpumask_any_distribute(p->cpus_ptr);
	if (cpu < policy_nr_cpus && !*policy_off_flag(cpu))
		return cpu;
	return may_run(p, last) ? last : -1;
}

/*
 * Tasks that the timer has looked at in a queue. Not on the stack: the verifier would look
 * at each round with its own number. There is one timer, so nobody else writes it.
 */
static u32 nr_rescued;

/*
 * A CPU that always has something in its own queue never dispatches, so tasks that the
 * agent has forgotten, or that BPF has queued itself, could wait for ever. The timer puts
 * them at the head of a CPU's own queue, some of them at a time.
 */
static __always_inline void rescue_overdue(struct delegate_agent *agent, s32 owner, u64 now)
{
	struct delegate_task *t;
	struct task_struct *p;
	u32 index;
	s32 cpu;

	nr_rescued = 0;
	bpf_for_each (scx_dsq, p, queue_of(owner), 0) {
		t = task_word(p, &index);
		if (nr_rescued++ == RESCUE_BATCH || !is_overdue(agent, owner, t, now))
			break;
		cpu = rescue_cpu(p);
		if (cpu >= 0)
			take_over(BPF_FOR_EACH_ITER, p, t, cpu, true, SCX_ENQ_HEAD);
	}
}

/* Whether what is in Q_FALLBACK should not be: its CPU has an agent that is asked, or is offline.
 */
static __always_inline bool is_left_over(struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct delegate_agent *agent;

	if (!per_cpu || *policy_off_flag(cpu))
		return true;
	agent = agent_of(cpu);
	return agent && delegating(agent);
}

static __always_inline void rescue_fallback(void)
{
	struct task_struct *p;
	u32 index;
	s32 cpu;

	nr_rescued = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(Q_FALLBACK), 0) {
		if (nr_rescued++ == RESCUE_BATCH)
			break;
		if (!is_left_over(p))
			continue;
		cpu = rescue_cpu(p);
		if (cpu >= 0)
			move_to_cpu(BPF_FOR_EACH_ITER, p, task_word(p, &index), cpu, SCX_ENQ_HEAD);
	}
}

enum { WATCH_ASKING = 1, WATCH_KICK = 2 };

/*
 * Looks after the agent of @owner, which starts over if it was @misled: not told everything.
 * Return: whether BPF waits for its decisions, and whether idle CPUs have to look for work,
 * which they do not by themselves.
 */
__noinline int watch_agent(u32 owner, bool misled)
{
	struct delegate_agent *agent = agent_of(owner);
	int ret = WATCH_KICK;

	if (!agent || !READ_ONCE(agent->present))
		return 0;
	if (misled)
		fall_silent(agent, owner, bpf_ktime_get_ns());
	/* Iterating wants it. The timer has it anyway, but what is not static does not know. */
	bpf_rcu_read_lock();
	rescue_overdue(agent, owner, bpf_ktime_get_ns());
	bpf_rcu_read_unlock();
	if (delegating(agent))
		ret = WATCH_ASKING | (agent->txn_head != agent->txn_tail ? WATCH_KICK : 0);
	return ret;
}

static int delegate_watch(void *map, u32 *key, struct delegate_timer *timer)
{
	u32 cpu, nr_agents = per_cpu ? policy_nr_cpus : 1;
	bool strays = READ_ONCE(delegate_strays);
	int seen = 0;

	/* First: an agent that starts over after this is told everything again. */
	if (strays)
		look_for_strays();
	bpf_for (cpu, 0, nr_agents)
		seen |= watch_agent(cpu, strays);
	if (seen & WATCH_ASKING)
		rescue_fallback();
	if (seen & WATCH_KICK) {
		bpf_for (cpu, 0, policy_nr_cpus)
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	}
	bpf_timer_start(&timer->timer, agent_timeout_us * 500, 0);
	return 0;
}

#endif /* __DELEGATE_FALLBACK_BPF_H */
