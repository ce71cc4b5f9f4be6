// SPDX-License-Identifier: GPL-2.0-only
/*
 * prio - strict levels of priority, with a bound on starvation
 *
 * A task's level is its nice value, moved by the weights of its cgroups: a factor of
 * 1.25 in weight is one level, as between two nice values. The task of the best level
 * runs; within a level it is first come, first served. A task that wakes takes the CPU of
 * one of a worse level. This is the scheduling of fixed-priority systems (Liu and
 * Layland, JACM 1973) and of the kernel's SCHED_FIFO; scx_qmap has it with five levels
 * that share CPUs by quotas.
 *
 * Who has waited for max_wait_ms is set aside, and of four tasks that a CPU picks one is
 * of these if there are any: so each task runs in the end, and those of better levels keep
 * three quarters of the CPUs at least.
 *
 * Good for: few important tasks beside many that can wait, when which is which is known.
 * Bad for: anybody who expects shares: nice 0 beside nice 1 gets nearly all. Locks that
 * tasks of different levels share (there is no priority inheritance).
 *
 * The queue is ordered by level and time of arrival. A task that was preempted is still
 * the oldest of its level, and goes on with what is left of its slice. The task that runs
 * is in no queue, so dispatch compares the two.
 *
 * Cost: O(log n) an enqueue, and O(CPUs) on a wakeup that finds no idle CPU; O(1) a
 * dispatch, O(n) four times in max_wait_ms, and while n tasks at the head may not run on
 * the CPU that asks. Worst case of a wait: 1.25 max_wait_ms and then four slices for each
 * task that is set aside before it, divided by the CPUs.
 *
 * Parameters: slice_us, max_wait_ms.
 */
/* All CPUs serve this one; the other is served beside it. */
#define POLICY_QUEUE_OF(cpu) QUEUE

enum { QUEUE, OVERDUE };

#include "policy.bpf.h"
#include "preempt.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next of its level");
PARAM_U64(max_wait_ms, 1000, 10, 10000, "ms",
	  "wait after which a task gets its turn, whatever its level");

COUNTER_U64(preempted, "tasks that made room for one of a better level");
COUNTER_U64(overdue, "tasks that had waited for max_wait_ms");

/* Level 0 is served first. Nice values, and what cgroups add, lie around the middle. */
#define NR_LEVELS    64
#define LEVEL_NICE_0 32
/* What the default weight of a cgroup is here: large, for the fractions of levels. */
#define ONE 100000ULL
/* Levels that the weights of cgroups move a task at most. */
#define MAX_SHIFT 20
/* A key is a level and, below it, the time of arrival; that comes round in two years. */
#define LEVEL_SHIFT  56
#define ARRIVAL_MASK ((1ULL << LEVEL_SHIFT) - 1)

/* Tasks that one look for overdue ones passes at most. */
#define LOOK_BATCH 4096
/* One of so many tasks that are picked may be an overdue one. */
#define OVERDUE_TURN 4

/* When to look for overdue tasks next, ns. */
static u64 next_look;
/* Tasks that this look has passed. Not on the stack: the verifier would look at each round. */
static u32 nr_looked_at;
/* There may be overdue tasks. Only a hint: a look sets it again if it is wrong. */
static bool some_overdue;
/* Tasks that were picked while some were overdue. Lost updates do not matter. */
static u32 picks;

/* What a policy of SCHED_IDLE means here: after everybody else. */
#define SCHED_IDLE 5

/* Weights between two levels, half a level from each: ONE times 1.25 to the power of -19.5, -18.5
 * ... */
static const u32 between_levels[2 * MAX_SHIFT] = {
	1289,	 1611,	  2014,	   2518,    3147,    3934,    4917,    6146,	7683,	 9604,
	12005,	 15006,	  18757,   23447,   29309,   36636,   45795,   57243,	71554,	 89443,
	111803,	 139754,  174693,  218366,  272958,  341197,  426496,  533120,	666400,	 833000,
	1041250, 1301563, 1626954, 2033692, 2542115, 3177644, 3972055, 4965068, 6206335, 7757919,
};

/*
 * Levels that a weight is above ONE. Not static: the verifier looks at it once, and not in
 * each round of the loops around it.
 */
__noinline int levels_above(u64 weight)
{
	int levels = -MAX_SHIFT;
	u32 i;

	bpf_for (i, 0, 2 * MAX_SHIFT) {
		if (weight < between_levels[i])
			break;
		levels++;
	}
	return levels;
}

static __always_inline s32 level_of(struct task_struct *p)
{
	u64 weight;
	s32 level;

	if (p->policy == SCHED_IDLE)
		return NR_LEVELS - 1;
	/* static_prio is 120 for nice 0 */
	level = p->static_prio - 120 + LEVEL_NICE_0;
	weight = policy_scale_weight(p, ONE);
	if (weight != ONE)
		level -= levels_above(weight);
	return level < 0 ? 0 : level >= NR_LEVELS ? NR_LEVELS - 1 : level;
}

static __always_inline u64 policy_rank(struct task_struct *p)
{
	return level_of(p) + 1;
}

POLICY_ENQUEUE(prio_enqueue, p, enq_flags)
{
	u64 slice = slice_us * 1000, left;
	s32 level = level_of(p);
	u64 arrival;

	/* As one that has just arrived it would be overdue never. */
	if (policy_has_waited(p, enq_flags, max_wait_ms)) {
		scx_bpf_dsq_insert(p, POLICY_DSQ(OVERDUE), slice, enq_flags);
		WRITE_ONCE(some_overdue, true);
		policy_find_cpu(p, level + 1);
		return;
	}
	left = policy_turn(p, slice, enq_flags & SCX_ENQ_WAKEUP);
	/* Who is in the middle of a turn keeps its place: nobody of its level is older. */
	arrival = left < slice ? p->scx.dsq_vtime : bpf_ktime_get_ns();
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(QUEUE), left,
				 (u64)level << LEVEL_SHIFT | (arrival & ARRIVAL_MASK), enq_flags);
	if (policy_find_cpu(p, level + 1))
		COUNT(preempted);
}

s32 BPF_STRUCT_OPS(prio_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	/* If it gets a CPU at once, where it was queued last does not count any more. */
	policy_end_turn(p);
	return policy_select_idle(p, prev_cpu, wake_flags);
}

bool BPF_STRUCT_OPS(prio_yield, struct task_struct *from, struct task_struct *to)
{
	if (!to) {
		policy_end_turn(from);
		scx_bpf_task_set_slice(from, 0);
	}
	return false;
}

/* Sets tasks aside that have waited for too long. One CPU does it at a time. */
static __always_inline void look_for_overdue(void)
{
	u64 due = READ_ONCE(next_look), now = bpf_ktime_get_ns(), waited;
	struct task_struct *p;

	if (time_before(now, due) ||
	    __sync_val_compare_and_swap(&next_look, due, now + max_wait_ms * 250000) != due)
		return;
	nr_looked_at = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(QUEUE), 0) {
		if (nr_looked_at++ == LOOK_BATCH)
			break;
		waited = (now - p->scx.dsq_vtime) & ARRIVAL_MASK;
		/* One that was queued after @now was read has waited for "two years". */
		if (waited >= max_wait_ms * 1000000 && waited <= ARRIVAL_MASK / 2 &&
		    scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, POLICY_DSQ(OVERDUE), 0))
			COUNT(overdue);
	}
	if (scx_bpf_dsq_nr_queued(POLICY_DSQ(OVERDUE)) > 0)
		WRITE_ONCE(some_overdue, true);
}

/* An overdue task, if it is the turn of one. */
static __always_inline bool pick_overdue(void)
{
	if (likely(!READ_ONCE(some_overdue)) || picks++ % OVERDUE_TURN)
		return false;
	if (policy_pick(OVERDUE))
		return true;
	/* There are none, or none for this CPU. Another's sees to those sooner or later. */
	if (scx_bpf_dsq_nr_queued(POLICY_DSQ(OVERDUE)) <= 0)
		WRITE_ONCE(some_overdue, false);
	return false;
}

POLICY_DISPATCH(prio_dispatch, cpu, prev)
{
	u64 first;

	look_for_overdue();
	if (pick_overdue())
		return;
	/* Nobody of a level as good as that of who runs: it has another slice. */
	if (prev && prev->scx.flags & SCX_TASK_QUEUED && policy_first_vtime(QUEUE, cpu, &first) &&
	    level_of(prev) < (s32)(first >> LEVEL_SHIFT)) {
		scx_bpf_task_set_slice(prev, slice_us * 1000);
		return;
	}
	if (!policy_pick(QUEUE))
		policy_pick(OVERDUE);
}

POLICY_INIT()
{
	return policy_create_dsq(QUEUE, -1) ?: policy_create_dsq(OVERDUE, -1);
}

POLICY_DEFINE(prio, "strict levels from nice and cgroup weight, with a bound on starvation",
	      .enqueue = (void *)prio_enqueue, .dispatch = (void *)prio_dispatch,
	      .select_cpu = (void *)prio_select_cpu, .yield = (void *)prio_yield)
