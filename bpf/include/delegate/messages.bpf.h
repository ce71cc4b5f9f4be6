/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: messages to the agent, and whether it is there to hear them. */
#ifndef __DELEGATE_MESSAGES_BPF_H
#define __DELEGATE_MESSAGES_BPF_H

#include "strays.bpf.h"

/**
 * wake_agent - wake the agent of @cpu if it sleeps; only one of many callers does
 *
 * Not static, as announce() is not: the verifier looks at such a function once, and not
 * on each of the many ways to it. What follows costs far more than the call.
 */
__noinline int wake_agent(s32 cpu)
{
	struct delegate_agent *agent = agent_of(cpu);
	void *bell = &delegate_bell;
	u64 ding = 0;
	u32 sleeping;

	/* With one agent it is not used, and the compiler would not pass it: the verifier minds. */
	barrier_var(cpu);
	if (!agent)
		return 0;
	sleeping = READ_ONCE(agent->sleeping);
	if (!sleeping ||
	    __sync_val_compare_and_swap(&agent->sleeping, sleeping, DELEGATE_AWAKE) != sleeping)
		return 0;
	agent->gathered = 0;
	/* It may have slept for long; from here on it has time to answer. */
	agent->beat = bpf_ktime_get_ns();
	if (per_cpu)
		bell = bpf_map_lookup_elem(&delegate_bells, &(u32){agent_nr(cpu)});
	if (bell)
		bpf_ringbuf_output(bell, &ding, sizeof(ding), BPF_RB_FORCE_WAKEUP);
	return 0;
}

/* The same, if one has @agent at hand, which is that of @cpu. */
static __always_inline void ring_bell(struct delegate_agent *agent, s32 cpu)
{
	if (READ_ONCE(agent->sleeping))
		wake_agent(cpu);
}

/* Whether a task waits for the agent of @cpu. */
static __always_inline bool somebody_waits(s32 cpu)
{
	return scx_bpf_dsq_nr_queued(queue_of(cpu)) > 0;
}

/* Whether a message of a kind is about a task that waits for a decision from now on. */
static __always_inline bool asks(u32 kind)
{
	return kind == DELEGATE_WAKEUP || kind == DELEGATE_PREEMPTED || kind == DELEGATE_YIELD;
}

/* Whether a message that asks may lie while its CPU has enough to run. */
#ifdef DELEGATE_BATCH
#define ASKING_CAN_LIE true
#else
#define ASKING_CAN_LIE false
#endif

/* A CPU with fewer tasks in its own queue may soon need a decision. */
#define LOW_WATER 2

static __always_inline bool is_stocked(s32 cpu)
{
	return scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) >= LOW_WATER;
}

/* Whether a CPU for which the same agent decides is idle; of one CPU is_stocked() tells. */
static __always_inline bool any_idle(void)
{
	const struct cpumask *idle;
	bool any;

	if (per_cpu)
		return false;
	idle = scx_bpf_get_idle_cpumask();
	any = !bpf_cpumask_empty(idle);
	scx_bpf_put_idle_cpumask(idle);
	return any;
}

/* Whether a message is about a task that wakes up, and the agent will look at these later. */
static __always_inline bool is_for_later(struct delegate_agent *agent, u32 kind)
{
	return READ_ONCE(agent->sleeping) == DELEGATE_DOZES &&
	       (kind == DELEGATE_TASK_NEW || kind == DELEGATE_WAKEUP);
}

/* Whether there is something to decide after a message about @cpu. */
static __always_inline bool is_urgent(u32 kind, s32 cpu)
{
	if (asks(kind) && !ASKING_CAN_LIE)
		return true;
	return (asks(kind) || somebody_waits(cpu)) && (!is_stocked(cpu) || any_idle());
}

/**
 * announce - wake the agent for a message about @cpu if there is something to decide
 * @filling: the ring that the message is in is half full
 *
 * What happens while nobody waits, or while @cpu has enough to run and no CPU is idle, can be
 * read later, together with what follows; but before the ring is full. Who begins to
 * wait at this moment is queued first and then looks here: the agent that he wakes
 * sees this message too. Of what it was not woken for, remind_agent() makes sure.
 */
__noinline int announce(u32 kind, s32 cpu, bool filling)
{
	struct delegate_agent *agent = agent_of(cpu);

	if (!agent)
		return 0;
	if (filling || (!is_for_later(agent, kind) && is_urgent(kind, cpu)))
		wake_agent(cpu);
	else if (!READ_ONCE(agent->gathered))
		WRITE_ONCE(agent->gathered, 1);
	return 0;
}

/**
 * remind_agent - wake the agent for gathered news if @cpu has less to run than it had
 *
 * Called when @cpu switches. An agent that has heard everything and lets tasks wait is
 * not woken: it has its reasons, and would be at every switch; nor one that dozes. Who
 * sets @gathered after this look does so for a CPU that has yet to switch, or to tell
 * that its task sleeps.
 */
static __always_inline void remind_agent(struct delegate_agent *agent, s32 cpu)
{
	if (READ_ONCE(agent->sleeping) == DELEGATE_SLEEPS && READ_ONCE(agent->gathered) &&
	    !is_stocked(cpu) && somebody_waits(cpu))
		ring_bell(agent, cpu);
}

/**
 * post - write a message
 * @t: whom it is about, or NULL for a CPU
 *
 * Into the ring of the CPU that this runs on: with interrupts off nobody else writes
 * there. With an agent for each CPU, into the ring of @about_cpu, whose agent is the one
 * to be told: its run queue is locked wherever that can be another CPU than this.
 * Return: false if the ring is full.
 */
static __always_inline bool post(struct delegate_agent *agent, u32 kind, s32 about_cpu,
				 struct delegate_task *t, u32 index, u64 seq, u64 now)
{
	u32 cpu = per_cpu ? about_cpu : bpf_get_smp_processor_id();
	struct delegate_cpu *c = cpu_word(cpu);
	struct delegate_msg *m;
	u32 at;

	if (!c)
		return false;
	if (c->head - READ_ONCE(c->tail) > delegate_ring_mask) {
		c->nr_full++;
		return false;
	}
	at = cpu * (delegate_ring_mask + 1) + (c->head & delegate_ring_mask);
	m = bpf_map_lookup_elem(&delegate_msgs, &at);
	if (!m)
		return false;
	m->seq = seq;
	m->time = now;
	m->task = index;
	m->cpu = about_cpu;
	m->kind = kind;
	if (t) {
		m->runtime = t->runtime;
		m->affinity = t->affinity[0];
		m->pid = t->pid;
		m->weight = t->weight;
	}
	/* A full barrier: the agent that sees the new head sees the message. */
	__sync_fetch_and_add(&c->head, 1);
	if (READ_ONCE(agent->sleeping))
		announce(kind, about_cpu, c->head - READ_ONCE(c->tail) > delegate_ring_mask / 2);
	return true;
}

/* Whether the agent is there and answers in time, and may be asked. */
static __always_inline bool delegating(struct delegate_agent *agent)
{
	return READ_ONCE(agent->present) && !READ_ONCE(agent->silent) &&
	       !(per_cpu && READ_ONCE(agent->offline)) && !READ_ONCE(delegate_strays);
}

/* From now on, until the agent of @cpu gives a sign of life, BPF decides. */
static __always_inline void fall_silent(struct delegate_agent *agent, s32 cpu, u64 now)
{
	if (!__sync_lock_test_and_set(&agent->silent, 1)) {
		agent->nr_silent++;
		agent->silent_since = now;
		ring_bell(agent, cpu);
	}
}

/**
 * is_overdue - whether a task has waited for the agent of @cpu for too long
 *
 * An agent that sleeps has heard all there is to hear, and one that has been about its
 * work lately may have reasons to let the task wait, within limits. One that is neither is
 * stopped, stuck or slow, and nobody waits for it any more.
 */
static __always_inline bool is_overdue(struct delegate_agent *agent, s32 cpu,
				       struct delegate_task *t, u64 now)
{
	u64 limit = agent_timeout_us * 1000;
	s64 waited, quiet;

	if (!t || !delegating(agent))
		return true;
	waited = now - t->queued_at;
	quiet = now - READ_ONCE(agent->beat);
	if (waited >= (s64)limit && quiet >= (s64)limit && !READ_ONCE(agent->sleeping)) {
		fall_silent(agent, cpu, now);
		return true;
	}
	return waited >= (s64)(max_wait_us * 1000);
}

/**
 * tell_on - post a message about something that happened to @p on @cpu, in state @state
 *
 * For events after which nobody has to decide.
 */
static __always_inline void tell_on(s32 cpu, struct task_struct *p, struct delegate_task *t,
				    u32 index, u32 kind, u64 state)
{
	struct delegate_agent *agent = agent_of(cpu);
	u64 seq;

	t->runtime = p->se.sum_exec_runtime;
	seq = step(t, state);
	if (agent && delegating(agent) &&
	    !post(agent, kind, cpu, t, index, seq, bpf_ktime_get_ns()))
		/* The agent's picture is wrong from here on: it starts over. */
		fall_silent(agent, cpu, bpf_ktime_get_ns());
}

/* The same on the CPU that @p is on. */
static __always_inline void tell(struct task_struct *p, struct delegate_task *t, u32 index,
				 u32 kind, u64 state)
{
	tell_on(scx_bpf_task_cpu(p), p, t, index, kind, state);
}

#endif /* __DELEGATE_MESSAGES_BPF_H */
