/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The policy SDK: the one header that a policy includes.
 *
 * A policy says where a runnable task waits (POLICY_ENQUEUE) and what a CPU runs
 * next (POLICY_DISPATCH), declares its parameters (PARAM_U64) and its queues
 * (POLICY_INIT), and is registered by POLICY_DEFINE. docs/writing-a-policy.md
 * builds one step by step.
 *
 * The same object runs in a slot of the root scheduler and, with
 * `scx_run --direct`, attached by itself. What an author would forget is done
 * here: kernel threads, tasks tied to CPUs, migration-disabled tasks, idle CPUs
 * that have to be woken, CPU hotplug, exit information.
 */
#ifndef __POLICY_BPF_H
#define __POLICY_BPF_H

#include <scx/common.bpf.h>
#include "intf.h"
#include "shared_maps.bpf.h"
#include "release.bpf.h"
#include "force.bpf.h"

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

/* Set by the framework: tells this policy's per-task state from that of the policies before it. */
const volatile u64 policy_epoch = 1;

/* --- Parameters ---------------------------------------------------------- */

/**
 * PARAM_U64 - declare a parameter
 * @name: the variable, and what `--param` calls it
 * @dfl: its default
 * @lo: smallest legal value
 * @hi: largest legal value
 * @unit: "us", "tasks", "" ...
 * @desc: one line for `scx_run list`
 *
 * The framework finds it by its BTF and refuses values out of range, so the
 * policy may rely on the range.
 */
#define PARAM_U64(name, dfl, lo, hi, unit, desc) \
	const volatile u64 name                  \
		__attribute__((btf_decl_tag("param:" #lo ":" #hi ":" unit ":" desc))) = (dfl)

/**
 * POLICY_CONFIG - declare what a configuration file (`--config`) is compiled into
 * @type: a struct of integers and arrays
 * @desc: one line for `scx_run list`
 *
 * The variable is policy_config. The policy's config.rs fills it, also when no file is given.
 */
#define POLICY_CONFIG(type, desc) \
	const volatile type policy_config __attribute__((btf_decl_tag("config:" desc)))

/**
 * COUNTER_U64 - declare a counter
 * @name: the variable, and what `scx_run status` calls it
 * @desc: one line for whoever reads the source
 *
 * The framework finds it by its BTF. Add with COUNT(): CPUs count at the same time.
 */
#define COUNTER_U64(name, desc) u64 name __attribute__((btf_decl_tag("counter:" desc)))
#define COUNT(name)		__sync_fetch_and_add(&(name), 1)

/* --- Weights --------------------------------------------------------------- */

/* Levels of cgroups whose weights count; deeper ones are taken as 100. */
#define POLICY_CGROUP_DEPTH 8

struct scx_task_group___sdk {
	u32 weight;
} __attribute__((preserve_access_index));

/* cpu.max, ns */
struct cfs_bandwidth___sdk {
	s64 period;
	u64 quota;
	u64 burst;
} __attribute__((preserve_access_index));

struct task_group___sdk {
	struct cgroup_subsys_state css;
	struct cfs_bandwidth___sdk cfs_bandwidth;
	struct scx_task_group___sdk scx;
	/* its name before v6.18 */
	u32 scx_weight;
	struct task_group___sdk *parent;
} __attribute__((preserve_access_index));

/**
 * policy_scale_weight - @weight times cpu.weight / 100 of each cgroup above @p
 *
 * Read where the kernel keeps them: no cgroup op has to have been there when they were
 * set. Weights apply to each task: two tasks in a cgroup of weight 200 get twice what two
 * tasks in one of weight 100 get. Return: 1 or more.
 */
static __always_inline u64 policy_scale_weight(struct task_struct *p, u64 weight)
{
	if (bpf_core_field_exists(p->sched_task_group)) {
		struct task_group___sdk *tg = (void *)p->sched_task_group;
		u32 i;

		for (i = 0; i < POLICY_CGROUP_DEPTH; i++) {
			struct task_group___sdk *parent = tg->parent;

			/* the root cgroup has no weight */
			if (!parent)
				break;
			if (bpf_core_field_exists(tg->scx.weight))
				weight = weight * tg->scx.weight / 100;
			else if (bpf_core_field_exists(tg->scx_weight))
				weight = weight * tg->scx_weight / 100;
			tg = parent;
		}
	}
	return weight ?: 1;
}

/* @p's weight from its nice value and its cgroups, 100 = default. Return: 1 or more. */
static __always_inline u64 policy_weight(struct task_struct *p)
{
	return policy_scale_weight(p, p->scx.weight);
}

/* What outlives the policies of what is known of @p; NULL if there is no memory for it. */
static __always_inline struct policy_task *policy_history(struct task_struct *p)
{
	return bpf_task_storage_get(&policy_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

/**
 * policy_charge_to - take the run time of @p since it was charged last
 * @t: its history
 * @queue: the queue that it competes in
 * @ran: where it goes, ns
 * @moved: where it goes whether @p competed in another queue before
 *
 * Exact: taken from what the kernel accounts, however the task came to run.
 * Return: false if @p is new to this policy. It has run nothing then: it does not
 * pay for what it ran under another one.
 */
static __always_inline bool policy_charge_to(struct task_struct *p, struct policy_task *t,
					     u32 queue, u64 *ran, bool *moved)
{
	u64 sum = p->se.sum_exec_runtime;
	bool known = t->epoch == policy_epoch;

	*ran = known ? sum - t->charged_ns : 0;
	*moved = known && t->queue != queue;
	t->epoch = policy_epoch;
	t->charged_ns = sum;
	t->queue = queue;
	return known;
}

/* The same for who does not care which queue it is. */
static __always_inline bool policy_charge(struct task_struct *p, u64 *ran)
{
	struct policy_task *t = policy_history(p);
	bool moved;

	if (t)
		return policy_charge_to(p, t, 0, ran, &moved);
	/* No memory for it: the task is not charged this once, nothing breaks. */
	*ran = 0;
	return true;
}

/* policy_note_wakeup() for who has looked up the history of @p already. */
static __always_inline u64 policy_note_wakeup_in(struct task_struct *p, struct policy_task *t)
{
	u64 sum = p->se.sum_exec_runtime, burst = sum - t->woke_at_ns;

	t->burst_ns = t->woke_at_ns ? (3 * t->burst_ns + burst) / 4 : burst;
	t->woke_at_ns = sum;
	return t->burst_ns;
}

/**
 * policy_note_wakeup - note in @p's history that it wakes up
 *
 * Once for each wakeup, or the average is too short. Return: how long it runs from a wakeup
 * until it sleeps, ns; 0 for a new task.
 */
static __always_inline u64 policy_note_wakeup(struct task_struct *p)
{
	struct policy_task *t = policy_history(p);

	return t ? policy_note_wakeup_in(p, t) : 0;
}

/**
 * policy_turn - what is left of @p's turn of @slice_ns, as it is queued
 * @woke: it has slept since: a new turn begins
 *
 * A turn that somebody else has cut short goes on; after one that is over, a new one
 * begins here. Not with policy_charge() in the same policy. Return: ns, @slice_ns if it
 * is a new turn.
 */
static __always_inline u64 policy_turn(struct task_struct *p, u64 slice_ns, bool woke)
{
	u64 sum = p->se.sum_exec_runtime;
	struct policy_task *t;

	t = policy_history(p);
	/* No memory for it: a new turn each time, nothing breaks. */
	if (!t)
		return slice_ns;
	if (!woke && t->epoch == policy_epoch && sum - t->charged_ns < slice_ns)
		return slice_ns - (sum - t->charged_ns);
	t->epoch = policy_epoch;
	t->charged_ns = sum;
	return slice_ns;
}

/**
 * policy_end_turn - end the turn of @p, whatever is left of it
 *
 * For a task that yields, or gets a CPU without being queued.
 */
static __always_inline void policy_end_turn(struct task_struct *p)
{
	struct policy_task *t = bpf_task_storage_get(&policy_tasks, p, NULL, 0);

	if (t)
		t->epoch = 0;
}

/* --- Hints ------------------------------------------------------------------ */

/**
 * policy_hint - what was said of @p with `scx_run hint`
 *
 * A hint may come or go at any time, and is replaced as a whole: what this returns
 * does not change, but is valid only until the op returns. While nobody has been given
 * one, it is two instructions. Return: NULL if there is none.
 */
static __always_inline const struct policy_hint *policy_hint(struct task_struct *p)
{
	return policy_agent.hinted ? bpf_task_storage_get(&policy_hints, p, NULL, 0) : NULL;
}

/* --- Ops -------------------------------------------------------------------- */

/**
 * policy_find_idle - an idle CPU near @prev_cpu for @p, which is then taken
 * @is_idle: where it goes whether there is one
 *
 * For select_cpu only. A synchronous wakeup may also get the waker's own CPU, which is
 * about to sleep; but a pair that wakes each other that way for ever would keep its
 * CPU from asking for anything else, so it is allowed only while nobody waits in the
 * CPU's queue. Return: the CPU, or @prev_cpu if none is idle.
 */
static __always_inline s32 policy_find_idle(struct task_struct *p, s32 prev_cpu, u64 wake_flags,
					    bool *is_idle)
{
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, is_idle);

	if (*is_idle && cpu == bpf_get_smp_processor_id() && policy_nr_dsqs &&
	    scx_bpf_dsq_nr_queued(POLICY_DSQ(POLICY_QUEUE_OF(cpu))) > 0)
		*is_idle = false;
	return cpu;
}

/**
 * policy_select_idle - an idle CPU near @prev_cpu, if there is one, runs @p at once
 *
 * For select_cpu only; see policy_find_idle(). Return: the CPU, or @prev_cpu if none is idle.
 */
static __always_inline s32 policy_select_idle(struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu = policy_find_idle(p, prev_cpu, wake_flags, &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

/**
 * policy_select_cpu - the select_cpu of a policy that defines none
 */
s32 BPF_STRUCT_OPS(policy_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return policy_select_idle(p, prev_cpu, wake_flags);
}

/**
 * policy_enqueue_first - what runs before any policy
 *
 * Kernel threads that wake up (ksoftirqd, kswapd, kworkers ...) do work that others
 * wait for; behind user tasks they could stall the machine. One that has used up a
 * slice is a CPU hog like any other and takes its turn. The agent comes first
 * always: the policy that would keep it waiting may be the one it is about to
 * replace. Return: true if @p was such a task and is queued.
 */
static __always_inline bool policy_enqueue_first(struct task_struct *p, u64 enq_flags)
{
	bool kthread = p->flags & PF_KTHREAD;

	if (likely(!kthread && p->tgid != policy_agent.tgid))
		return false;
	if (kthread && !(enq_flags & SCX_ENQ_WAKEUP))
		return false;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
	return true;
}

/**
 * POLICY_ENQUEUE - define the policy's enqueue op: where @p waits
 *
 * Called for user tasks and for kernel threads that used up a slice; a task that
 * cannot migrate at present is handled by the kernel and never gets here. Every
 * path must queue the task: policy_queue() or policy_queue_vtime().
 */
#define POLICY_ENQUEUE(name, p, enq_flags)                                              \
	static __always_inline void name##__body(struct task_struct *p, u64 enq_flags); \
	void BPF_STRUCT_OPS(name, struct task_struct *__p, u64 __flags)                 \
	{                                                                               \
		if (!policy_enqueue_first(__p, __flags))                                \
			name##__body(__p, __flags);                                     \
	}                                                                               \
	static __always_inline void name##__body(struct task_struct *p, u64 enq_flags)

/**
 * POLICY_DISPATCH - define the policy's dispatch op: what @cpu runs next
 *
 * @prev ran until now; it is NULL if there was none. Use policy_pick().
 */
#define POLICY_DISPATCH(name, cpu, prev)                                             \
	static __always_inline void name##__body(s32 cpu, struct task_struct *prev); \
	void BPF_STRUCT_OPS(name, s32 __cpu, struct task_struct *__prev)             \
	{                                                                            \
		if (!policy_pick_orphan())                                           \
			name##__body(__cpu, __prev);                                 \
	}                                                                            \
	static __always_inline void name##__body(s32 cpu, struct task_struct *prev)

/**
 * POLICY_INIT - define what happens before the policy's first op
 *
 * Create the queues here. Return: 0, or a negative errno that ends the load.
 */
#define POLICY_INIT() static s32 policy_init(void)

static s32 policy_init(void);

/**
 * policy_prepare - the policy's init when it goes into a slot
 *
 * The init op cannot be run there: it belongs to attaching. The agent runs this.
 */
SEC("syscall")
int policy_prepare(void *ctx)
{
	return policy_init_leave_timer() ?: policy_init();
}

s32 BPF_STRUCT_OPS_SLEEPABLE(policy_ops_init)
{
	/* Attached by itself it is in force until it ends. */
	WRITE_ONCE(policy_in_force, true);
	return policy_init_leave_timer() ?: policy_init();
}

void BPF_STRUCT_OPS(policy_ops_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

void BPF_STRUCT_OPS(policy_ops_enable, struct task_struct *p)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});

	if (shared)
		scx_bpf_task_set_dsq_vtime(p, shared->vtime_now);
}

void BPF_STRUCT_OPS(policy_ops_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	reenqueue_local();
}

/* In a slot the root has these ops; the framework leaves the policy's out. */
#define POLICY_OPS_OF_ROOT                                                \
	.init = (void *)policy_ops_init, .exit = (void *)policy_ops_exit, \
	.enable = (void *)policy_ops_enable, .cpu_release = (void *)policy_ops_cpu_release

/**
 * POLICY_DEFINE - register the policy
 * @__name: its name, an identifier
 * @__desc: one line for `scx_run list`
 * @...: its ops, as in SCX_OPS_DEFINE()
 */
#define POLICY_DEFINE(__name, __desc, ...)                                                \
	_Pragma("clang diagnostic push")                                                  \
		_Pragma("clang diagnostic ignored \"-Winitializer-overrides\"")           \
			SEC(".struct_ops.link") __attribute__((btf_decl_tag(              \
				"policy:" __desc))) struct sched_ext_ops __name##_ops = { \
				.select_cpu = (void *)policy_select_cpu,                  \
				.cpu_online = (void *)policy_cpu_online,                  \
				.cpu_offline = (void *)policy_cpu_offline,                \
				POLICY_OPS_OF_ROOT,                                       \
				.name = #__name,                                          \
				__VA_ARGS__};                                             \
	_Pragma("clang diagnostic pop")

#endif /* __POLICY_BPF_H */
