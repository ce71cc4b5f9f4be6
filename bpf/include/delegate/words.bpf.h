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

#endif /* __DELEGATE_WORDS_BPF_H */
