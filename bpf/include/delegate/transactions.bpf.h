/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: carrying out the agent's decisions. */
#ifndef __DELEGATE_TRANSACTIONS_BPF_H
#define __DELEGATE_TRANSACTIONS_BPF_H

#include "messages.bpf.h"
#include "stages.bpf.h"

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

static __always_inline u32 try_claim(struct delegate_txn *txn)
{
	u32 index = txn->task, outcome = DELEGATE_COMMITTED;
	u64 old, queued = word_of(txn->seq, DELEGATE_QUEUED);
	struct delegate_task *t;
	struct task_struct *p;
	s32 cpu;

	t = bpf_map_lookup_elem(&delegate_tasks, &index);
	if (!t || !index || state_of(t->word) == DELEGATE_FREE)
		return DELEGATE_GONE;
	old = __sync_val_compare_and_swap(&t->word, queued, word_of(txn->seq, DELEGATE_PLACED));
	if (old != queued)
		return seq_of(old) == txn->seq ? DELEGATE_NOT_QUEUED : DELEGATE_STALE;
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

/**
 * claim - first half of transaction @n of agent @nr: make sure that it can be done, and
 * that nobody else does it
 *
 * Not static, as place() is not: the verifier looks at it once, and not in each round of
 * the loops around it. Return: whether it can be done.
 */
__noinline int claim(u32 nr, u64 n)
{
	struct delegate_txn *txn = txn_at(nr, n);
	u32 outcome;

	if (!txn)
		return false;
	/* A task's CPUs want it. Ops have it anyway, but what is not static does not know. */
	bpf_rcu_read_lock();
	outcome = try_claim(txn);
	bpf_rcu_read_unlock();
	txn->outcome = outcome;
	return outcome == DELEGATE_COMMITTED;
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
 * Whether the task of a transaction may overtake what waits for its CPU: an agent that
 * preempts all the time could keep that, kernel threads among it, from running for ever.
 * Once somebody may have been overtaken for max_wait, they all take turns until nobody
 * waits there. CPUs race here for when that began: they are not far apart.
 */
static __always_inline bool may_overtake(struct delegate_txn *txn)
{
	struct delegate_cpu *c = cpu_word(txn->chosen);
	u64 now;

	if (!c || scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | txn->chosen) <= 0)
		return true;
	now = bpf_ktime_get_ns();
	if (!c->overtaking_since)
		c->overtaking_since = now;
	return now - c->overtaking_since < max_wait_us * 1000;
}

/*
 * How a task overtakes what waits for its CPU. The agent is not preempted by its own
 * decision: it would wait for its turn behind that, and decide nothing meanwhile. The task
 * is next there.
 */
static __always_inline u64 overtaking_flags(struct delegate_agent *agent, struct delegate_txn *txn)
{
	struct delegate_cpu *c = cpu_word(txn->chosen);

	return c && c->pid == READ_ONCE(agent->tid) ? SCX_ENQ_HEAD : SCX_ENQ_PREEMPT;
}

/*
 * Have what runs on @cpu make room for what waits there. Unless the agent is about: it
 * goes by itself, and would have to queue up behind those it places.
 */
static __always_inline void take_turns(struct delegate_agent *agent, s32 cpu)
{
	struct delegate_cpu *c = cpu_word(cpu);

	if (c && !c->agent_here && c->pid != READ_ONCE(agent->tid))
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
}

/**
 * move_claimed - move the task of a transaction to its CPU
 * @nr: number of @agent
 *
 * Moving to a CPU that the task may not run on would end the scheduler. Affinity can
 * change at any time, but not without taking the task out of its queue, and the
 * kernel does not move a task that was queued after the iterator was made: that is
 * why affinity is checked again behind it.
 */
static __always_inline u32 move_claimed(struct delegate_agent *agent, u32 nr,
					struct delegate_txn *txn)
{
	bool preempts = txn->flags & DELEGATE_PREEMPT;
	bool overtakes = preempts && may_overtake(txn);
	u64 enq_flags = overtakes ? overtaking_flags(agent, txn) : 0;
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
	note_placed(t, txn->seen);
	if (!bpf_iter_scx_dsq_new(&it, POLICY_DSQ(nr), 0) && may_run(p, txn->chosen)) {
		scx_bpf_dsq_move_set_slice(&it, txn->slice);
		moved = move_to_cpu(&it, p, t, txn->chosen, enq_flags);
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_task_release(p);
	if (moved) {
		if (txn->flags & DELEGATE_TAKE_TURNS || (preempts && !overtakes))
			take_turns(agent, txn->chosen);
		return DELEGATE_COMMITTED;
	}
	/*
	 * Either its enqueue op has not returned yet, or something has taken it out of
	 * the queue; then its word has moved on, or will.
	 */
	return unclaim(txn, t) ? DELEGATE_AGAIN : lost_claimed();
}

/* Undoes a claim, if it was one: another transaction of the group cannot be done. */
static __always_inline u32 abort_claimed(struct delegate_txn *txn)
{
	struct delegate_task *t;
	u32 index = txn->task;

	if (txn->outcome != DELEGATE_COMMITTED)
		return txn->outcome;
	t = bpf_map_lookup_elem(&delegate_tasks, &index);
	if (t)
		unclaim(txn, t);
	return DELEGATE_ABORTED;
}

/**
 * place - second half of transaction @n of agent @nr: do it, or if not @all of its group
 * can be done, see to it that it is not
 */
__noinline int place(u32 nr, u64 n, bool all)
{
	struct delegate_agent *agent = agent_of(nr);
	struct delegate_txn *txn = txn_at(nr, n);
	u32 outcome;

	if (!txn || !agent)
		return 0;
	/* Here too, and iterating over a DSQ. */
	bpf_rcu_read_lock();
	outcome = all ? move_claimed(agent, nr, txn) : abort_claimed(txn);
	bpf_rcu_read_unlock();
	txn->outcome = outcome;
	if (outcome < DELEGATE_NR_OUTCOMES)
		agent->outcomes[outcome]++;
	return 0;
}

/* Carries out @n transactions of agent @nr from @first: all, or none if one of them cannot be. */
static __always_inline void commit_group(u32 nr, u64 first, u32 n)
{
	bool all = true;
	u32 i;

	bpf_for (i, 0, n)
		all &= claim(nr, first + i);
	bpf_for (i, 0, n)
		place(nr, first + i, all);
}

/* Number of transactions in the group that begins at @head. */
static u32 group_size(u32 nr, u64 head, u64 tail)
{
	struct delegate_txn *txn;
	u32 i, n = 0;

	bpf_for (i, 0, DELEGATE_MAX_GROUP) {
		if (head + i == tail)
			break;
		n++;
		txn = txn_at(nr, head + i);
		if (!txn || !(txn->flags & DELEGATE_MORE))
			break;
	}
	return n;
}

/**
 * commit - carry out the pending transactions of @agent, which is number @nr
 *
 * By any CPU that dispatches, or by the agent itself. One at a time: who finds
 * somebody at it leaves it to them, and they look again once they have let go.
 */
static void commit(struct delegate_agent *agent, u32 nr)
{
	u32 i, n;

	bpf_for (i, 0, COMMIT_BATCH) {
		if (READ_ONCE(agent->txn_head) == READ_ONCE(agent->txn_tail))
			return;
		if (__sync_lock_test_and_set(&agent->committing, 1))
			return;
		n = group_size(nr, agent->txn_head, READ_ONCE(agent->txn_tail));
		commit_group(nr, agent->txn_head, n);
		/* A full barrier: the agent that sees the new head sees the outcomes. */
		__sync_fetch_and_add(&agent->txn_head, n);
		__sync_lock_test_and_set(&agent->committing, 0);
	}
}

/**
 * delegate_commit - carry out the pending transactions, for the agent
 *
 * With an agent for each CPU those of the one whose CPU this is: an agent that is not on
 * its CPU, since that is offline, has nothing carried out.
 */
SEC("syscall")
int delegate_commit(void *ctx)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct delegate_agent *agent = agent_of(cpu);

	if (agent)
		commit(agent, agent_nr(cpu));
	return 0;
}

#endif /* __DELEGATE_TRANSACTIONS_BPF_H */
