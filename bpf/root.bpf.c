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

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

/*
 * Written by the agent with one aligned store, read once at the start of an op.
 * Ops that run concurrently with the store see the old policy or the new one,
 * both of which are loaded; what the old one still queues is drained after an
 * RCU grace period has shown that nobody runs in it any more.
 */
volatile u64 route = (u64)ROUTE_NONE << ROUTE_RETIRED_SHIFT | ROUTE_NONE;
struct slot_desc slots[NR_SLOTS];

/* Tasks that dispatch moved out of a retired slot, for the swap's report. */
volatile u64 nr_drained;

/* DSQs one dispatch call looks at while it drains. */
#define DRAIN_SCAN 64

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct policy_shared);
} policy_shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct policy_task);
} policy_tasks SEC(".maps");

#define OP_SLOTS(op)                                                                               \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                             \
		__uint(max_entries, NR_SLOTS);                                                     \
		__type(key, u32);                                                                  \
		__type(value, u32);                                                                \
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

/**
 * active_slot - the slot that decides for the current op
 *
 * The one place that knows how an op finds its policy: partitions that give
 * CPUs or cgroups a policy of their own change only this function.
 */
static __always_inline u32 active_slot(u64 r)
{
	return (r >> ROUTE_ACTIVE_SHIFT) & ROUTE_SLOT_MASK;
}

static __always_inline u32 retired_slot(u64 r)
{
	return (r >> ROUTE_RETIRED_SHIFT) & ROUTE_SLOT_MASK;
}

/* Does not return when there is an active policy and it implements the op. */
#define to_policy(op) bpf_tail_call(ctx, &op##_slots, active_slot(route))

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

	bpf_for(i, 0, DRAIN_SCAN)
	{
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

/**
 * root_select_cpu - pick a CPU for a waking task; default: an idle one if any
 */
s32 BPF_STRUCT_OPS(root_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;
	s32 cpu;

	to_policy(select_cpu);
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle)
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	return cpu;
}

/**
 * root_enqueue - queue a runnable task; default: the kernel's global DSQ
 */
void BPF_STRUCT_OPS(root_enqueue, struct task_struct *p, u64 enq_flags)
{
	to_policy(enqueue);
	scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, SCX_SLICE_DFL, enq_flags);
}

/**
 * root_dequeue - a queued task leaves BPF's custody
 */
void BPF_STRUCT_OPS(root_dequeue, struct task_struct *p, u64 deq_flags)
{
	to_policy(dequeue);
}

/**
 * root_dispatch - find work for a CPU: what a retired policy left, then the
 * active policy's; default: nothing, the kernel serves the global DSQ itself
 */
void BPF_STRUCT_OPS(root_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 r = route;
	u32 retired = retired_slot(r);

	if (unlikely(retired != ROUTE_NONE) && drain_one(cpu, retired))
		return;
	bpf_tail_call(ctx, &dispatch_slots, active_slot(r));
}

/**
 * root_tick - the timer tick of a CPU that runs @p
 */
void BPF_STRUCT_OPS(root_tick, struct task_struct *p)
{
	to_policy(tick);
}

/**
 * root_runnable - @p becomes runnable on its CPU
 */
void BPF_STRUCT_OPS(root_runnable, struct task_struct *p, u64 enq_flags)
{
	to_policy(runnable);
}

/**
 * root_running - @p starts to run on its CPU
 */
void BPF_STRUCT_OPS(root_running, struct task_struct *p)
{
	to_policy(running);
}

/**
 * root_stopping - @p stops running
 */
void BPF_STRUCT_OPS(root_stopping, struct task_struct *p, bool runnable)
{
	to_policy(stopping);
}

/**
 * root_quiescent - @p is no longer runnable
 */
void BPF_STRUCT_OPS(root_quiescent, struct task_struct *p, u64 deq_flags)
{
	to_policy(quiescent);
}

/**
 * root_yield - @from yields, to @to if that is given; default: give up the slice
 */
bool BPF_STRUCT_OPS(root_yield, struct task_struct *from, struct task_struct *to)
{
	to_policy(yield);
	/* What the kernel does for a scheduler without this op. */
	if (!to)
		scx_bpf_task_set_slice(from, 0);
	return false;
}

/**
 * root_set_weight - @p's weight changed
 */
void BPF_STRUCT_OPS(root_set_weight, struct task_struct *p, u32 weight)
{
	to_policy(set_weight);
}

/**
 * root_set_cpumask - @p's affinity changed
 */
void BPF_STRUCT_OPS(root_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	to_policy(set_cpumask);
}

/**
 * root_update_idle - @cpu becomes idle or busy; built-in tracking stays on
 */
void BPF_STRUCT_OPS(root_update_idle, s32 cpu, bool idle)
{
	to_policy(update_idle);
}

/**
 * root_cpu_acquire - @cpu comes back from a higher scheduling class
 */
void BPF_STRUCT_OPS(root_cpu_acquire, s32 cpu, struct scx_cpu_acquire_args *args)
{
	to_policy(cpu_acquire);
}

/**
 * root_cpu_release - a higher class takes @cpu; default: tasks that wait in its
 * local DSQ are queued again, so that another CPU can take them
 */
void BPF_STRUCT_OPS(root_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	to_policy(cpu_release);
	scx_bpf_reenqueue_local();
}

/**
 * root_cpu_online - @cpu comes up. That the op exists keeps the kernel from
 * ending the scheduler on hotplug.
 */
void BPF_STRUCT_OPS(root_cpu_online, s32 cpu)
{
	to_policy(cpu_online);
}

/**
 * root_cpu_offline - @cpu goes down; its queue is served by the others
 */
void BPF_STRUCT_OPS(root_cpu_offline, s32 cpu)
{
	to_policy(cpu_offline);
}

/**
 * root_exit_task - @p dies or leaves sched_ext
 */
void BPF_STRUCT_OPS(root_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	to_policy(exit_task);
}

/**
 * root_enable - @p enters sched_ext: it starts at the present virtual time,
 * under any policy, so that a later switch to a fair one finds it there
 */
void BPF_STRUCT_OPS(root_enable, struct task_struct *p)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){ 0 });

	if (shared)
		scx_bpf_task_set_dsq_vtime(p, shared->vtime_now);
	to_policy(enable);
}

/**
 * root_disable - @p leaves sched_ext
 */
void BPF_STRUCT_OPS(root_disable, struct task_struct *p)
{
	to_policy(disable);
}

/**
 * root_dump - the framework's lines in a debug dump, then the policy's
 */
void BPF_STRUCT_OPS(root_dump, struct scx_dump_ctx *dctx)
{
	u64 r = route;

	scx_bpf_dump("root: active slot %u, epoch %u, retired slot %d, drained %llu", active_slot(r),
		     (u32)(r >> ROUTE_EPOCH_SHIFT),
		     retired_slot(r) == ROUTE_NONE ? -1 : (s32)retired_slot(r), nr_drained);
	to_policy(dump);
}

/**
 * root_dump_cpu - the policy's lines on @cpu in a debug dump
 */
void BPF_STRUCT_OPS(root_dump_cpu, struct scx_dump_ctx *dctx, s32 cpu, bool idle)
{
	to_policy(dump_cpu);
}

/**
 * root_dump_task - the policy's lines on @p in a debug dump
 */
void BPF_STRUCT_OPS(root_dump_task, struct scx_dump_ctx *dctx, struct task_struct *p)
{
	to_policy(dump_task);
}

/**
 * root_exit - the scheduler ends: record why
 */
void BPF_STRUCT_OPS(root_exit, struct scx_exit_info *ei)
{
	UEI_RECORD(uei, ei);
}

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

/**
 * slot_queued - count a slot's queued tasks, and wake idle CPUs if there are any
 *
 * Run by the agent while it drains: a task that the retired policy queued on
 * its last breath may find every CPU idle and nobody to kick one.
 */
SEC("syscall")
int slot_queued(struct slot_args *args)
{
	struct slot_desc *s = &slots[args->slot & (NR_SLOTS - 1)];
	u32 i, nr = 0;

	bpf_for(i, 0, s->nr_dsqs)
	{
		s32 queued = scx_bpf_dsq_nr_queued(s->dsq_base + i);

		if (queued > 0)
			nr += queued;
	}
	if (nr) {
		bpf_for(i, 0, scx_bpf_nr_cpu_ids())
			scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
	}
	args->nr_queued = nr;
	return 0;
}

/**
 * slot_destroy - destroy a slot's DSQs
 *
 * The agent has seen them empty, with the slot out of the route word and a
 * grace period past, so nothing can be queued there any more. A DSQ that is
 * not empty all the same is left alone: destroying it would end the scheduler.
 */
SEC("syscall")
int slot_destroy(struct slot_args *args)
{
	struct slot_desc *s = &slots[args->slot & (NR_SLOTS - 1)];
	u32 i, nr = 0;

	bpf_for(i, 0, s->nr_dsqs)
	{
		s32 queued = scx_bpf_dsq_nr_queued(s->dsq_base + i);

		if (queued > 0)
			nr += queued;
		else if (!queued)
			scx_bpf_destroy_dsq(s->dsq_base + i);
	}
	args->nr_queued = nr;
	return 0;
}

/**
 * census - list every sched_ext task that is runnable and not on a CPU
 *
 * The check that a swap lost nobody: see framework's census.rs.
 */
SEC("iter/task")
int census(struct bpf_iter__task *ctx)
{
	struct census_entry e = {};
	struct task_struct *p = ctx->task;
	struct scx_dispatch_q *dsq;

	if (!p || !(p->scx.flags & SCX_TASK_QUEUED) || scx_bpf_task_running(p))
		return 0;
	e.pid = p->pid;
	e.cpu = scx_bpf_task_cpu(p);
	dsq = p->scx.dsq;
	e.dsq_id = dsq ? dsq->id : 0;
	e.runnable_at = p->scx.runnable_at;
	e.waited_ticks = bpf_jiffies64() - e.runnable_at;
	bpf_probe_read_kernel_str(e.comm, sizeof(e.comm), p->comm);
	bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}
