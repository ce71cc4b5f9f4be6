// SPDX-License-Identifier: GPL-2.0-only
/*
 * nest - few CPUs kept warm rather than all of them a little
 *
 * A CPU that has just run something is at a high frequency, in no deep sleep, and has warm
 * caches; one that has slept pays for all three. At low load a scheduler that spreads tasks
 * over idle CPUs keeps them all cold. Nest (Lawall et al., EuroSys 2022; scx_nest) places
 * tasks on a small set of CPUs as long as these have room. This follows the paper:
 *
 * - The primary nest is the CPUs in use. A task that wakes gets the first idle one of them
 *   by number, so that the last ones have nothing to do if that is possible. (In the paper
 *   first of all the one where it was: its cache may be warm. But a few tasks that sleep in
 *   turns keep a CPU each awake that way.)
 * - If there is none, an idle CPU of the reserve nest joins the primary one. If there is
 *   none either, an idle CPU from outside joins the reserve, of reserve_cpus at most.
 * - A task that found no idle primary CPU impatience times in a row grows the primary nest
 *   directly: the nest is too small.
 * - A primary CPU that has run nothing for compact_ms goes back to the reserve, or out if
 *   that is full.
 *
 * Tasks that find no idle CPU at all wait in one queue in order of arrival. Of the paper,
 * the spinning of idle CPUs that keeps them warm is missing (BPF cannot), and that a CPU
 * leaves the nest when its last task ends: compaction does that. A nest knows no caches
 * and sockets: of several sockets it may use CPUs of all.
 *
 * Cost: O(CPUs) a wakeup, with a look-up in task storage; O(1) a dispatch. Worst case: no
 * task waits while a CPU is idle that it may use, but tasks move between CPUs a lot, and
 * two may share the siblings of a core while other cores are idle.
 *
 * Good for: energy and turbo frequency on many CPUs that are mostly idle, short tasks.
 * Bad for: machines under full load (all CPUs are in the nest then, and it is fifo at the
 * cost of a search), shares (weights are ignored), several sockets.
 *
 * Parameters: slice_us, compact_ms, reserve_cpus, impatience.
 */
#include "policy.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(compact_ms, 4, 1, 10000, "ms",
	  "time without work after which a CPU leaves the primary nest");
PARAM_U64(reserve_cpus, 5, 0, 1024, "CPUs", "size of the reserve nest");
PARAM_U64(impatience, 2, 1, 1000, "wakeups",
	  "without an idle primary CPU, after which a task takes another");

COUNTER_U64(promoted, "CPUs that joined the primary nest");
COUNTER_U64(compacted, "CPUs that left it");
COUNTER_U64(impatient, "times that a task would not wait for the reserve");

enum { QUEUE };

enum nest { OUTSIDE, RESERVE, PRIMARY };

/*
 * A CPU's place, and when it last ran something. CPUs race for all of it: what comes
 * of that is a CPU that joins or leaves a little later, never a task without a CPU.
 */
struct seat {
	u32 nest;
	u64 used;
};
static struct seat seats[NR_CPUS];

struct nest_task {
	/* wakeups in a row that found no idle primary CPU */
	u64 misses;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct nest_task);
} nest_tasks SEC(".maps");

static __always_inline struct seat *seat_of(s32 cpu)
{
	return &seats[(u32)cpu & (NR_CPUS - 1)];
}

static __always_inline void use(s32 cpu)
{
	WRITE_ONCE(seat_of(cpu)->used, scx_bpf_now());
}

/*
 * What a search has found: an idle CPU of each kind, or -1. One for each CPU that searches:
 * on the stack, the verifier would look at each round of the loop with each result. A wakeup
 * has interrupts off, so no other comes between on the CPU.
 */
struct found {
	/* by place; four, for the verifier */
	s32 cpu[4];
	u32 nr_reserve;
} __attribute__((aligned(64)));
static struct found founds[NR_CPUS];

/**
 * search - the first idle CPU of each kind that @p may use
 *
 * Compacts the nest on its way.
 */
static __always_inline struct found *search(struct task_struct *p)
{
	struct found *found = &founds[bpf_get_smp_processor_id() & (NR_CPUS - 1)];
	const struct cpumask *idle = scx_bpf_get_idle_cpumask();
	u64 now = scx_bpf_now();
	struct seat *seat;
	u32 cpu;

	found->cpu[PRIMARY] = found->cpu[RESERVE] = found->cpu[OUTSIDE] = -1;
	found->nr_reserve = 0;
	bpf_for (cpu, 0, policy_nr_cpus) {
		seat = seat_of(cpu);
		found->nr_reserve += seat->nest == RESERVE;
		if (!bpf_cpumask_test_cpu(cpu, idle))
			continue;
		if (seat->nest == PRIMARY && time_after(now, seat->used + compact_ms * 1000000)) {
			seat->nest = found->nr_reserve < reserve_cpus ? RESERVE : OUTSIDE;
			found->nr_reserve += seat->nest == RESERVE;
			COUNT(compacted);
		}
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && found->cpu[seat->nest & 3] < 0)
			found->cpu[seat->nest & 3] = cpu;
	}
	scx_bpf_put_idle_cpumask(idle);
	return found;
}

/* Whether @p has waited for the nest to have room often enough. */
static __always_inline bool is_impatient(struct task_struct *p)
{
	struct nest_task *t;

	t = bpf_task_storage_get(&nest_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* Without memory it is patient. */
	if (!t || ++t->misses < impatience)
		return false;
	t->misses = 0;
	COUNT(impatient);
	return true;
}

static __always_inline void is_content(struct task_struct *p)
{
	struct nest_task *t = bpf_task_storage_get(&nest_tasks, p, NULL, 0);

	if (t)
		t->misses = 0;
}

/**
 * choose - an idle CPU for @p that is nobody else's, and its place in the nest
 *
 * Return: -1 if there is none.
 */
static __always_inline s32 choose(struct task_struct *p)
{
	struct found *found = search(p);
	bool grow;
	s32 cpu;

	cpu = found->cpu[PRIMARY];
	if (cpu >= 0 && scx_bpf_test_and_clear_cpu_idle(cpu)) {
		is_content(p);
		use(cpu);
		return cpu;
	}
	grow = is_impatient(p);
	cpu = found->cpu[RESERVE];
	if (cpu >= 0) {
		grow = true;
	} else {
		cpu = found->cpu[OUTSIDE];
		if (cpu < 0)
			return -1;
	}
	if (!scx_bpf_test_and_clear_cpu_idle(cpu))
		return -1;
	if (grow) {
		WRITE_ONCE(seat_of(cpu)->nest, PRIMARY);
		COUNT(promoted);
	} else if (found->nr_reserve < reserve_cpus) {
		WRITE_ONCE(seat_of(cpu)->nest, RESERVE);
	}
	use(cpu);
	return cpu;
}

/**
 * nest_select_cpu - an idle CPU, of the nest if it has one
 */
s32 BPF_STRUCT_OPS(nest_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu = choose(p);

	if (cpu < 0)
		return prev_cpu;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, 0);
	return cpu;
}

/**
 * nest_enqueue - no CPU is idle, or @p has not been asked where it wants to go
 */
POLICY_ENQUEUE(nest_enqueue, p, enq_flags)
{
	policy_queue(p, QUEUE, slice_us * 1000, enq_flags);
}

POLICY_DISPATCH(nest_dispatch, cpu, prev)
{
	/* @prev has run until now, even if it is the last for a while. */
	if (policy_pick(QUEUE) || prev)
		use(cpu);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(nest, "tasks stay on few warm CPUs; more are used only when these are busy",
	      .enqueue = (void *)nest_enqueue, .dispatch = (void *)nest_dispatch,
	      .select_cpu = (void *)nest_select_cpu)
