// SPDX-License-Identifier: GPL-2.0-only
/*
 * flatcg - the weights of nested cgroups, flattened into one level
 *
 * Algorithm. In each cgroup what is active, tasks and cgroups below it, shares what the cgroup
 * gets by weight. So the part of the machine that a task should have is the product of weight /
 * sum of weights over its level and all above. That product is its weight in one queue, ordered
 * by virtual time as in vtime: the tree costs nothing where the next task is picked, and a group
 * gets its share however many tasks it has. A task is active from when it becomes runnable
 * until it blocks or may not run by cpu.max (bandwidth.bpf.h), a cgroup while anything in it is.
 *
 * Source. Flattening is scx_flatcg's, which keeps a queue per cgroup and a tree of these, and
 * serves one cgroup for a while; here it is one queue of tasks. Proportional shares by virtual
 * time are those of vtime.
 *
 * Good for: containers and services with weights, on up to some tens of CPUs.
 * Bad for: latency beside hogs of the same weight (as vtime), many CPUs (one queue, one lock).
 * Cost: as vtime, and O(1) more when a task becomes runnable or blocks; O(levels) when a cgroup
 * becomes active or not, and for the first charge of a cgroup's task after that has happened
 * anywhere, or a tenth of a second later, when a weight may have changed.
 *
 * Worst case. A share is exact while the same tasks are active; who wakes and sleeps all the time
 * is charged by what is active at the moment when it is queued. A part of less than a millionth
 * of the machine counts as a millionth; deeper cgroups count as that of level MAX_LEVELS. One
 * with a limit may run more than its quota in a period, by up to a slice on each CPU, and less
 * in the next; of many tasks below a low limit each runs once in 5 s or so, whatever the limit
 * says, since the kernel ends a scheduler under which tasks wait.
 *
 * Parameters: slice_us.
 */
#define POLICY_QUEUE_OF(cpu) QUEUE

enum { QUEUE, PARKED };

#include "bandwidth.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"
#include "tree.bpf.h"

PARAM_U64(slice_us, 5000, 100, 1000000, "us", "time a task may run before the next is picked");

/* Progress of virtual time; its unit is not that of policies with absolute weights. */
static u64 vtime_now;

static __always_inline u64 vtime_of_task(struct task_struct *p, bool woke)
{
	struct vtime_queue q = {
		.queue = QUEUE,
		.cpu = scx_bpf_task_cpu(p),
		.now = &vtime_now,
		.slice_ns = slice_us * 1000,
		.weights_vary = true,
	};
	struct group *group;
	u64 part = join(p, &group), vtime;

	/* A group has its part however often it replaces its tasks by new ones. */
	if (group) {
		q.newcomers = &group->newcomers;
		q.newcomer_worth = in_group(group, VTIME_FIRST);
	}
	vtime = vtime_at(p, &q, part, ONE, woke);
	if (q.is_new)
		note_new(p, q.newcomer_worth);
	return vtime;
}

/**
 * flatcg_select_cpu - an idle CPU runs @p at once, and it counts from now on
 */
s32 BPF_STRUCT_OPS(flatcg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s64 left = bandwidth_left(p);
	struct group *group;
	bool is_idle = false;
	s32 cpu;

	if (left <= 0)
		return prev_cpu;
	cpu = policy_find_idle(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle) {
		join(p, &group);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, bandwidth_slice(left, slice_us * 1000), 0);
	}
	return cpu;
}

POLICY_ENQUEUE(flatcg_enqueue, p, enq_flags)
{
	s64 left = bandwidth_left(p);
	u64 vtime;

	if (left > 0 && policy_run_overdue(p, bandwidth_slice(left, slice_us * 1000), enq_flags))
		return;
	vtime = vtime_of_task(p, enq_flags & SCX_ENQ_WAKEUP);
	if (likely(left > 0)) {
		policy_queue_vtime(p, QUEUE, bandwidth_slice(left, slice_us * 1000), vtime,
				   enq_flags);
		return;
	}
	scx_bpf_task_set_dsq_vtime(p, vtime);
	bandwidth_park(p, enq_flags);
}

static __always_inline void bandwidth_parks(struct task_struct *p)
{
	retire(p);
}

/*
 * It competes anew: nobody owes it what it could not have. Nothing keeps it from being taken
 * away here, run and put to sleep before it is made active; then it is not queued any more.
 */
static __always_inline void bandwidth_unpark(struct bpf_iter_scx_dsq *it, struct task_struct *p)
{
	u64 vtime = p->scx.dsq_vtime, first;
	struct group *group;

	join(p, &group);
	if (!policy_first_vtime(QUEUE, scx_bpf_task_cpu(p), &first))
		first = vtime_now;
	scx_bpf_dsq_move_set_vtime(it, time_before(vtime, first) ? first : vtime);
	if (!scx_bpf_dsq_move_vtime(it, p, POLICY_DSQ(QUEUE), 0) &&
	    !(p->scx.flags & SCX_TASK_QUEUED))
		retire(p);
}

POLICY_DISPATCH(flatcg_dispatch, cpu, prev)
{
	s64 left;

	policy_see_to_overdue(QUEUE);
	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED)) {
		bandwidth_pick(QUEUE, cpu);
		return;
	}
	left = bandwidth_left(prev);
	if (left > 0 && vtime_goes_on(prev, QUEUE, cpu, vtime_of_task(prev, false),
				      bandwidth_slice(left, slice_us * 1000)))
		return;
	if (!bandwidth_pick(QUEUE, cpu) && left <= 0)
		policy_put_off(cpu, prev);
}

/**
 * policy_switch - who blocks is billed, and not active any more
 *
 * Under the run queue's lock; while another policy is in force for a while, too.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(policy_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	if (!preempt && prev_state) {
		bandwidth_left(prev);
		retire(prev);
	}
	if (prev_state & TASK_DEAD)
		refund_new(prev);
	return 0;
}

POLICY_INIT()
{
	return bandwidth_init() ?: policy_create_dsq(QUEUE, -1) ?: policy_create_dsq(PARKED, -1);
}

POLICY_DEFINE(flatcg, "the weights of nested cgroups, flattened into one level, and cpu.max",
	      .select_cpu = (void *)flatcg_select_cpu, .enqueue = (void *)flatcg_enqueue,
	      .dispatch = (void *)flatcg_dispatch)
