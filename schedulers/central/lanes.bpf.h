/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the central CPU of policy central knows of the others, what it decides, and the timers
 * with which it does.
 */
#ifndef __LANES_BPF_H
#define __LANES_BPF_H

/* Tasks that a decision looks at: many may be tied to CPUs that are busy. */
#define LOOK_MAX 256
/* Periods after which a CPU that asks helps itself. */
#define IN_VAIN 2
/* Periods after which another CPU's timer stands in for one that is late. */
#define LATE 16
/* Slices after which one that does not ask, as its own queue is never empty, is given a task. */
#define MAX_SLICES 4

/* What a CPU wants of the central one. */
enum want {
	NOTHING,
	/* it is idle, or about to be, if it has not been given a task without its asking */
	A_TASK,
	/* who runs there has had its time: another takes its place */
	ANOTHER_TASK,
};

/*
 * A CPU, as the central one sees it. Both write want: what is lost in a race is asked again at
 * the next dispatch, or seen by the timer a period later.
 */
struct lane {
	u32 want;
	/* what it wanted when the decision began: later ones have no place in that order */
	u32 open;
	/* periods in which nobody answered */
	u32 in_vain;
	/* who runs there, by pid and number of switches, and when the timer saw it first, ns */
	u64 runs;
	u64 since;
	/* when it last asked, or got, what is in the queue, ns */
	u64 served;
} __attribute__((aligned(64)));
static struct lane lanes[NR_CPUS];

struct central_timer {
	struct bpf_timer timer;
};

/*
 * A timer for each CPU, which only that CPU starts, since nobody else can pin it there. That of
 * the central CPU is at work; another's ends when it sees that it is.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_CPUS);
	__type(key, u32);
	__type(value, struct central_timer);
} central_timers SEC(".maps");

/* Which CPU decides. */
static s32 central;
/* Which CPU's timer has looked at all last, and when it will again, ns. */
static s32 looked_on = -1;
static u64 next_look;
/* Somebody decides: two at one time would hand tasks out in another order. */
static u32 deciding;
/* The number of a CPU. Not on the stack: the verifier would look at each round. */
static u32 next_timer;
/* Tasks that a decision has looked at, and moved; not on the stack, either. */
static u32 nr_looked_at;
static u32 nr_given;

static __always_inline struct lane *lane_of(s32 cpu)
{
	return &lanes[(u32)cpu & (NR_CPUS - 1)];
}

/* Where nobody decides for the CPU, who runs makes room by itself. */
static __always_inline u64 slice_on(s32 cpu)
{
	return cpu == READ_ONCE(central) ? slice_us * 1000 : policy_infinite_slice();
}

static __always_inline bool somebody_waits(void)
{
	return scx_bpf_dsq_nr_queued(POLICY_DSQ(QUEUE)) > 0;
}

static __always_inline bool is_usable(u32 cpu, const struct cpumask *online)
{
	return cpu < policy_nr_cpus && !*policy_off_flag(cpu) && bpf_cpumask_test_cpu(cpu, online);
}

static __always_inline void choose_central(void)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	s32 chosen = -1;
	u32 i;

	if (is_usable(central_cpu, online)) {
		chosen = central_cpu;
	} else {
		bpf_for (i, 0, policy_nr_cpus) {
			if (is_usable(i, online)) {
				chosen = i;
				break;
			}
		}
	}
	scx_bpf_put_cpumask(online);
	if (chosen >= 0)
		WRITE_ONCE(central, chosen);
}

/* Who runs on @cpu, by pid and number of switches; 0: nobody who would make room. */
__noinline u64 who_runs(s32 cpu)
{
	struct task_struct *curr;
	u64 runs = 0;

	bpf_rcu_read_lock();
	curr = __COMPAT_scx_bpf_cpu_curr(cpu);
	if (curr && curr->pid && curr->prio >= 100)
		runs = (u64)curr->pid << 32 | (u32)(curr->nvcsw + curr->nivcsw);
	bpf_rcu_read_unlock();
	return runs;
}

/* Whether @cpu is open for a task, and @p may run there. */
__noinline bool takes(s32 cpu, struct task_struct *p __arg_trusted)
{
	bool may_run;

	if (lane_of(cpu)->open == NOTHING)
		return false;
	/* Iterating has it anyway, but what is not static does not know. */
	bpf_rcu_read_lock();
	may_run = bpf_cpumask_test_cpu(cpu, p->cpus_ptr);
	bpf_rcu_read_unlock();
	return may_run;
}

/* A CPU that takes @p, the one where it was if possible; -1 if none does. */
__noinline s32 cpu_for(struct task_struct *p __arg_trusted)
{
	s32 last = scx_bpf_task_cpu(p);
	u32 cpu;

	if (takes(last, p))
		return last;
	bpf_for (cpu, 0, policy_nr_cpus) {
		if (takes(cpu, p))
			return cpu;
	}
	return -1;
}

/* Notes what each CPU wants, but for @self, and counts those that want something. */
__noinline u32 note_open(s32 self)
{
	u32 cpu, nr = 0;

	bpf_for (cpu, 0, policy_nr_cpus) {
		struct lane *lane = lane_of(cpu);
		/* The kernel hands nothing to a CPU that is going offline. */
		bool is_out = cpu == self || *policy_off_flag(cpu);

		lane->open = is_out ? NOTHING : READ_ONCE(lane->want);
		nr += lane->open != NOTHING;
	}
	return nr;
}

/*
 * Hands @p, at which @it is, to a CPU that is open for it. What goes wrong is no error: it may be
 * gone meanwhile, or have another affinity, and then it is not moved.
 */
static __always_inline void hand_over(struct bpf_iter_scx_dsq *it, struct task_struct *p)
{
	s32 cpu = cpu_for(p);
	struct lane *lane = lane_of(cpu);
	bool another = lane->open == ANOTHER_TASK;

	if (cpu < 0)
		return;
	scx_bpf_dsq_move_set_slice(it, slice_on(cpu));
	if (!scx_bpf_dsq_move(it, p, SCX_DSQ_LOCAL_ON | cpu, another ? SCX_ENQ_PREEMPT : 0))
		return;
	/* So that nobody who wakes takes it for idle. */
	scx_bpf_test_and_clear_cpu_idle(cpu);
	WRITE_ONCE(lane->want, NOTHING);
	lane->open = NOTHING;
	lane->served = scx_bpf_now();
	nr_given++;
	COUNT(decided);
	if (another)
		COUNT(preempted);
}

/* Hands tasks to the @nr_open CPUs that want one. */
__noinline int hand_out(u32 nr_open)
{
	struct task_struct *p;

	nr_looked_at = 0;
	nr_given = 0;
	bpf_rcu_read_lock();
	bpf_for_each (scx_dsq, p, POLICY_DSQ(QUEUE), 0) {
		if (nr_given >= nr_open || nr_looked_at++ == LOOK_MAX)
			break;
		hand_over(BPF_FOR_EACH_ITER, p);
	}
	bpf_rcu_read_unlock();
	return 0;
}

/**
 * decide - hand tasks to the CPUs that want one, in order of arrival
 * @self: a CPU that sees to itself, or -1
 */
__noinline int decide(s32 self)
{
	u32 nr_open;

	if (__sync_val_compare_and_swap(&deciding, 0, 1))
		return 0;
	nr_open = note_open(self);
	if (nr_open)
		hand_out(nr_open);
	__sync_lock_test_and_set(&deciding, 0);
	return 0;
}

/**
 * look_at - whether @cpu has to be given to another task, or has asked in vain
 */
__noinline int look_at(s32 cpu, u64 now)
{
	u64 runs = who_runs(cpu), slice = slice_us * 1000;
	struct lane *lane = lane_of(cpu);

	if (!runs) {
		if (lane->want == A_TASK && somebody_waits() && ++lane->in_vain >= IN_VAIN)
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		lane->runs = 0;
		lane->served = now;
		return 0;
	}
	lane->in_vain = 0;
	if (runs != lane->runs) {
		lane->runs = runs;
		lane->since = now;
		/* Who has asked has got something, or will ask again. */
		WRITE_ONCE(lane->want, NOTHING);
	}
	if (!time_after(now, lane->since + slice)) {
		if (time_after(now, lane->served + MAX_SLICES * slice))
			WRITE_ONCE(lane->want, ANOTHER_TASK);
	} else if (scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) > 0) {
		scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
	} else {
		WRITE_ONCE(lane->want, ANOTHER_TASK);
	}
	return 0;
}

static __always_inline bool is_late(u64 now)
{
	return time_after(now, READ_ONCE(next_look) + LATE * period_us * 1000);
}

static int look(void *map, u32 *cpu_of_it, struct central_timer *timer)
{
	s32 self = *cpu_of_it;
	u64 now = scx_bpf_now();
	u32 cpu;

	if (!READ_ONCE(policy_in_force)) {
		if (policy_end_infinite_slices())
			bpf_timer_start(&timer->timer, period_us * 1000, BPF_F_TIMER_CPU_PIN);
		return 0;
	}
	choose_central();
	if (self != central) {
		if (READ_ONCE(looked_on) == central && !is_late(now))
			return 0;
		/* It starts its own. */
		scx_bpf_kick_cpu(central, SCX_KICK_PREEMPT);
	}
	WRITE_ONCE(looked_on, self);
	bpf_for (cpu, 0, policy_nr_cpus)
		look_at(cpu, now);
	if (somebody_waits())
		decide(-1);
	WRITE_ONCE(next_look, scx_bpf_now() + period_us * 1000);
	bpf_timer_start(&timer->timer, period_us * 1000, BPF_F_TIMER_CPU_PIN);
	return 0;
}

/* Starts the timer of this CPU. */
static __always_inline void start_timer(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct central_timer *timer = bpf_map_lookup_elem(&central_timers, &cpu);

	if (timer)
		bpf_timer_start(&timer->timer, period_us * 1000, BPF_F_TIMER_CPU_PIN);
}

static __always_inline void start(void)
{
	u32 cpu;

	choose_central();
	bpf_for (cpu, 0, policy_nr_cpus)
		*lane_of(cpu) = (struct lane){};
	WRITE_ONCE(deciding, 0);
	WRITE_ONCE(looked_on, -1);
	WRITE_ONCE(next_look, scx_bpf_now());
	start_timer();
}

/* For POLICY_INIT. Return: 0 or a negative errno. */
static __always_inline s32 init_timers(void)
{
	struct central_timer *timer;
	s32 ret;
	u32 i;

	bpf_for (i, 0, policy_nr_cpus) {
		next_timer = i;
		timer = bpf_map_lookup_elem(&central_timers, &next_timer);
		if (!timer)
			break;
		ret = bpf_timer_init(&timer->timer, &central_timers, CLOCK_MONOTONIC)
			      ?: bpf_timer_set_callback(&timer->timer, look);
		if (ret)
			return ret;
	}
	return 0;
}

#endif /* __LANES_BPF_H */
