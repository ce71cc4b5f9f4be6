/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delegation: the kernel half of a policy whose decisions a process makes.
 *
 * After ghOSt (Humphries et al., SOSP 2021): what happens to tasks becomes messages,
 * the agent answers with transactions, and a sequence number in each tells whether
 * the answer is still to the point. A delegated policy is a file that includes this
 * header and says DELEGATE_DEFINE(); docs/writing-an-agent-policy.md.
 *
 * A task that waits for a decision waits in a DSQ like any other (Q_AGENT), in order
 * of arrival. So the kernel can take it away at any time, a swap empties the queue
 * as it does all others, and BPF can serve it without asking: when the agent has given
 * no sign of life for agent_timeout, waiting tasks are run by whoever dispatches next, and
 * until it does give one, tasks do not wait for it at all but are scheduled here by
 * virtual time (Q_FALLBACK). What an agent that is alive leaves waiting is run after
 * max_wait. Nothing ever waits for the agent without limit.
 *
 * Who writes what: all events of a task happen under its run queue's lock, with
 * interrupts off. A CPU's ring is therefore written by one program at a time. The
 * word of a task is claimed by compare-and-exchange: whoever turns QUEUED into
 * something else, agent's transaction or BPF's own decision, has the task.
 */
#ifndef __DELEGATE_BPF_H
#define __DELEGATE_BPF_H

#include "policy.bpf.h"
#include "vtime.bpf.h"

_Static_assert(sizeof(struct delegate_msg) == 64, "a cache line");
_Static_assert(sizeof(struct delegate_task) == 256, "whole cache lines");
_Static_assert(sizeof(struct delegate_cpu) == 128, "two cache lines");
_Static_assert(sizeof(struct delegate_txn) == 192, "whole cache lines");

/*
 * What a policy may define before it includes this:
 *
 * DELEGATE_ASK_ALWAYS	ask about what only made room for the agent, too: else it goes on
 *			where it was, and the agent does not know that it waits
 * DELEGATE_WANTS_TICKS	tell of timer ticks: CPU_TICK
 */
PARAM_U64(agent_timeout_us, 20000, 1000, 1000000, "us",
	  "longest wait for an agent that gives no sign of life before BPF decides itself");
PARAM_U64(max_wait_us, 2000000, 1000, 20000000, "us",
	  "longest that an agent may leave a task waiting before BPF runs it");
PARAM_U64(ring, 4096, 8, 65536, "messages",
	  "messages that a CPU can have pending, rounded down to a power of two");

/* Set by the framework, from the parameter. */
const volatile u32 delegate_ring_mask = 7;

enum { Q_AGENT, Q_FALLBACK };

/* Slice of a task that BPF schedules, ns. */
#define FALLBACK_SLICE (10ULL * 1000 * 1000)
/* Tasks that the timer rescues of each queue at once. */
#define RESCUE_BATCH 32
/* Transactions that one call carries out at most. */
#define COMMIT_BATCH 128
#define TASK_IS_DEAD 0x80

#define SHARED_ARRAY(name, entry)                  \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);  \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, 1);            \
		__type(key, u32);                  \
		__type(value, struct entry);       \
	} name SEC(".maps")

/* The framework sets how many entries they have. */
SHARED_ARRAY(delegate_msgs, delegate_msg);
SHARED_ARRAY(delegate_cpus, delegate_cpu);
SHARED_ARRAY(delegate_tasks, delegate_task);
SHARED_ARRAY(delegate_txns, delegate_txn);
SHARED_ARRAY(delegate_agent, delegate_agent);

/* Indices of status words that no task has. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, DELEGATE_MAX_TASKS);
	__type(value, u32);
} delegate_free SEC(".maps");

/* Index of a task's status word. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} delegate_index SEC(".maps");

/* Only wakes the agent: what is in it does not matter. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} delegate_bell SEC(".maps");

struct delegate_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct delegate_timer);
} delegate_timers SEC(".maps");

static __always_inline struct delegate_agent *the_agent(void)
{
	return bpf_map_lookup_elem(&delegate_agent, &(u32){0});
}

static __always_inline struct delegate_cpu *cpu_word(u32 cpu)
{
	return bpf_map_lookup_elem(&delegate_cpus, &cpu);
}

static __always_inline struct delegate_txn *txn_at(u64 n)
{
	u32 at = n & (DELEGATE_MAX_TXNS - 1);

	return bpf_map_lookup_elem(&delegate_txns, &at);
}

static __always_inline u64 word_of(u64 seq, u64 state)
{
	return seq << DELEGATE_STATE_BITS | state;
}

/* --- Status words ---------------------------------------------------------- */

static __always_inline void note_affinity(struct task_struct *p, struct delegate_task *t)
{
	/* Bits past the kernel's mask are garbage; the agent knows how many CPUs there are. */
	bpf_probe_read_kernel(t->affinity, sizeof(t->affinity), p->cpus_ptr);
	t->nr_allowed = p->nr_cpus_allowed;
}

static __always_inline void note_hint(struct task_struct *p, struct delegate_task *t)
{
	const struct policy_hint *hint = policy_hint(p);

	t->deadline_ns = hint ? hint->deadline_ns : 0;
	t->hint_slice_ns = hint ? hint->slice_ns : 0;
	t->class = hint ? hint->class : POLICY_NORMAL;
}

/**
 * task_word - @p's status word, if it has one
 * @index: where its index goes
 */
static __always_inline struct delegate_task *task_word(struct task_struct *p, u32 *index)
{
	u32 *of = bpf_task_storage_get(&delegate_index, p, NULL, 0);

	if (!of || !*of)
		return NULL;
	*index = *of;
	return bpf_map_lookup_elem(&delegate_tasks, index);
}

/**
 * new_task_word - give @p a status word
 *
 * Return: NULL if there is none left, or no memory: BPF schedules the task then.
 */
static struct delegate_task *new_task_word(struct task_struct *p, u32 *index)
{
	struct delegate_agent *agent = the_agent();
	struct delegate_task *t;
	u32 *of;

	of = bpf_task_storage_get(&delegate_index, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!of || !agent || bpf_map_pop_elem(&delegate_free, index))
		return NULL;
	t = bpf_map_lookup_elem(&delegate_tasks, index);
	if (!t)
		return NULL;
	*of = *index;
	t->pid = p->pid;
	t->tgid = p->tgid;
	t->yielded = 0;
	t->slice = 0;
	bpf_probe_read_kernel_str(t->comm, sizeof(t->comm), p->comm);
	note_affinity(p, t);
	/* The sequence goes on where the last task with this word stopped: an answer meant for that
	 * one is stale. */
	t->word = word_of((t->word >> DELEGATE_STATE_BITS) + 1, DELEGATE_BLOCKED);
	/* Races with other CPUs lose an update at worst until the next new task. */
	if (agent->max_task < *index)
		agent->max_task = *index;
	return t;
}

/**
 * step - the next sequence number of a task, in a new state
 *
 * Under the task's run queue lock. A task that was queued and is seen in another
 * way has left without a decision: that is counted, so that no task is unaccounted
 * for. Return: the sequence number.
 */
static __always_inline u64 step(struct delegate_task *t, u64 state)
{
	struct delegate_cpu *cpu = cpu_word(bpf_get_smp_processor_id());
	u64 seq = (t->word >> DELEGATE_STATE_BITS) + 1;
	u64 old = __sync_lock_test_and_set(&t->word, word_of(seq, state));

	if (cpu && (old & DELEGATE_STATE_MASK) == DELEGATE_QUEUED)
		cpu->nr_left++;
	if (cpu && state == DELEGATE_QUEUED)
		cpu->nr_queued++;
	return seq;
}

/* --- Messages ---------------------------------------------------------------- */

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

/* --- Transactions ------------------------------------------------------------ */

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

/* --- Without the agent ------------------------------------------------------- */

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

/* --- Ops ----------------------------------------------------------------------- */

static __always_inline bool is_agent(struct task_struct *p)
{
	struct delegate_agent *agent = the_agent();

	return p->tgid == policy_agent_tgid && agent && p->pid == READ_ONCE(agent->tid);
}

/**
 * enqueue_agent - the agent comes first, and at once
 *
 * What it preempts is put back without asking for a decision. An agent that has used
 * up a slice takes its turn on its CPU: it cannot keep the machine.
 */
static __always_inline void enqueue_agent(struct task_struct *p, u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(scx_bpf_task_cpu(p));

	if (enq_flags & SCX_ENQ_WAKEUP) {
		if (c)
			c->agent_here = 1;
		enq_flags |= SCX_ENQ_HEAD | SCX_ENQ_PREEMPT;
	}
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
}

#ifdef DELEGATE_ASK_ALWAYS
static __always_inline bool made_room(struct task_struct *p, struct delegate_task *t, u64 enq_flags)
{
	return false;
}
#else
/* Whether @p only made room for the agent: then it gets what is left of its slice. */
static __always_inline bool made_room(struct task_struct *p, struct delegate_task *t, u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(scx_bpf_task_cpu(p));
	u64 ran = p->se.sum_exec_runtime - t->runtime;

	if (enq_flags & (SCX_ENQ_WAKEUP | SCX_ENQ_REENQ) || !c || !c->agent_here || t->yielded)
		return false;
	c->agent_here = 0;
	if ((t->word & DELEGATE_STATE_MASK) != DELEGATE_PLACED || ran >= t->slice)
		return false;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, t->slice - ran, enq_flags);
	return true;
}
#endif

/**
 * delegate_enqueue - ask the agent, unless that makes no sense
 */
void BPF_STRUCT_OPS(delegate_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct delegate_agent *agent = the_agent();
	struct delegate_task *t;
	u64 now, seq;
	u32 kind, index = 0;
	bool is_new = false;

	if (is_agent(p)) {
		enqueue_agent(p, enq_flags);
		return;
	}
	if (policy_enqueue_first(p, enq_flags))
		return;
	if (p->flags & PF_KTHREAD) {
		/*
		 * The agent may wait for this one: khugepaged and kcompactd hold locks that
		 * its page faults take. It must not wait for the agent in turn.
		 */
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	if (!agent)
		return fall_back(p, enq_flags);

	t = task_word(p, &index);
	if (t && made_room(p, t, enq_flags))
		return;
	if (!t) {
		t = new_task_word(p, &index);
		is_new = true;
	}
	if (!t || !delegating(agent)) {
		struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());

		if (t)
			step(t, DELEGATE_FALLBACK);
		if (c)
			c->nr_undelegated++;
		return fall_back(p, enq_flags);
	}

	now = bpf_ktime_get_ns();
	t->runtime = p->se.sum_exec_runtime;
	t->weight = policy_weight(p);
	t->cpu = scx_bpf_task_cpu(p);
	t->queued_at = now;
	note_hint(p, t);
	kind = enq_flags & SCX_ENQ_WAKEUP ? DELEGATE_WAKEUP
	       : t->yielded		  ? DELEGATE_YIELD
					  : DELEGATE_PREEMPTED;
	t->yielded = 0;
	seq = step(t, DELEGATE_QUEUED);
	if (is_new && !post(agent, DELEGATE_TASK_NEW, t->cpu, t, index, seq, now))
		kind = 0;
	scx_bpf_dsq_insert(p, POLICY_DSQ(Q_AGENT), SCX_SLICE_DFL, enq_flags);
	if (!kind || !post(agent, kind, t->cpu, t, index, seq, now)) {
		/* The agent does not hear of it until it has caught up and starts over. */
		fall_silent(agent, now);
		policy_kick_idle(p);
	}
}

/**
 * delegate_select_cpu - only the agent gets a CPU at once, all others wait for it
 */
s32 BPF_STRUCT_OPS(delegate_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	if (p->tgid != policy_agent_tgid)
		return prev_cpu;
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

/**
 * delegate_dispatch - what the agent has decided, else what it should have
 */
POLICY_DISPATCH(delegate_dispatch, cpu, prev)
{
	struct delegate_agent *agent = the_agent();

	if (!agent)
		return;
	commit(agent);
	if (scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) > 0)
		return;
	if (!policy_pick(Q_FALLBACK))
		take_overdue(agent, cpu);
}

/**
 * delegate_yield - give up the slice, and remember that it was given up
 */
bool BPF_STRUCT_OPS(delegate_yield, struct task_struct *from, struct task_struct *to)
{
	struct delegate_task *t;
	u32 index;

	if (to)
		return false;
	t = task_word(from, &index);
	if (t)
		t->yielded = 1;
	scx_bpf_task_set_slice(from, 0);
	return false;
}

/**
 * delegate_set_cpumask - tell of a new affinity; a queued task is queued again after it
 */
void BPF_STRUCT_OPS(delegate_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (!t)
		return;
	note_affinity(p, t);
	tell(p, t, index, DELEGATE_AFFINITY, t->word & DELEGATE_STATE_MASK);
}

/**
 * delegate_set_weight - tell of a new weight
 */
void BPF_STRUCT_OPS(delegate_set_weight, struct task_struct *p, u32 weight)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (!t)
		return;
	t->weight = policy_weight(p);
	tell(p, t, index, DELEGATE_PRIORITY, t->word & DELEGATE_STATE_MASK);
}

/**
 * delegate_disable - tell that a task leaves sched_ext
 */
void BPF_STRUCT_OPS(delegate_disable, struct task_struct *p)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (t)
		tell(p, t, index, DELEGATE_TASK_DEPARTED, DELEGATE_DEPARTED);
}

/* Its word is free for the next. */
static void bury(struct task_struct *p, struct delegate_task *t, u32 index)
{
	tell(p, t, index, DELEGATE_DEAD, DELEGATE_FREE);
	bpf_task_storage_delete(&delegate_index, p);
	bpf_map_push_elem(&delegate_free, &index, 0);
}

/**
 * delegate_switch - who sleeps, who is dead, which CPU has nothing to do
 *
 * A tracepoint and no op, since an op would cost all other policies in the root at
 * every switch. Attached while the policy is in a slot. Under the run queue's lock.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(delegate_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	u32 cpu = bpf_get_smp_processor_id(), index;
	struct delegate_agent *agent = the_agent();
	struct delegate_cpu *c = cpu_word(cpu);
	struct delegate_task *t;
	u64 now;

	if (!agent || !c)
		return 0;
	if (!preempt && prev_state) {
		t = task_word(prev, &index);
		if (t && prev_state & TASK_IS_DEAD)
			bury(prev, t, index);
		else if (t && (t->word & DELEGATE_STATE_MASK) != DELEGATE_DEPARTED)
			tell(prev, t, index, DELEGATE_TASK_BLOCKED, DELEGATE_BLOCKED);
	}
	now = bpf_ktime_get_ns();
	c->pid = next->pid;
	c->since = now;
	if (prev->pid == READ_ONCE(agent->tid))
		/* That it sleeps itself is no news to it: it would wake up for that for ever. */
		c->agent_here = 0;
	else if (!next->pid && delegating(agent))
		post(agent, DELEGATE_CPU_IDLE, cpu, NULL, 0, 0, now);
	return 0;
}

#ifdef DELEGATE_WANTS_TICKS
/**
 * delegate_tick - tell of a timer tick
 */
void BPF_STRUCT_OPS(delegate_tick, struct task_struct *p)
{
	struct delegate_agent *agent = the_agent();

	if (agent && delegating(agent))
		post(agent, DELEGATE_CPU_TICK, scx_bpf_task_cpu(p), NULL, 0, 0, bpf_ktime_get_ns());
}
#define DELEGATE_TICK_OP .tick = (void *)delegate_tick,
#else
#define DELEGATE_TICK_OP
#endif

static bool delegate_filled;

POLICY_INIT()
{
	struct delegate_timer *timer = bpf_map_lookup_elem(&delegate_timers, &(u32){0});
	u32 i;
	s32 ret;

	ret = policy_create_dsq(Q_AGENT, -1) ?: policy_create_dsq(Q_FALLBACK, -1);
	if (ret || !timer)
		return ret ?: -ENOENT;
	/* Once: after a re-attach tasks still have their words. */
	if (!delegate_filled) {
		delegate_filled = true;
		bpf_for (i, 1, DELEGATE_MAX_TASKS)
			bpf_map_push_elem(&delegate_free, &i, 0);
	}
	bpf_timer_init(&timer->timer, &delegate_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&timer->timer, delegate_watch);
	return bpf_timer_start(&timer->timer, agent_timeout_us * 500, 0);
}

/**
 * DELEGATE_DEFINE - register a delegated policy
 * @__name: its name
 * @__desc: one line for `scx_run list`
 */
#define DELEGATE_DEFINE(__name, __desc)                                                           \
	POLICY_DEFINE(                                                                            \
		__name, __desc, DELEGATE_TICK_OP.enqueue = (void *)delegate_enqueue,              \
		.select_cpu = (void *)delegate_select_cpu, .dispatch = (void *)delegate_dispatch, \
		.yield = (void *)delegate_yield, .set_cpumask = (void *)delegate_set_cpumask,     \
		.set_weight = (void *)delegate_set_weight, .disable = (void *)delegate_disable)

#endif /* __DELEGATE_BPF_H */
