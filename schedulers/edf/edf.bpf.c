// SPDX-License-Identifier: GPL-2.0-only
/*
 * edf - earliest deadline first, with an admission check and budgets
 *
 * Algorithm. A task that is hinted `deadline=T slice=Q` asks for Q of CPU time in each T (for a
 * tenth of T without a slice). It is admitted if all that is admitted makes no more than
 * admit_pct of the CPUs. Each admitted task is a constant bandwidth server (Abeni and Buttazzo,
 * RTSS 1998): it has a budget of Q and a deadline T from when it wakes, and competes by that
 * deadline; who has used up its budget waits until the deadline and gets the next of both then.
 * So a task that wants more than it said is late by itself and delays nobody else. The kernel's
 * SCHED_DEADLINE is the same idea; ghOSt's EDF and scx_flash have deadlines without budgets.
 *
 * All others share what is left, in order of soft deadlines: when they were queued plus what
 * their class says (hint `class=`). A turn of slice_us that is cut short goes on in its old
 * place. That is first come, first served with a head start, so nobody starves, and the
 * admission check leaves them some of the CPUs always.
 *
 * A task that becomes runnable takes the CPU of the one whose deadline is the latest, those
 * that are not admitted first. If nobody else wants a CPU, who has used up a budget has it.
 *
 * Good for: periodic work of known cost (audio, control, frames) beside anything else.
 * Bad for: fair shares (weights are ignored), deadlines that are shorter than a few ticks.
 *
 * Cost: O(log n) an enqueue, and O(CPUs) if no CPU is idle; O(1) a dispatch, O(n) while n tasks
 * at the head may not run on the CPU that asks.
 *
 * Worst case. One CPU: no admitted task that keeps to its budget misses a deadline, but for a
 * tick that another may overrun its budget by (that is subtracted from its next). On several,
 * or with tasks tied to some, deadlines may be missed by a bounded time (Devi and Anderson, RTSS
 * 2005). A new budget is noticed when the next CPU dispatches: a slice_us later at most. Who is
 * not admitted waits for 3 s after its soft deadline at most before it gets a turn in 100 ms.
 *
 * Parameters: slice_us, admit_pct, latency_ms, normal_ms, batch_ms.
 */
/* All CPUs serve these, in this order; the last is for who waits for a new budget. */
#define POLICY_QUEUE_OF(cpu) ADMITTED

enum { ADMITTED, REST, DEPLETED };

#include "admission.bpf.h"
#include "preempt.bpf.h"

PARAM_U64(slice_us, 5000, 100, 1000000, "us", "turn of a task that is not admitted");
PARAM_U64(latency_ms, 10, 1, 10000, "ms", "soft deadline of the class latency");
PARAM_U64(normal_ms, 100, 1, 10000, "ms", "soft deadline of tasks without a class");
PARAM_U64(batch_ms, 1000, 1, 10000, "ms", "soft deadline of the class batch");

COUNTER_U64(refused, "tasks that asked for more than could be promised");
COUNTER_U64(depleted, "budgets that were used up before the deadline");
COUNTER_U64(preempted, "tasks that made room for one with an earlier deadline");

/* Ranks of those that are not admitted are behind those that are. */
#define NOT_ADMITTED (1ULL << 63)
/* Without a slice, a hint asks for this part of its deadline. */
#define DEFAULT_PART 10
/* Longer deadlines are promised nothing, nobody waits longer for a budget; ns. */
#define MAX_PERIOD (5000ULL * 1000 * 1000)
/* Who is so late though it is not admitted comes first, but no more often than that; ns. */
#define TOO_LATE     (3000ULL * 1000 * 1000)
#define RESCUE_EVERY (100ULL * 1000 * 1000)

/* When each CPU looks for such tasks next. */
static u64 next_rescue[NR_CPUS];

/* What edf knows of a task; written with the task's own locks held. */
struct edf_task {
	u64 generation;
	/* ns of the monotonic clock */
	u64 deadline;
	/* left until then, ns */
	s64 budget;
	/* the budget may not be spent before this */
	u64 starts;
	/* what it asked for with its hint, ns; 0 for nothing */
	u64 period, runtime;
	/* the part of ONE_CPU that was admitted, or 0 */
	u64 util;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct edf_task);
} edf_tasks SEC(".maps");

static __always_inline struct edf_task *known_task(struct task_struct *p)
{
	struct edf_task *t = bpf_task_storage_get(&edf_tasks, p, NULL, 0);

	return t && t->generation == policy_generation ? t : NULL;
}

/* NULL if there is no memory. */
static __always_inline struct edf_task *task_of(struct task_struct *p)
{
	struct edf_task *t =
		bpf_task_storage_get(&edf_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (t && t->generation != policy_generation)
		*t = (struct edf_task){.generation = policy_generation};
	return t;
}

static __always_inline void leave(struct edf_task *t)
{
	__sync_fetch_and_sub(&admitted, t->util);
	t->util = 0;
}

/* Follows the hint. Who was refused asks again each time: others may have left. */
static __always_inline void ask(struct task_struct *p, struct edf_task *t)
{
	const struct policy_hint *hint = policy_hint(p);
	u64 period = hint ? hint->deadline_ns : 0, runtime = 0, util;
	bool is_new;

	if (period > MAX_PERIOD)
		period = 0;
	if (period)
		runtime = hint->slice_ns ?: period / DEFAULT_PART;
	if (runtime > period)
		runtime = period;
	is_new = period != t->period || runtime != t->runtime;
	if (!is_new && (t->util || !period))
		return;
	leave(t);
	t->period = period;
	t->runtime = runtime;
	if (!period)
		return;
	util = runtime * ONE_CPU / period ?: 1;
	if (admit(util)) {
		t->util = util;
		/* Its first period begins. */
		t->deadline = 0;
		t->budget = 0;
		t->starts = 0;
	} else if (is_new) {
		COUNT(refused);
	}
}

static __always_inline u64 soft_deadline(struct task_struct *p)
{
	const struct policy_hint *hint = policy_hint(p);
	u32 class = hint ? hint->class : POLICY_NORMAL;

	return (class == POLICY_LATENCY ? latency_ms
		: class == POLICY_BATCH ? batch_ms
					: normal_ms) *
	       1000000;
}

/* A whole budget from now on, and as long for it as it takes. */
static __always_inline void renew(struct task_struct *p, struct edf_task *t, u64 now)
{
	t->deadline = now + (t->util ? t->period : soft_deadline(p));
	t->budget = t->util ? t->runtime : slice_us * 1000;
	t->starts = now;
}

/*
 * Takes what @p has run from its budget. What it ran before that started nobody else wanted.
 */
static __always_inline void charge(struct task_struct *p, struct edf_task *t, u64 now)
{
	u64 ran, most = time_after(now, t->starts) ? now - t->starts : 0;

	policy_charge(p, &ran);
	t->budget -= ran < most ? ran : most;
}

/*
 * @p has slept. What is left of its budget may be spent until its deadline only if that is not
 * a larger part of the CPU than it was promised.
 */
static __always_inline void wake(struct task_struct *p, struct edf_task *t, u64 now)
{
	ask(p, t);
	if (!t->util || time_after_eq(now, t->deadline) ||
	    (t->budget > 0 && time_after_eq(now, t->starts) &&
	     (u64)t->budget > ((t->deadline - now) * t->util) >> UTIL_SHIFT))
		renew(p, t, now);
}

/* The next budget of who has none left, if need be with a budget or two left out. */
static __always_inline void next_budget(struct task_struct *p, struct edf_task *t, u64 now)
{
	u64 owed = -t->budget, periods;

	if (!t->util || time_after(now, t->deadline + t->period)) {
		renew(p, t, now);
		return;
	}
	periods = owed / (t->runtime ?: 1);
	t->starts = t->deadline + periods * t->period;
	if (time_after(t->starts, now + MAX_PERIOD))
		t->starts = now + MAX_PERIOD;
	t->deadline = t->starts + t->period;
	t->budget = t->runtime - (owed - periods * t->runtime);
	COUNT(depleted);
}

static __always_inline bool has_budget(struct edf_task *t, u64 now)
{
	return t->budget > 0 && time_after_eq(now, t->starts);
}

static __always_inline u64 rank_of(struct edf_task *t, u64 now)
{
	return t->util && has_budget(t, now) ? t->deadline : t->deadline | NOT_ADMITTED;
}

static __always_inline u64 policy_rank(struct task_struct *p)
{
	struct edf_task *t = known_task(p);

	/* Others wait for kernel threads; of who is not known there is nothing to say. */
	return t && !(p->flags & PF_KTHREAD) ? rank_of(t, bpf_ktime_get_ns()) : 0;
}

/* Puts @p where its budget says. */
static __always_inline void queue(struct task_struct *p, struct edf_task *t, u64 now, u64 enq_flags)
{
	if (t->budget <= 0)
		next_budget(p, t, now);
	if (time_before(now, t->starts)) {
		scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(DEPLETED), slice_us * 1000, t->starts,
					 enq_flags);
		policy_kick_idle(p);
		return;
	}
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(t->util ? ADMITTED : REST), t->budget, t->deadline,
				 enq_flags);
	if (policy_find_cpu(p, rank_of(t, now)))
		COUNT(preempted);
}

POLICY_ENQUEUE(edf_enqueue, p, enq_flags)
{
	struct edf_task *t = task_of(p);
	u64 now = bpf_ktime_get_ns();

	if (!t) {
		/* It has no deadline of its own this once. */
		policy_queue_vtime(p, REST, slice_us * 1000, now + normal_ms * 1000000, enq_flags);
		return;
	}
	charge(p, t, now);
	if (enq_flags & SCX_ENQ_WAKEUP)
		wake(p, t, now);
	else
		ask(p, t);
	queue(p, t, now, enq_flags);
}

/**
 * edf_select_cpu - an idle CPU runs @p at once
 */
s32 BPF_STRUCT_OPS(edf_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = policy_find_idle(p, prev_cpu, wake_flags, &is_idle);
	u64 now = bpf_ktime_get_ns(), slice = slice_us * 1000;
	struct edf_task *t;

	if (!is_idle)
		return cpu;
	t = task_of(p);
	if (t) {
		charge(p, t, now);
		wake(p, t, now);
		if (has_budget(t, now))
			slice = t->budget;
	}
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, 0);
	return cpu;
}

/**
 * edf_yield - @from is done until its next deadline; without one it lets the others go first
 */
bool BPF_STRUCT_OPS(edf_yield, struct task_struct *from, struct task_struct *to)
{
	struct edf_task *t = known_task(from);

	if (!to) {
		if (t && t->budget > 0)
			t->budget = 0;
		scx_bpf_task_set_slice(from, 0);
	}
	return false;
}

/* Lets the first task compete whose new budget has started. */
static __always_inline void replenish(u64 now)
{
	struct edf_task *t;
	struct task_struct *p;

	if (!scx_bpf_dsq_nr_queued(POLICY_DSQ(DEPLETED)))
		return;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(DEPLETED), 0) {
		t = known_task(p);
		if (time_before(now, p->scx.dsq_vtime) || !t)
			return;
		/* It waits, so nobody writes these; if it does not any more, nothing is moved. */
		scx_bpf_dsq_move_set_vtime(BPF_FOR_EACH_ITER, t->deadline);
		scx_bpf_dsq_move_set_slice(BPF_FOR_EACH_ITER, t->budget);
		if (scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p,
					   POLICY_DSQ(t->util ? ADMITTED : REST), 0))
			policy_find_cpu(p, rank_of(t, now));
		return;
	}
}

/* Whether @prev, which is in no queue, has the earliest deadline still. */
static __always_inline bool goes_on(struct edf_task *t, s32 cpu, u64 now)
{
	u64 first;

	if (!has_budget(t, now))
		return false;
	if (policy_first_vtime(ADMITTED, cpu, &first))
		return t->util && time_before(t->deadline, first);
	return t->util || !policy_first_vtime(REST, cpu, &first) || time_before(t->deadline, first);
}

/*
 * Admitted tasks may be tied to one CPU and want all of it. Who waits there for what is left gets
 * some of it all the same. Return: whether there was one.
 */
static __always_inline bool rescue(s32 cpu, u64 now)
{
	u64 *next = &next_rescue[(u32)cpu & (NR_CPUS - 1)], first;

	if (time_before(now, *next))
		return false;
	*next = now + RESCUE_EVERY;
	return policy_first_vtime(REST, cpu, &first) && time_after(now, first + TOO_LATE) &&
	       policy_pick(REST);
}

POLICY_DISPATCH(edf_dispatch, cpu, prev)
{
	bool runs = prev && prev->scx.flags & SCX_TASK_QUEUED;
	struct edf_task *t = runs ? known_task(prev) : NULL;
	u64 now = bpf_ktime_get_ns();

	replenish(now);
	if (rescue(cpu, now))
		return;
	if (t) {
		charge(prev, t, now);
		if (goes_on(t, cpu, now)) {
			scx_bpf_task_set_slice(prev, t->budget);
			return;
		}
	}
	if (policy_pick(ADMITTED) || policy_pick(REST))
		return;
	/* Nobody else wants the CPU: it is free for who has no budget. */
	if (runs)
		scx_bpf_task_set_slice(prev, slice_us * 1000);
	else
		policy_pick(DEPLETED);
}

/**
 * edf_exit_task - what was promised to @p can be promised to others
 */
void BPF_STRUCT_OPS(edf_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	struct edf_task *t = known_task(p);

	if (t)
		leave(t);
}

POLICY_INIT()
{
	return policy_create_dsq(ADMITTED, -1) ?: policy_create_dsq(REST, -1) ?:
						  policy_create_dsq(DEPLETED, -1);
}

POLICY_DEFINE(edf, "earliest deadline first from hints, with an admission check and budgets",
	      .enqueue = (void *)edf_enqueue, .dispatch = (void *)edf_dispatch,
	      .select_cpu = (void *)edf_select_cpu, .yield = (void *)edf_yield,
	      .exit_task = (void *)edf_exit_task)
