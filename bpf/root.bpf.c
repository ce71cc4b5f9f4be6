// SPDX-License-Identifier: GPL-2.0-only
/*
 * The root scheduler: a sched_ext_ops whose every op tail-calls into the policy
 * in the active slot. It is attached once and stays; swapping a policy is one
 * store to the route word.
 *
 * There is one PROG_ARRAY an op, since the kernel lets an array hold programs of
 * a single op only. An op that the active policy lacks falls through the tail
 * call to the built-in default below it, so an empty slot is a working (if plain)
 * scheduler and no task is ever lost to a missing program.
 */
#include <scx/common.bpf.h>
#include "intf.h"
#include "shared_maps.bpf.h"
#include "census.bpf.h"
#include "release.bpf.h"

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

/*
 * Written by the agent with one aligned 64-bit store; each op reads the one field
 * that it needs. Ops that run concurrently with the store see the old policy or the
 * new one, both of which are loaded; what the old one still queues is drained after
 * an RCU grace period has shown that nobody runs in it any more.
 */
volatile struct route route __attribute__((aligned(8))) = {
	.active = ROUTE_NONE,
	.dispatch = ROUTE_NONE,
	.retired = ROUTE_NONE,
};
struct slot_desc slots[NR_SLOTS];

/* Tasks that dispatch moved out of a retired slot, for the swap's report. */
volatile u64 nr_drained;

/* DSQs one dispatch call looks at while it drains. */
#define DRAIN_SCAN 64

#define OP_SLOTS(op)                                   \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, NR_SLOTS + 1);     \
		__type(key, u32);                      \
		__type(value, u32);                    \
	} op##_slots SEC(".maps")

OP_SLOTS(select_cpu);
OP_SLOTS(enqueue);
OP_SLOTS(dequeue);
OP_SLOTS(dispatch);
OP_SLOTS(tick);
OP_SLOTS(runnable);
OP_SLOTS(running);
OP_SLOTS(stopping);
OP_SLOTS(quiescent);
OP_SLOTS(yield);
OP_SLOTS(set_weight);
OP_SLOTS(set_cpumask);
OP_SLOTS(update_idle);
OP_SLOTS(cpu_acquire);
OP_SLOTS(cpu_release);
OP_SLOTS(cpu_online);
OP_SLOTS(cpu_offline);
OP_SLOTS(exit_task);
OP_SLOTS(enable);
OP_SLOTS(disable);
OP_SLOTS(dump);
OP_SLOTS(dump_cpu);
OP_SLOTS(dump_task);

/*
 * An op as the kernel calls it, its arguments still in @ctx. BPF_STRUCT_OPS() would
 * load them all before the tail call and save them across it, for a default path
 * that hardly ever runs: about four instructions an op.
 */
#define ROOT_OP(name) SEC("struct_ops/" #name) int name(unsigned long long *ctx)

/**
 * active_slot - the slot that decides for the current op
 *
 * The one place that knows how an op finds its policy: partitions that give
 * CPUs or cgroups a policy of their own change only this function.
 */
static __always_inline u8 active_slot(void)
{
	return route.active;
}

/*
 * One way out of an op. A constant index makes the kernel patch a direct jump to
 * the program into the code (nothing if there is none). Without retpolines that
 * takes about as many instructions as an indirect jump; with them it avoids one.
 * The differing asm keeps the compiler from merging the calls into one with a
 * variable index.
 */
#define to_slot(op, slot)                              \
	do {                                           \
		asm volatile("# slot " #slot);         \
		bpf_tail_call(ctx, &op##_slots, slot); \
		asm volatile("# no slot " #slot);      \
	} while (0)

/* Does not return when slot @slot holds a policy that implements the op. */
#define to_any_slot(op, slot)                                          \
	do {                                                           \
		u8 __slot = (slot);                                    \
		_Static_assert(NR_SLOTS == 4, "a line for each slot"); \
		if (likely(__slot == 0))                               \
			to_slot(op, 0);                                \
		else if (__slot == 1)                                  \
			to_slot(op, 1);                                \
		else if (__slot == 2)                                  \
			to_slot(op, 2);                                \
		else if (__slot == 3)                                  \
			to_slot(op, 3);                                \
		else if (__slot == ROUTE_DRAIN)                        \
			to_slot(op, 4);                                \
	} while (0)

#define to_policy(op) to_any_slot(op, active_slot())

/**
 * drain_one - move one task of a retired slot to this CPU's local DSQ
 * @cpu: the CPU that dispatches
 * @slot: the retired slot
 *
 * The CPU's own queue comes first, then the others; of more than DRAIN_SCAN
 * queues each call looks at the next DRAIN_SCAN, so the work per dispatch is
 * bounded and every queue is reached. The cursor is advanced without atomics:
 * a lost update makes two CPUs look at the same queues, which is harmless.
 *
 * Return: true if a task was moved.
 */
static __always_inline bool drain_one(s32 cpu, u32 slot)
{
	struct slot_desc *s = &slots[slot & (NR_SLOTS - 1)];
	u32 nr = s->nr_dsqs, first, i;

	if (!nr)
		return false;
	first = nr > DRAIN_SCAN ? s->cursor : cpu;

	bpf_for (i, 0, DRAIN_SCAN) {
		if (i >= nr)
			break;
		/*
		 * The DSQ exists: the agent destroys it only after it has taken
		 * the slot out of the route word and waited for a grace period.
		 */
		if (scx_bpf_dsq_move_to_local(s->dsq_base + (first + i) % nr, 0)) {
			__sync_fetch_and_add(&nr_drained, 1);
			return true;
		}
	}
	if (nr > DRAIN_SCAN)
		s->cursor = (first + DRAIN_SCAN) % nr;
	return false;
}

/*
 * The arguments for what comes after a tail call that fails, which leaves no registers
 * but saved ones. Without this the compiler takes @ctx out of its place and puts it back
 * for each call.
 */
static __always_inline unsigned long long *saved(unsigned long long *ctx)
{
	asm volatile("" : "+r"(ctx));
	return ctx;
}

/* A function, so that what it keeps on the stack is not set up for each wakeup. */
static __noinline s32 select_cpu_default(unsigned long long *args)
{
	struct task_struct *p = (void *)args[0];
	bool is_idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, args[1], args[2], &is_idle);

	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

/**
 * root_select_cpu - pick a CPU for a waking task; default: an idle one if any
 */
ROOT_OP(root_select_cpu)
{
	unsigned long long *args = saved(ctx);

	to_policy(select_cpu);
	return select_cpu_default(args);
}

/**
 * root_enqueue - queue a runnable task; default: the kernel's global DSQ
 */
ROOT_OP(root_enqueue)
{
	unsigned long long *args = saved(ctx);

	to_policy(enqueue);
	scx_bpf_dsq_insert((void *)args[0], SCX_DSQ_GLOBAL, SCX_SLICE_DFL, args[1]);
	return 0;
}

/**
 * root_dequeue - a queued task leaves BPF's custody
 */
ROOT_OP(root_dequeue)
{
	to_policy(dequeue);
	return 0;
}

/**
 * root_dispatch - find work for a CPU; default: nothing, the kernel serves the
 * global DSQ itself
 *
 * Has a route of its own, so that draining costs nothing while nobody drains.
 */
ROOT_OP(root_dispatch)
{
	to_any_slot(dispatch, route.dispatch);
	return 0;
}

/**
 * root_drain - dispatch while a slot is being emptied: what the retired policy has
 * left comes first, then the active one is asked
 *
 * No op of its own: the agent puts it into the dispatch array at ROUTE_DRAIN.
 */
ROOT_OP(root_drain)
{
	u8 retired = route.retired;

	if (retired != ROUTE_NONE && drain_one(ctx[0], retired))
		return 0;
	to_policy(dispatch);
	return 0;
}

/**
 * root_tick - the timer tick of a CPU that runs @p
 */
ROOT_OP(root_tick)
{
	to_policy(tick);
	return 0;
}

/**
 * root_runnable - @p becomes runnable on its CPU
 */
ROOT_OP(root_runnable)
{
	to_policy(runnable);
	return 0;
}

/**
 * root_running - @p starts to run on its CPU
 */
ROOT_OP(root_running)
{
	to_policy(running);
	return 0;
}

/**
 * root_stopping - @p stops running
 */
ROOT_OP(root_stopping)
{
	to_policy(stopping);
	return 0;
}

/**
 * root_quiescent - @p is no longer runnable
 */
ROOT_OP(root_quiescent)
{
	to_policy(quiescent);
	return 0;
}

/**
 * root_yield - @from yields, to @to if that is given; default: give up the slice
 */
ROOT_OP(root_yield)
{
	to_policy(yield);
	/* What the kernel does for a scheduler without this op. */
	if (!ctx[1])
		scx_bpf_task_set_slice((void *)ctx[0], 0);
	return 0;
}

/**
 * root_set_weight - @p's weight changed
 */
ROOT_OP(root_set_weight)
{
	to_policy(set_weight);
	return 0;
}

/**
 * root_set_cpumask - @p's affinity changed
 */
ROOT_OP(root_set_cpumask)
{
	to_policy(set_cpumask);
	return 0;
}

/**
 * root_update_idle - @cpu becomes idle or busy; built-in tracking stays on
 */
ROOT_OP(root_update_idle)
{
	to_policy(update_idle);
	return 0;
}

/**
 * root_cpu_acquire - @cpu comes back from a higher scheduling class
 */
ROOT_OP(root_cpu_acquire)
{
	to_policy(cpu_acquire);
	return 0;
}

/**
 * root_cpu_release - a higher class takes @cpu; default: tasks that wait in its
 * local DSQ are queued again, so that another CPU can take them
 */
ROOT_OP(root_cpu_release)
{
	to_policy(cpu_release);
	reenqueue_local();
	return 0;
}

/**
 * root_cpu_online - @cpu comes up. That the op exists keeps the kernel from
 * ending the scheduler on hotplug.
 */
ROOT_OP(root_cpu_online)
{
	to_policy(cpu_online);
	return 0;
}

/**
 * root_cpu_offline - @cpu goes down; its queue is served by the others
 */
ROOT_OP(root_cpu_offline)
{
	to_policy(cpu_offline);
	return 0;
}

/**
 * root_exit_task - @p dies or leaves sched_ext
 */
ROOT_OP(root_exit_task)
{
	to_policy(exit_task);
	return 0;
}

/**
 * root_enable - @p enters sched_ext: it starts at the present virtual time,
 * under any policy, so that a later switch to a fair one finds it there
 */
void BPF_STRUCT_OPS(root_enable, struct task_struct *p)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});

	if (shared)
		scx_bpf_task_set_dsq_vtime(p, shared->vtime_now);
	to_policy(enable);
}

/**
 * root_disable - @p leaves sched_ext
 */
ROOT_OP(root_disable)
{
	to_policy(disable);
	return 0;
}

/**
 * root_dump - the framework's lines in a debug dump, then the policy's
 */
void BPF_STRUCT_OPS(root_dump, struct scx_dump_ctx *dctx)
{
	u8 retired = route.retired;

	scx_bpf_dump("root: active slot %d, epoch %u, retired slot %d, drained %llu",
		     route.active == ROUTE_NONE ? -1 : route.active, route.epoch,
		     retired == ROUTE_NONE ? -1 : retired, nr_drained);
	to_policy(dump);
}

/**
 * root_dump_cpu - the policy's lines on @cpu in a debug dump
 */
ROOT_OP(root_dump_cpu)
{
	to_policy(dump_cpu);
	return 0;
}

/**
 * root_dump_task - the policy's lines on @p in a debug dump
 */
ROOT_OP(root_dump_task)
{
	to_policy(dump_task);
	return 0;
}

/**
 * root_exit - the scheduler ends: record why
 */
void BPF_STRUCT_OPS(root_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

/* clang-format off */
SCX_OPS_DEFINE(root_ops,
	.select_cpu	= (void *)root_select_cpu,
	.enqueue	= (void *)root_enqueue,
	.dequeue	= (void *)root_dequeue,
	.dispatch	= (void *)root_dispatch,
	.tick		= (void *)root_tick,
	.runnable	= (void *)root_runnable,
	.running	= (void *)root_running,
	.stopping	= (void *)root_stopping,
	.quiescent	= (void *)root_quiescent,
	.yield		= (void *)root_yield,
	.set_weight	= (void *)root_set_weight,
	.set_cpumask	= (void *)root_set_cpumask,
	.update_idle	= (void *)root_update_idle,
	.cpu_acquire	= (void *)root_cpu_acquire,
	.cpu_release	= (void *)root_cpu_release,
	.cpu_online	= (void *)root_cpu_online,
	.cpu_offline	= (void *)root_cpu_offline,
	.exit_task	= (void *)root_exit_task,
	.enable		= (void *)root_enable,
	.disable	= (void *)root_disable,
	.dump		= (void *)root_dump,
	.dump_cpu	= (void *)root_dump_cpu,
	.dump_task	= (void *)root_dump_task,
	.exit		= (void *)root_exit,
	.name		= "scx_run");
/* clang-format on */

/*
 * Never attached: it is what makes root_drain() a program of the dispatch op.
 */
SCX_OPS_DEFINE(drain_ops, .dispatch = (void *)root_drain, .name = "drain");

#include "drain.bpf.h"
