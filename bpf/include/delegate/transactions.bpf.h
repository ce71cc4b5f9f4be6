/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: carrying out the agent's decisions. */
#ifndef __DELEGATE_TRANSACTIONS_BPF_H
#define __DELEGATE_TRANSACTIONS_BPF_H

#include "messages.bpf.h"

/* Transactions that one call carries out at most. */
#define COMMIT_BATCH 128

static __always_inline bool names_cpu(struct delegate_txn *txn, u32 cpu)
{
	u32 n = cpu / 64;

	return n < DELEGATE_CPU_WORDS && txn->cpus[n] & (1ULL << (cpu % 64));
}

static __always_inline bool may_run(struct task_struct *p, s32 cpu)
{
	return bpf_cpumask_test_cpu(cpu, p->cpus_ptr);
}

/* An idle CPU of the transaction's set, else the last of the set that @p may run on, else -1. */
static s32 choose_cpu(struct task_struct *p __arg_trusted, struct delegate_txn *txn)
{
	s32 any = -1;
	u32 cpu;

	bpf_for (cpu, 0, policy_nr_cpus) {
		if (!names_cpu(txn, cpu) || !may_run(p, cpu) || *policy_off_flag(cpu))
			continue;
		any = cpu;
		if (scx_bpf_test_and_clear_cpu_idle(cpu))
			break;
	}
	return any;
}

/* Gives a claimed task back to whoever claims it next. */
static __always_inline bool unclaim(struct delegate_txn *txn, struct delegate_task *t)
{
	u64 claimed = word_of(txn->seq, DELEGATE_PLACED);

	return __sync_val_compare_and_swap(&t->word, claimed, word_of(txn->seq, DELEGATE_QUEUED)) ==
	       claimed;
}

/**
 * claim - first half of a transaction: make sure that it can be done, and that nobody
 * else does it
 */
static __always_inline u32 claim(struct delegate_txn *txn)
{
	u32 index = txn->task, outcome = DELEGATE_COMMITTED;
	u64 old, queued = word_of(txn->seq, DELEGATE_QUEUED);
	struct delegate_task *t;
	struct task_struct *p;
	s32 cpu;

	t = bpf_map_lookup_elem(&delegate_tasks, &index);
	if (!t || !index || (t->word & DELEGATE_STATE_MASK) == DELEGATE_FREE)
		return DELEGATE_GONE;
	old = __sync_val_compare_and_swap(&t->word, queued, word_of(txn->seq, DELEGATE_PLACED));
	if (old != queued)
		return old >> DELEGATE_STATE_BITS == txn->seq ? DELEGATE_NOT_QUEUED
							      : DELEGATE_STALE;
	p = bpf_task_from_pid(t->pid);
	if (!p) {
		unclaim(txn, t);
		return DELEGATE_GONE;
	}
	cpu = txn->flags & DELEGATE_ANY_OF ? choose_cpu(p, txn) : txn->cpu;
	if (cpu < 0 || cpu >= policy_nr_cpus || *policy_off_flag(cpu))
		outcome = DELEGATE_OFFLINE;
	else if (!may_run(p, cpu))
		outcome = DELEGATE_NOT_ALLOWED;
	bpf_task_release(p);
	txn->chosen = cpu;
	if (outcome != DELEGATE_COMMITTED)
		unclaim(txn, t);
	return outcome;
}

/* A claimed task has gone elsewhere: step() could not know that it had been queued. */
static __always_inline u32 lost_claimed(void)
{
	struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());

	/* The agent may be interrupted here by an op that counts. */
	if (c)
		__sync_fetch_and_add(&c->nr_left, 1);
	return DELEGATE_STALE;
}

/*
 * How to put a task on its CPU. The agent is not preempted by its own decision: it would
 * wait for its turn behind that, and decide nothing meanwhile. The task is next there.
 */
static __always_inline u64 placing_flags(struct delegate_txn *txn)
{
	struct delegate_agent *agent = the_agent();
	struct delegate_cpu *c = cpu_word(txn->chosen);

	if (!(txn->flags & DELEGATE_PREEMPT))
		return 0;
	if (agent && c && c->pid == READ_ONCE(agent->tid))
		return SCX_ENQ_HEAD;
	return SCX_ENQ_PREEMPT;
}

/**
 * place - second half of a transaction: move the claimed task to its CPU
 *
 * Moving to a CPU that the task may not run on would end the scheduler. Affinity can
 * change at any time, but not without taking the task out of its queue, and the
 * kernel does not move a task that was queued after the iterator was made: that is
 * why affinity is checked again behind it.
 */
static __always_inline u32 place(struct delegate_txn *txn)
{
	u64 enq_flags = placing_flags(txn);
	struct bpf_iter_scx_dsq it;
	struct delegate_task *t;
	struct task_struct *p;
	u32 index = txn->task;
	bool moved = false;

	t = bpf_map_lookup_elem(&delegate_tasks, &index);
	if (!t)
		return DELEGATE_GONE;
	p = bpf_task_from_pid(t->pid);
	if (!p)
		return unclaim(txn, t) ? DELEGATE_GONE : lost_claimed();
	t->slice = txn->slice;
	if (!bpf_iter_scx_dsq_new(&it, POLICY_DSQ(Q_AGENT), 0) && may_run(p, txn->chosen)) {
		scx_bpf_dsq_move_set_slice(&it, txn->slice);
		moved = scx_bpf_dsq_move(&it, p, SCX_DSQ_LOCAL_ON | txn->chosen, enq_flags);
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_task_release(p);
	if (moved)
		return DELEGATE_COMMITTED;
	/*
	 * Either its enqueue op has not returned yet, or something has taken it out of
	 * the queue; then its word has moved on, or will.
	 */
	return unclaim(txn, t) ? DELEGATE_AGAIN : lost_claimed();
}

/* Carries out @n transactions from @first: all, or none if one of them cannot be. */
static void commit_group(struct delegate_agent *agent, u64 first, u32 n)
{
	struct delegate_txn *txn;
	struct delegate_task *t;
	bool all = true;
	u32 i, index;

	bpf_for (i, 0, n) {
		txn = txn_at(first + i);
		if (!txn)
			return;
		txn->outcome = claim(txn);
		all &= txn->outcome == DELEGATE_COMMITTED;
	}
	bpf_for (i, 0, n) {
		txn = txn_at(first + i);
		if (!txn)
			return;
		index = txn->task;
		if (all) {
			txn->outcome = place(txn);
		} else if (txn->outcome == DELEGATE_COMMITTED) {
			t = bpf_map_lookup_elem(&delegate_tasks, &index);
			if (t)
				unclaim(txn, t);
			txn->outcome = DELEGATE_ABORTED;
		}
		if (txn->outcome < DELEGATE_NR_OUTCOMES)
			agent->outcomes[txn->outcome]++;
	}
}

/* Number of transactions in the group that begins at @head. */
static u32 group_size(u64 head, u64 tail)
{
	struct delegate_txn *txn;
	u32 i, n = 0;

	bpf_for (i, 0, DELEGATE_MAX_GROUP) {
		if (head + i == tail)
			break;
		n++;
		txn = txn_at(head + i);
		if (!txn || !(txn->flags & DELEGATE_MORE))
			break;
	}
	return n;
}

/**
 * commit - carry out the pending transactions
 *
 * By any CPU that dispatches, or by the agent itself. One at a time: who finds
 * somebody at it leaves it to them, and they look again once they have let go.
 */
static void commit(struct delegate_agent *agent)
{
	u32 i, n;

	bpf_for (i, 0, COMMIT_BATCH) {
		if (READ_ONCE(agent->txn_head) == READ_ONCE(agent->txn_tail))
			return;
		if (__sync_lock_test_and_set(&agent->committing, 1))
			return;
		n = group_size(agent->txn_head, READ_ONCE(agent->txn_tail));
		commit_group(agent, agent->txn_head, n);
		/* A full barrier: the agent that sees the new head sees the outcomes. */
		__sync_fetch_and_add(&agent->txn_head, n);
		__sync_lock_test_and_set(&agent->committing, 0);
	}
}

/**
 * delegate_commit - carry out the pending transactions, for the agent
 */
SEC("syscall")
int delegate_commit(void *ctx)
{
	struct delegate_agent *agent = the_agent();

	/* Iterating over a DSQ wants it; ops have it anyway. */
	bpf_rcu_read_lock();
	if (agent)
		commit(agent);
	bpf_rcu_read_unlock();
	return 0;
}

#endif /* __DELEGATE_TRANSACTIONS_BPF_H */
