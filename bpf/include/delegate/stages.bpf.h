/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delegation: where the time of a wakeup goes, if asked for (stages=1). Otherwise the
 * verifier drops all of this.
 */
#ifndef __DELEGATE_STAGES_BPF_H
#define __DELEGATE_STAGES_BPF_H

#include "words.bpf.h"

/**
 * delegate_waking - a task is about to be woken
 *
 * Attached only while stages are measured. Under the task's pi_lock.
 */
SEC("tp_btf/sched_waking")
int BPF_PROG(delegate_waking, struct task_struct *p)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (t)
		t->waking_at = bpf_ktime_get_ns();
	return 0;
}

/* The agent, which saw @t at @seen, has it placed now. */
static __always_inline void note_placed(struct delegate_task *t, u64 seen)
{
	if (!stages)
		return;
	t->seen_at = seen;
	t->placed_at = bpf_ktime_get_ns();
}

static __always_inline void add_stage(struct delegate_cpu *c, u32 stage, u64 from, u64 to)
{
	/* A message that comes while the agent reads others was seen before it was written. */
	if (time_before(from, to))
		c->stage_ns[stage] += to - from;
}

/* @p runs: if it was woken and the agent placed it, its way is known. */
static __always_inline void note_running(struct delegate_cpu *c, struct task_struct *p, u64 now)
{
	struct delegate_task *t;
	u32 index;

	if (!stages)
		return;
	t = task_word(p, &index);
	if (!t)
		return;
	if (t->waking_at && t->placed_at) {
		c->nr_staged++;
		add_stage(c, DELEGATE_WRITTEN, t->waking_at, t->queued_at);
		add_stage(c, DELEGATE_SEEN, t->queued_at, t->seen_at);
		add_stage(c, DELEGATE_DONE, t->seen_at, t->placed_at);
		add_stage(c, DELEGATE_RUNNING, t->placed_at, now);
	}
	t->waking_at = 0;
	t->placed_at = 0;
}

#endif /* __DELEGATE_STAGES_BPF_H */
