// SPDX-License-Identifier: GPL-2.0-only
/*
 * central - one CPU decides for all, the others run without ticks
 *
 * Tasks wait in one queue in order of arrival. The central CPU takes them from there and hands
 * them to the others, with infinite slices: on CPUs that the kernel was booted with in
 * nohz_full= there is no tick then, and a task that computes is not interrupted while nobody
 * waits. A timer of the central CPU looks at all CPUs each period_us, and where a task has run
 * for slice_us while another waits, that one takes its place. The shape is that of ghOSt's
 * centralized FIFO agent (Humphries et al., SOSP 2021), in the kernel, and of scx_central.
 *
 * - A CPU that has nothing to run asks the central CPU. One that wakes a task looks for an
 *   idle CPU itself, and asks only if there is none; with fast_path=0 it always asks.
 * - The central CPU is central_cpu, or if that is offline the first that is not. It runs tasks
 *   like the others, but with finite slices: when it is asked it decides, and goes on.
 * - While a task of a higher class has it, it does not decide, but its timer does. A CPU that
 *   has asked in vain for some periods takes from the queue itself, and if the timer is late,
 *   that of a CPU where a task is queued stands in.
 * - What waits for one CPU only (kernel threads that woke up, tasks tied to it) also ends the
 *   slice of who has that CPU.
 *
 * Good for: virtual machines and computations that a tick, or a scheduler, should not disturb;
 * CPUs that are mostly busy.
 * Bad for: many short tasks (each switch to a task that waits costs two interrupts between
 * CPUs), shares (weights are ignored), hundreds of CPUs with as much to decide.
 *
 * Cost: O(1) an enqueue and a dispatch; a decision is O(CPUs) for each task it looks at, of
 * LOOK_MAX at most; the timer is O(CPUs) each period_us. Worst case: a task waits for
 * slice_us + period_us for each CPU's worth of tasks before it. Without nohz_full CPUs tick
 * as always, but nothing comes of it.
 *
 * Parameters: central_cpu, slice_us, period_us, fast_path.
 */
#define POLICY_QUEUE_OF(cpu) QUEUE
#define POLICY_CATCH_UP()    start()

enum { QUEUE };

static __attribute__((always_inline)) void start(void);

#include "tickless.bpf.h"
#include "evict.bpf.h"

PARAM_U64(central_cpu, 0, 0, 1023, "", "the central CPU; another one, if that is offline");
PARAM_U64(slice_us, 20000, 1000, 1000000, "us",
	  "time after which a task makes room for one that waits");
PARAM_U64(period_us, 2000, 100, 100000, "us", "how often the central CPU looks at the others");
PARAM_U64(fast_path, 1, 0, 1, "bool",
	  "whether a task that wakes gets an idle CPU without a decision");

COUNTER_U64(decided, "tasks that the central CPU has given a CPU");
COUNTER_U64(preempted, "tasks that made room after slice_us");
COUNTER_U64(helped_itself, "times that a CPU took a task itself, as nobody answered");

#include "lanes.bpf.h"

/* Has the central CPU decide. */
static __always_inline void ask(void)
{
	/* Its going was seen here first. */
	if (unlikely(*policy_off_flag(central)))
		choose_central();
	/* Otherwise it would not dispatch but run that; the timer decides. */
	if (scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | central) <= 0)
		scx_bpf_kick_cpu(central, SCX_KICK_PREEMPT);
}

s32 BPF_STRUCT_OPS(central_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = prev_cpu;

	if (fast_path)
		cpu = policy_find_idle(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle) {
		WRITE_ONCE(lane_of(cpu)->want, NOTHING);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_on(cpu), 0);
	}
	return cpu;
}

/**
 * central_enqueue - @p waits for a decision, with a slice for who decides without the central CPU
 */
POLICY_ENQUEUE(central_enqueue, p, enq_flags)
{
	if (policy_keeps_turn(p, enq_flags))
		enq_flags |= SCX_ENQ_HEAD;
	scx_bpf_dsq_insert(p, POLICY_DSQ(QUEUE), slice_us * 1000, enq_flags);
	if (unlikely(is_late(scx_bpf_now())))
		start_timer();
	if (fast_path)
		policy_kick_idle(p);
	else
		ask();
}

/* The central CPU decides for the others, and then sees to itself. */
static __always_inline void dispatch_central(s32 cpu, struct task_struct *prev, bool goes_on)
{
	struct lane *lane = lane_of(cpu);

	if (unlikely(READ_ONCE(looked_on) != cpu))
		start_timer();
	decide(cpu);
	if (goes_on && READ_ONCE(lane->want) != ANOTHER_TASK) {
		scx_bpf_task_set_slice(prev, slice_us * 1000);
		return;
	}
	if (policy_pick(QUEUE)) {
		COUNT(decided);
		if (goes_on)
			COUNT(preempted);
	}
	WRITE_ONCE(lane->want, NOTHING);
}

POLICY_DISPATCH(central_dispatch, cpu, prev)
{
	bool goes_on = prev && prev->scx.flags & SCX_TASK_QUEUED;
	struct lane *lane = lane_of(cpu);

	lane->served = scx_bpf_now();
	if (cpu == READ_ONCE(central)) {
		dispatch_central(cpu, prev, goes_on);
	} else if (!somebody_waits()) {
		WRITE_ONCE(lane->want, goes_on ? NOTHING : A_TASK);
		/* Its slice has ended, so it was given by somebody else: the next will not. */
		if (goes_on)
			policy_put_off(cpu, prev);
	} else if (lane->in_vain >= IN_VAIN || *policy_off_flag(cpu)) {
		lane->in_vain = 0;
		if (policy_pick(QUEUE))
			COUNT(helped_itself);
	} else {
		WRITE_ONCE(lane->want, goes_on ? ANOTHER_TASK : A_TASK);
		ask();
	}
}

bool BPF_STRUCT_OPS(central_yield, struct task_struct *from, struct task_struct *to)
{
	/* Nobody to make room for: it would be put off its CPU to come back at once. */
	if (!to && somebody_waits())
		scx_bpf_task_set_slice(from, 0);
	return false;
}

POLICY_INIT()
{
	s32 ret;

	ret = policy_create_dsq(QUEUE, -1) ?: policy_init_evictors() ?: init_timers();
	/* Attached by itself; in a slot it comes into force later. */
	if (!ret && policy_in_force)
		start();
	return ret;
}

POLICY_DEFINE(central, "one CPU decides for all; the others need no tick",
	      .enqueue = (void *)central_enqueue, .dispatch = (void *)central_dispatch,
	      .select_cpu = (void *)central_select_cpu, .yield = (void *)central_yield)
