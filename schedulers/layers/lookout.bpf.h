/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * layers: CPUs that come and go, and tasks that would wait for too long. Included once, by
 * layers.bpf.c.
 */
#ifndef __LOOKOUT_BPF_H
#define __LOOKOUT_BPF_H

/* How often the timer looks for tasks that are stuck, ns, and after how many looks one is late. */
#define LOOK_PERIOD (1000ULL * 1000 * 1000)
#define LATE_LOOKS  5
/* Tasks of a queue that a look passes at most. */
#define LOOK_BATCH 4096

struct lookout {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct lookout);
} lookouts SEC(".maps");

/* Tasks that this look has passed. Not on the stack: the verifier would look at each round. */
static u32 nr_passed;

/* Whether @p may run on a CPU of queue @q that is online. */
static __always_inline bool has_cpu(struct task_struct *p, u32 q)
{
	struct policy_mask *slot = mask_of(q);
	struct bpf_cpumask *mask = slot ? slot->cpus : NULL;

	return !mask || bpf_cpumask_intersects(cast_mask(mask), p->cpus_ptr);
}

/**
 * look_into - see to those in queue @q who would wait for CPUs that do not come
 * @all: nobody comes for any of them
 * @late_before: when a task has to have been queued to be late, jiffies
 *
 * Return: whether there are late tasks.
 */
static __noinline bool look_into(u32 q, bool all, u64 late_before)
{
	struct task_struct *p;
	bool found = false;

	nr_passed = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(q), 0) {
		if (nr_passed++ == LOOK_BATCH)
			break;
		if (time_before(p->scx.runnable_at, late_before))
			found = true;
		if (q == STRAYS || (!all && has_cpu(p, q)))
			continue;
		WRITE_ONCE(some_strays, 1);
		scx_bpf_dsq_move_set_vtime(BPF_FOR_EACH_ITER, progress[at(STRAYS)].now);
		if (scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p, POLICY_DSQ(STRAYS), 0)) {
			COUNT(strays);
			policy_kick_idle(p);
		}
	}
	return found;
}

/* Times at which the last tasks were looked for that are late, jiffies. */
static u64 looked_at[8];
static u64 nr_looks;

/**
 * look - see to the tasks that wait for too long
 *
 * CPUs that are going offline may not ask for long before the policy is told, and what waits for
 * them may hold up what they wait for. So if none of a layer's CPUs has asked between two looks,
 * though somebody was waiting at both, its tasks are strays.
 */
static int look(void *map, u32 *key, struct lookout *lookout)
{
	u32 is_late = 0, q, cpu;
	u64 before;

	before = nr_looks >= LATE_LOOKS ? looked_at[(nr_looks - LATE_LOOKS) & 7] : 0;
	looked_at[nr_looks++ & 7] = bpf_jiffies64();
	bpf_for (q, 0, policy_config.nr_layers + 1) {
		struct progress *about = &progress[at(q)];
		bool waits = scx_bpf_dsq_nr_queued(POLICY_DSQ(q)) > 0;
		u64 asked = 0;

		if (waits) {
			bpf_for (cpu, 0, policy_nr_cpus) {
				if (served_by(cpu) & 1U << q)
					asked += turns_of(cpu)->asked;
			}
			if (look_into(q, about->waited && asked == about->asked, before))
				is_late |= 1U << q;
		}
		about->waited = waits;
		about->asked = asked;
	}
	WRITE_ONCE(late_before, before);
	WRITE_ONCE(late, is_late);
	bpf_timer_start(&lookout->timer, LOOK_PERIOD, 0);
	return 0;
}

/* Notes that @cpu is one of its layers' or, for the time being, not. */
static __always_inline void note_cpu(u32 cpu, bool online)
{
	u32 q;

	bpf_for (q, 0, policy_config.nr_layers + 1) {
		if (served_by(cpu) & 1U << q)
			policy_set_in_mask(mask_of(q), cpu, online);
	}
}

static __always_inline void look_at_cpus(void)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	u32 cpu;

	bpf_for (cpu, 0, policy_nr_cpus)
		note_cpu(cpu, bpf_cpumask_test_cpu(cpu, online));
	scx_bpf_put_cpumask(online);
}

void BPF_STRUCT_OPS(layers_cpu_online, s32 cpu)
{
	policy_note_online(cpu);
	note_cpu(cpu, true);
}

void BPF_STRUCT_OPS(layers_cpu_offline, s32 cpu)
{
	struct lookout *lookout = bpf_map_lookup_elem(&lookouts, &(u32){0});

	policy_note_offline(cpu);
	note_cpu(cpu, false);
	/* Who queues a task at this very moment may have seen the old set: a later look finds it.
	 */
	if (lookout)
		bpf_timer_start(&lookout->timer, 0, 0);
}

static __always_inline s32 start_looking(void)
{
	struct lookout *lookout = bpf_map_lookup_elem(&lookouts, &(u32){0});

	if (!lookout)
		return -ENOENT;
	return bpf_timer_init(&lookout->timer, &lookouts, CLOCK_MONOTONIC) ?:
	       bpf_timer_set_callback(&lookout->timer, look) ?:
	       bpf_timer_start(&lookout->timer, LOOK_PERIOD, 0);
}

#endif /* __LOOKOUT_BPF_H */
