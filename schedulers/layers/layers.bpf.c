// SPDX-License-Identifier: GPL-2.0-only
/*
 * layers - rules say who belongs to whom, and what each such layer of tasks gets
 *
 * A file of rules (docs/policies.md, example.toml here) assigns each task to a layer by its name,
 * cgroup, user, nice value, hint or the number of its process's threads. A layer has CPUs that
 * it is confined to, a share, a slice, and may preempt.
 *
 * Algorithm. A queue a layer, ordered by virtual time as in vtime, by the weights of the tasks.
 * Each CPU has a virtual clock for each layer, which runs by run time / share, and takes the
 * next task from the layer whose clock is behind most: start-time fair queueing. A layer that
 * had nothing to run there is set to the clock of the one that runs: it is owed nothing. So
 * shares hold on each CPU among the layers that want it, and since no CPU waits for another,
 * nobody starves who is tied to one. A task of a layer that preempts takes the CPU of one that
 * does not when it wakes up, as long as its layer is not ahead there by more than a slice.
 *
 * Affinity counts still: a task that may run on no CPU of its layer, by its affinity or since
 * they are offline, is a stray. Strays run where they may and compete as a layer of their own,
 * of share 100.
 *
 * When a task is looked at. Rules are tried again when what they ask for has changed, as seen
 * when the task is queued, wakes up, or has run for a slice. A task that changes (another name,
 * cgroup ...) is in its new layer after a slice at the latest, or when it has had its next turn.
 * One that runs where its layer must not, as when the policy comes into force, is put off
 * (evict.bpf.h) at the end of its slice.
 *
 * Source. The idea of layers is scx_layered's; start-time fair queueing is Goyal, Guo and Vin's
 * (SIGCOMM 1996).
 *
 * Good for: machines with several services of known importance.
 * Bad for: what vtime is bad for, within a layer (one queue, one lock); tasks of a layer take
 * no notice of caches.
 * Cost: O(layers) a dispatch, O(log n) an enqueue, O(CPUs) more if a layer preempts and no CPU is
 * idle; O(rules) when a task is new or has changed.
 *
 * Worst case. On a CPU that they have alone, a layer waits for (sum of the other shares / its own)
 * slices; a task that has waited for 5 s, since its layer or it itself has too little a share,
 * gets the next fourth turn. Shares hold to a slice on each CPU. When CPUs go offline, tasks may
 * wait for a second that were queued at that moment.
 *
 * Parameters: slice_us, and the file.
 */
#define POLICY_QUEUE_OF(cpu) queue_of_strays()
#define POLICY_CATCH_UP()    look_at_cpus()

static __attribute__((always_inline)) unsigned int queue_of_strays(void);
static __attribute__((always_inline)) void look_at_cpus(void);

#include "masks.bpf.h"
#include "vtime.bpf.h"
#include "evict.bpf.h"
#include "preempt.bpf.h"
#include "rules.bpf.h"

PARAM_U64(slice_us, 5000, 100, 100000, "us",
	  "time a task may run before the next is picked, in layers that say nothing else");

COUNTER_U64(preempted, "tasks that made room for one of a layer that preempts");
COUNTER_U64(strays, "times that a task was queued that may run on no CPU of its layer");
COUNTER_U64(evicted, "tasks that were put off a CPU that is not their layer's");

/* The queue after the layers'. */
#define STRAYS (policy_config.nr_layers)
#define NONE   LAYERS_MAX_QUEUES
/* One of so many turns is a late task's. */
#define LATE_TURN 4

#include "clocks.bpf.h"

/* Progress of virtual time in each queue; on cache lines of their own. */
struct progress {
	u64 now;
	/* as of the last look: asked by the layer's CPUs, and whether somebody waited */
	u64 asked;
	bool waited;
} __attribute__((aligned(64)));
static struct progress progress[LAYERS_MAX_QUEUES];

/* The CPUs of each layer that are online; for strays, all that are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAYERS_MAX_QUEUES);
	__type(key, u32);
	__type(value, struct policy_mask);
} layer_masks SEC(".maps");

/* 1: there have been strays. */
static u32 some_strays;
/* Queues with late tasks, a bit each, and since when these have been waiting, jiffies. */
static u32 late;
static u64 late_before;

static __always_inline u32 queue_of_strays(void)
{
	return STRAYS;
}

/* The queues that @cpu serves, a bit each. */
static __always_inline u32 served_by(s32 cpu)
{
	return policy_config.cpu_layers[(u32)cpu & (LAYERS_MAX_CPUS - 1)] | 1U << STRAYS;
}

static __always_inline struct policy_mask *mask_of(u32 q)
{
	return bpf_map_lookup_elem(&layer_masks, &q);
}

/**
 * queue_of - the queue that @p belongs to: its layer's, or that of strays
 */
__noinline u32 queue_of(struct task_struct *p __arg_trusted)
{
	u32 layer = layer_of(p);
	struct bpf_cpumask *mask;
	struct policy_mask *slot;

	if (queue(layer)->everywhere)
		return layer;
	slot = mask_of(layer);
	mask = slot ? slot->cpus : NULL;
	return mask && bpf_cpumask_intersects(cast_mask(mask), p->cpus_ptr) ? layer : STRAYS;
}

/**
 * charge - bring the virtual time of @p, and the clock of its layer, up to date
 * @q: the queue that it belongs to
 * @woke: it has slept since it was charged last
 *
 * Not static, like others here: the verifier looks at it once. Return: the virtual time.
 */
__noinline u64 charge(struct task_struct *p __arg_trusted, u32 q, bool woke)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct turns *t = turns_of(cpu);
	struct vtime_queue v = {
		.queue = q,
		.cpu = cpu,
		.now = &progress[at(q)].now,
		.slice_ns = slice_of(q),
	};
	u64 vtime = vtime_at(p, &v, policy_weight(p), 100, woke);

	*clock_of(t, q) = start_of(t, q) + worth(q, v.ran);
	return vtime;
}

/* Kernel threads, and scx_run itself, wake up on any CPU. */
static __always_inline bool comes_first(struct task_struct *p)
{
	return p->flags & PF_KTHREAD || p->tgid == policy_agent.tgid;
}

static __always_inline s32 pick_idle(struct task_struct *p, u32 q, u64 flags)
{
	if (q == STRAYS || queue(q)->everywhere)
		return scx_bpf_pick_idle_cpu(p->cpus_ptr, flags);
	return policy_pick_idle_of(p, mask_of(q), flags);
}

/* An idle CPU for @p, which was on @cpu last; it is then taken. A negative number if none is. */
static __always_inline s32 find_idle(struct task_struct *p, s32 cpu, u32 q)
{
	bool allowed = served_by(cpu) & 1U << q && bpf_cpumask_test_cpu(cpu, p->cpus_ptr);
	s32 found;

	if (policy_none_is_idle())
		return -1;
	if (allowed && policy_core_is_idle(cpu) && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	found = pick_idle(p, q, SCX_PICK_IDLE_CORE);
	if (found >= 0)
		return found;
	if (allowed && scx_bpf_test_and_clear_cpu_idle(cpu))
		return cpu;
	return pick_idle(p, q, 0);
}

/**
 * waiting_for - the queues that @cpu serves in which somebody waits, a bit each
 */
__noinline u32 waiting_for(s32 cpu)
{
	u32 served = served_by(cpu), waiting = 0, q;

	for (q = 0; q < LAYERS_MAX_QUEUES && q < policy_config.nr_layers; q++) {
		if (served & 1U << q && scx_bpf_dsq_nr_queued(POLICY_DSQ(q)) > 0)
			waiting |= 1U << q;
	}
	if (READ_ONCE(some_strays) && scx_bpf_dsq_nr_queued(POLICY_DSQ(STRAYS)) > 0)
		waiting |= 1U << STRAYS;
	return waiting;
}

/**
 * layers_select_cpu - an idle CPU of its layer, or its waker's, runs @p at once
 */
s32 BPF_STRUCT_OPS(layers_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu = bpf_get_smp_processor_id();
	u32 q;

	if (comes_first(p))
		return policy_select_idle(p, prev_cpu, wake_flags);
	q = queue_of(p);
	/* The waker is about to sleep. See policy_find_idle() for why nobody else may wait. */
	if (!(wake_flags & SCX_WAKE_SYNC && served_by(cpu) & 1U << q &&
	      bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
	      !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) && !policy_none_is_idle() &&
	      !waiting_for(cpu)))
		cpu = find_idle(p, prev_cpu, q);
	if (cpu < 0)
		return prev_cpu;
	scx_bpf_task_set_dsq_vtime(p, charge(p, q, true));
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_of(q), 0);
	return cpu;
}

static __always_inline u64 policy_rank(struct task_struct *p)
{
	return !comes_first(p) && !queue(last_layer_of(p))->preempt;
}

/* Whether @p takes @cpu from the task that is there. */
static __always_inline bool may_take(struct task_struct *p, s32 cpu, u32 q)
{
	struct turns *t = turns_of(cpu);

	/* One with somebody in its own queue has been called already. */
	return served_by(cpu) & 1U << q && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
	       !*policy_off_flag(cpu) &&
	       time_before(*clock_of(t, q), t->now + worth(q, slice_of(q))) &&
	       !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) && policy_rank_on(cpu);
}

/* The CPU that @p takes, the one where it was if that will do, or -1. */
static __always_inline s32 find_victim(struct task_struct *p, u32 q)
{
	s32 cpu = scx_bpf_task_cpu(p);
	u32 i;

	if (may_take(p, cpu, q))
		return cpu;
	bpf_for (i, 0, policy_nr_cpus) {
		if (may_take(p, i, q))
			return i;
	}
	return -1;
}

POLICY_ENQUEUE(layers_enqueue, p, enq_flags)
{
	u32 q = queue_of(p);
	bool woke = enq_flags & SCX_ENQ_WAKEUP;
	u64 vtime = charge(p, q, woke);
	s32 cpu = find_idle(p, scx_bpf_task_cpu(p), q), victim;

	if (cpu < 0 && policy_config.some_preempt && woke && queue(q)->preempt) {
		victim = find_victim(p, q);
		if (victim >= 0) {
			COUNT(preempted);
			scx_bpf_task_set_dsq_vtime(p, vtime);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | victim, slice_of(q),
					   enq_flags | SCX_ENQ_PREEMPT);
			return;
		}
	}
	if (q == STRAYS) {
		COUNT(strays);
		if (!READ_ONCE(some_strays))
			WRITE_ONCE(some_strays, 1);
	}
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(q), slice_of(q), vtime, enq_flags);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/* The queue out of @which whose clock is behind most on @cpu. */
__noinline u32 first_of(s32 cpu, u32 which)
{
	struct turns *t = turns_of(cpu);
	u64 start, least = 0;
	u32 found = NONE, q;

	for (q = 0; q < LAYERS_MAX_QUEUES && q <= policy_config.nr_layers; q++) {
		if (!(which & 1U << q))
			continue;
		start = start_of(t, q);
		if (found == NONE || time_before(start, least)) {
			found = q;
			least = start;
		}
	}
	return found;
}

/* Runs on @cpu a late task of queue @q, whatever the order. Return: whether there was one. */
static __noinline bool pick_late_of(u32 q, s32 cpu)
{
	u64 before = READ_ONCE(late_before);
	struct task_struct *p;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(q), 0) {
		if (!time_before(p->scx.runnable_at, before) || !policy_may_take(p, cpu))
			continue;
		if (scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0))
			return true;
	}
	return false;
}

/* A turn of a late task, if it is time for one. */
static __always_inline bool pick_late(struct turns *t, s32 cpu, u32 which)
{
	u32 q;

	if (likely(!(READ_ONCE(late) & which)) || t->asked % LATE_TURN)
		return false;
	bpf_for (q, 0, LAYERS_MAX_QUEUES) {
		if (READ_ONCE(late) & which & 1U << q && pick_late_of(q, cpu))
			return true;
	}
	return false;
}

POLICY_DISPATCH(layers_dispatch, cpu, prev)
{
	bool runs = prev && prev->scx.flags & SCX_TASK_QUEUED;
	struct task_struct *goes_on = NULL;
	struct turns *t = turns_of(cpu);
	u32 which, own = 0, q, i;
	u64 vtime = 0;

	t->asked++;
	if (prev) {
		q = queue_of(prev);
		vtime = charge(prev, q, false);
		scx_bpf_task_set_dsq_vtime(prev, vtime);
		if (runs && served_by(cpu) & 1U << q) {
			goes_on = prev;
			own = q;
		}
	}
	which = waiting_for(cpu);
	if (pick_late(t, cpu, which))
		return;
	if (goes_on)
		which |= 1U << own;
	/* A queue that is not empty may hold nobody for this CPU: then it is the next one's turn.
	 */
	bpf_for (i, 0, LAYERS_MAX_QUEUES) {
		q = first_of(cpu, which);
		if (q == NONE)
			break;
		begin_turn(t, q);
		if (goes_on && q == own && vtime_goes_on(goes_on, q, cpu, vtime, slice_of(q)))
			return;
		if (policy_pick(q))
			return;
		if (goes_on && q == own) {
			scx_bpf_task_set_slice(goes_on, slice_of(q));
			return;
		}
		which &= ~(1U << q);
	}
	if (runs && !goes_on && prev->tgid != policy_agent.tgid) {
		COUNT(evicted);
		policy_put_off(cpu, prev);
	}
}

#include "lookout.bpf.h"

POLICY_INIT()
{
	s32 ret;
	u32 q;

	bpf_for (q, 0, policy_config.nr_layers + 1) {
		ret = policy_create_dsq(q, -1) ?: policy_new_mask(mask_of(q));
		if (ret)
			return ret;
	}
	ret = policy_create_scratch_masks();
	if (ret)
		return ret;
	look_at_cpus();
	return policy_init_evictors() ?: start_looking();
}

POLICY_DEFINE(layers, "rules assign tasks to layers with CPUs, a share and a slice of their own",
	      .select_cpu = (void *)layers_select_cpu, .enqueue = (void *)layers_enqueue,
	      .dispatch = (void *)layers_dispatch, .cpu_online = (void *)layers_cpu_online,
	      .cpu_offline = (void *)layers_cpu_offline)
