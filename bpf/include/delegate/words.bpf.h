/* SPDX-License-Identifier: GPL-2.0-only */
/* Delegation: the maps that BPF and the agent share, and the status words in them. */
#ifndef __DELEGATE_WORDS_BPF_H
#define __DELEGATE_WORDS_BPF_H

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
struct delegate_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} delegate_bell SEC(".maps");

/* With an agent for each CPU: the bell of each, made and put here by the framework. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct delegate_ring);
} delegate_bells SEC(".maps");

struct delegate_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct delegate_timer);
} delegate_timers SEC(".maps");

/* Number of the agent that decides for @cpu: of its word, its transactions, its queue. */
static __always_inline u32 agent_nr(s32 cpu)
{
	return per_cpu ? cpu : 0;
}

/* The queue in which tasks wait for the agent of @cpu; queues are numbered like agents. */
static __always_inline u64 queue_of(s32 cpu)
{
	return POLICY_DSQ(agent_nr(cpu));
}

static __always_inline struct delegate_agent *agent_of(s32 cpu)
{
	u32 nr = agent_nr(cpu);

	return bpf_map_lookup_elem(&delegate_agent, &nr);
}

static __always_inline struct delegate_cpu *cpu_word(u32 cpu)
{
	return bpf_map_lookup_elem(&delegate_cpus, &cpu);
}

/* Transaction @n of agent @nr. */
static __always_inline struct delegate_txn *txn_at(u32 nr, u64 n)
{
	u32 mask = delegate_txn_mask;
	u32 at = nr * (mask + 1) + (n & mask);

	return bpf_map_lookup_elem(&delegate_txns, &at);
}

static __always_inline u64 word_of(u64 seq, u64 state)
{
	return seq << DELEGATE_STATE_BITS | state;
}

static __always_inline u64 seq_of(u64 word)
{
	return word >> DELEGATE_STATE_BITS;
}

static __always_inline u64 state_of(u64 word)
{
	return word & DELEGATE_STATE_MASK;
}

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
	/* There is one count of words, whoever decides. */
	struct delegate_agent *agent = agent_of(0);
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
	t->stray = 0;
	bpf_probe_read_kernel_str(t->comm, sizeof(t->comm), p->comm);
	note_affinity(p, t);
	/*
	 * The sequence goes on where the last task with this word stopped: an answer
	 * meant for that one is stale.
	 */
	t->word = word_of(seq_of(t->word) + 1, DELEGATE_BLOCKED);
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
	u64 seq = seq_of(t->word) + 1;
	u64 old = __sync_lock_test_and_set(&t->word, word_of(seq, state));

	if (cpu && state_of(old) == DELEGATE_QUEUED)
		cpu->nr_left++;
	if (cpu && state == DELEGATE_QUEUED)
		cpu->nr_queued++;
	return seq;
}

#endif /* __DELEGATE_WORDS_BPF_H */
