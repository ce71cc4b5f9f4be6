/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: messages to the agent, and whether it is there to hear them. */
#ifndef __DELEGATE_MESSAGES_BPF_H
#define __DELEGATE_MESSAGES_BPF_H

#include "words.bpf.h"

/* Wakes the agent if it sleeps. Only one of many callers does. */
static __always_inline void ring_bell(struct delegate_agent *agent)
{
	u64 ding = 0;

	if (READ_ONCE(agent->sleeping) &&
	    __sync_val_compare_and_swap(&agent->sleeping, 1, 0) == 1) {
		/* It may have slept for long; from here on it has time to answer. */
		agent->beat = bpf_ktime_get_ns();
		bpf_ringbuf_output(&delegate_bell, &ding, sizeof(ding), BPF_RB_FORCE_WAKEUP);
	}
}

/**
 * post - write a message
 * @t: whom it is about, or NULL for a CPU
 *
 * Return: false if the ring is full.
 */
static __always_inline bool post(struct delegate_agent *agent, u32 kind, s32 about_cpu,
				 struct delegate_task *t, u32 index, u64 seq, u64 now)
{
	u32 cpu = bpf_get_smp_processor_id();
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
	ring_bell(agent);
	return true;
}

/* Whether the agent is there and answers in time. */
static __always_inline bool delegating(struct delegate_agent *agent)
{
	return READ_ONCE(agent->present) && !READ_ONCE(agent->silent);
}

/* From now on, until the agent gives a sign of life, BPF decides. */
static __always_inline void fall_silent(struct delegate_agent *agent, u64 now)
{
	if (!__sync_lock_test_and_set(&agent->silent, 1)) {
		agent->nr_silent++;
		agent->silent_since = now;
		ring_bell(agent);
	}
}

/**
 * is_overdue - whether a task has waited for the agent for too long
 *
 * An agent that sleeps has heard all there is to hear, and one that has been about its
 * work lately may have reasons to let the task wait, within limits. One that is neither is
 * stopped, stuck or slow, and nobody waits for it any more.
 */
static __always_inline bool is_overdue(struct delegate_agent *agent, struct delegate_task *t,
				       u64 now)
{
	u64 limit = agent_timeout_us * 1000;
	s64 waited, quiet;

	if (!t || !delegating(agent))
		return true;
	waited = now - t->queued_at;
	quiet = now - READ_ONCE(agent->beat);
	if (waited >= (s64)limit && quiet >= (s64)limit && !READ_ONCE(agent->sleeping)) {
		fall_silent(agent, now);
		return true;
	}
	return waited >= (s64)(max_wait_us * 1000);
}

/**
 * tell - post a message about something that happened to @p, in state @state
 *
 * For events after which nobody has to decide.
 */
static __always_inline void tell(struct task_struct *p, struct delegate_task *t, u32 index,
				 u32 kind, u64 state)
{
	struct delegate_agent *agent = the_agent();
	u64 seq;

	t->runtime = p->se.sum_exec_runtime;
	seq = step(t, state);
	if (agent && delegating(agent) &&
	    !post(agent, kind, scx_bpf_task_cpu(p), t, index, seq, bpf_ktime_get_ns()))
		/* The agent's picture is wrong from here on: it starts over. */
		fall_silent(agent, bpf_ktime_get_ns());
}

#endif /* __DELEGATE_MESSAGES_BPF_H */
