// SPDX-License-Identifier: GPL-2.0-only
/*
 * cosched - tasks that do not trust each other never share a core
 *
 * The SMT siblings of a core share caches, buffers and ports, and what a task does with them
 * can be seen by who runs beside it (MDS, L1TF, PortSmash). So a core belongs to one trust
 * group at a time: its CPUs run tasks of this group or nothing. A trust group is a cgroup
 * (v2): tasks of the same cgroup trust each other. Kernel threads, and scx_run itself, are
 * trusted by all and run anywhere at any time; in that the kernel's core scheduling, where
 * kernel threads are a group of their own, is stricter.
 *
 * A group that gets a core has it for slice_us if another one waits for it, then the next
 * one has its turn: of those that wait, the one whose last turn is the longest ago. This
 * is gang scheduling in turns (Ousterhout, ICDCS 1982) with the rule of core scheduling;
 * scx_pair does it for pairs of CPUs. Within a group, first come, first served.
 *
 * How it is kept. Tasks get to a CPU in one place, dispatch, and from one queue. Before a
 * CPU takes a task it claims its core for the group, in a word with a bit for each of its
 * CPUs, and the claim fails while another CPU has a bit for another group. A CPU gives its
 * bit back not when the task stops but in the next pass through the scheduler, when the
 * idle task or a kernel thread has run since: then the switch is over on that CPU, and no
 * other can have begun before. So there is not a nanosecond of two groups, not even in a
 * trace. A CPU that has a task of one group changes to another group by that way only.
 *
 * When a turn ends and no kernel thread waits, evict.bpf.h calls one, which takes the task's
 * place.
 *
 * What it does not see: tasks that are not sched_ext's (real-time), and a task with migration
 * disabled, which the kernel puts on its CPU without asking. Such a one is put off again
 * when its slice ends. After a swap the same goes for tasks that the policy before left
 * running or queued, and for a task that another cgroup gets while it runs, for a slice.
 *
 * Cost: an enqueue is O(CPUs); a dispatch O(n) for the n tasks that wait before one that may
 * run, and O(n) more when a turn may end. A turn costs two switches to a kernel thread.
 * Worst case: among g groups, one waits for 2 slices of each of the others; a core of which
 * a group can use one CPU only has the others idle.
 *
 * Good for: hosts that run others' code on SMT and will not switch it off.
 * Bad for: throughput with more groups than cores, single-threaded groups, many waiting
 * tasks (one queue, one lock), shares (weights are ignored: turns count).
 *
 * Parameters: slice_us, core_cpus.
 */
#define POLICY_QUEUE_OF(cpu) QUEUE
#define POLICY_CATCH_UP()    forget_claims()

enum { QUEUE };

static __attribute__((always_inline)) void forget_claims(void);

#include "cores.bpf.h"

PARAM_U64(slice_us, 10000, 1000, 1000000, "us",
	  "time a core belongs to a group that others wait for");

COUNTER_U64(turns, "times that a core got another group");
COUNTER_U64(evicted, "tasks that were put off their CPU since the turn of their group was over");

#include "claims.bpf.h"
#include "evict.bpf.h"

/* A CPU of @cpu's core that may run @p, @cpu if it may, or -1. */
static __always_inline s32 allowed_in_core(struct task_struct *p, s32 cpu)
{
	s32 sibling;
	u32 i;

	if (policy_may_take(p, cpu))
		return cpu;
	for_each_sibling (sibling, i, cpu) {
		if (bpf_cpumask_test_cpu(sibling, p->cpus_ptr) && !*policy_off_flag(sibling))
			return sibling;
	}
	return -1;
}

/**
 * next_group - the group that should have @cpu's core next
 * @but: not this one
 *
 * Return: the group in the upper half and in the lower one a CPU that a task of it may use;
 * 0 if none waits for this core.
 */
__noinline u64 next_group(s32 cpu, u32 but)
{
	u64 found = 0, longest_ago = ~0ULL, served;
	struct task_struct *p;
	struct group *g;
	u32 group;
	s32 where;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(QUEUE), 0) {
		group = group_of(p);
		if (group == TRUSTED || group == but)
			continue;
		where = allowed_in_core(p, cpu);
		if (where < 0)
			continue;
		g = about_group(p);
		served = g ? g->served : 0;
		if (served >= longest_ago)
			continue;
		longest_ago = served;
		found = (u64)group << GROUP_SHIFT | (u32)where;
	}
	return found;
}

/* Gives @cpu the first task of @group, or of those that all trust. Return: whether it got one. */
__noinline bool take(s32 cpu, u32 group)
{
	struct task_struct *p;
	struct group *g;
	u32 its;

	bpf_for_each (scx_dsq, p, POLICY_DSQ(QUEUE), 0) {
		its = group_of(p);
		if ((its != group && its != TRUSTED) || !policy_may_take(p, cpu))
			continue;
		if (its != TRUSTED) {
			g = about_group(p);
			if (g)
				g->served = scx_bpf_now();
		}
		/*
		 * It may be gone meanwhile, or have another affinity: then it is not the
		 * one that was seen, and is not moved.
		 */
		if (scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0)) {
			WRITE_ONCE(*looking_of(cpu), 0);
			return true;
		}
	}
	return false;
}

/* Wakes a CPU that can run a task of @group, if it may use it. Return: whether it did. */
static __always_inline bool wake_for(struct task_struct *p, u32 group, s32 cpu)
{
	u64 claims;

	if (!READ_ONCE(*looking_of(cpu)) || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return false;
	claims = READ_ONCE(core_of(cpu)->claims);
	/* Bits of siblings that look for something are given back when they are woken. */
	if (group != TRUSTED && group_in(claims) != group && bits_of_others(claims, cpu, true))
		return false;
	if (!__sync_lock_test_and_set(looking_of(cpu), 0))
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

/* Wakes a CPU for @p, which waits in the queue; the one where it was, if that will do. */
static __noinline bool find_cpu(struct task_struct *p)
{
	u32 group = group_of(p), cpu;

	if (wake_for(p, group, scx_bpf_task_cpu(p)))
		return true;
	bpf_for (cpu, 0, policy_nr_cpus) {
		if (wake_for(p, group, cpu))
			return true;
	}
	return false;
}

/* Tasks that pass_on() looks at. */
#define PASS_ON 4
static u32 passed_on[NR_CPUS];

/*
 * Who has been woken for one task may have taken another: it wakes the next CPU, if there
 * are idle ones.
 */
static __always_inline void pass_on(s32 cpu)
{
	u32 *seen = &passed_on[(u32)cpu & (NR_CPUS - 1)];
	const struct cpumask *idle;
	struct task_struct *p;
	bool any;

	if (!scx_bpf_dsq_nr_queued(POLICY_DSQ(QUEUE)))
		return;
	idle = scx_bpf_get_idle_cpumask();
	any = !bpf_cpumask_empty(idle);
	scx_bpf_put_idle_cpumask(idle);
	if (!any)
		return;
	*seen = 0;
	bpf_for_each (scx_dsq, p, POLICY_DSQ(QUEUE), 0) {
		if (find_cpu(p) || ++*seen == PASS_ON)
			break;
	}
}

/**
 * end_turns - have @cpu's siblings go through the scheduler
 * @flags: SCX_KICK_PREEMPT to end the slices of what they run
 */
static __always_inline void end_turns(s32 cpu, u64 flags)
{
	u64 claims = READ_ONCE(core_of(cpu)->claims);
	s32 sibling;
	u32 i;

	for_each_sibling (sibling, i, cpu) {
		if (claims & policy_core_bit(sibling))
			scx_bpf_kick_cpu(sibling,
					 READ_ONCE(*looking_of(sibling)) ? SCX_KICK_IDLE : flags);
	}
}

/* Whether the turn of @group on @cpu's core is over. */
static __always_inline bool turn_is_over(s32 cpu, u32 group)
{
	struct core *core = core_of(cpu);
	u64 now = scx_bpf_now();

	if (time_before(now, READ_ONCE(core->turn_end)))
		return false;
	if (next_group(cpu, group))
		return true;
	WRITE_ONCE(core->turn_end, now + slice_us * 1000);
	return false;
}

/**
 * go_on - @cpu had @prev, a user's, until now, and may have more of its group
 */
static __always_inline void go_on(s32 cpu, struct task_struct *prev)
{
	bool runs = prev->scx.flags & SCX_TASK_QUEUED;
	u64 claims = READ_ONCE(core_of(cpu)->claims);
	u32 group = group_of(prev);
	bool over;

	/* It came here in another way than through take(). */
	if ((group_in(claims) != group || !(claims & policy_core_bit(cpu))) && !claim(cpu, group))
		over = true;
	else
		over = turn_is_over(cpu, group);
	if (!over && take(cpu, group)) {
		pass_on(cpu);
	} else if (runs && !over) {
		scx_bpf_task_set_slice(prev, slice_us * 1000);
		WRITE_ONCE(*looking_of(cpu), 0);
		pass_on(cpu);
	} else if (runs) {
		/* A kernel thread that waits does as well as one that is called. */
		if (!take(cpu, TRUSTED)) {
			WRITE_ONCE(*looking_of(cpu), 0);
			COUNT(evicted);
			policy_put_off(cpu, prev);
		}
		end_turns(cpu, SCX_KICK_PREEMPT);
	} else if (scx_bpf_dsq_nr_queued(POLICY_DSQ(QUEUE)) > 0) {
		/* It sleeps. Once it is off the CPU, this comes again and gives the claim back. */
		scx_bpf_kick_cpu(cpu, 0);
	}
}

/**
 * start - @cpu has nobody's task on it: choose the group, or help the one that is there
 */
static __always_inline void start(s32 cpu)
{
	u64 claims = give_back(cpu), next;
	u32 group = group_in(claims);

	if (!scx_bpf_dsq_nr_queued(POLICY_DSQ(QUEUE)))
		return;
	if (bits_of_others(claims, cpu, false)) {
		if (turn_is_over(cpu, group)) {
			end_turns(cpu, SCX_KICK_PREEMPT);
		} else if (claim(cpu, group)) {
			if (take(cpu, group)) {
				pass_on(cpu);
				return;
			}
			/* The siblings may have left it to this one in the meantime. */
			if (!bits_of_others(give_back(cpu), cpu, false))
				scx_bpf_kick_cpu(cpu, 0);
		}
		/* Those that have a bit still, but nothing to do with it. */
		end_turns(cpu, SCX_KICK_IDLE);
		take(cpu, TRUSTED);
		return;
	}
	next = next_group(cpu, TRUSTED);
	if (next && claim(cpu, group_in(next))) {
		if (take(cpu, group_in(next))) {
			pass_on(cpu);
			return;
		}
		give_back(cpu);
	}
	if (take(cpu, TRUSTED))
		return;
	/* It is a sibling's turn, or one was faster than this. */
	if (next)
		scx_bpf_kick_cpu((u32)next, SCX_KICK_IDLE);
}

/**
 * cosched_select_cpu - where @p was: the CPU is chosen when it is queued
 */
s32 BPF_STRUCT_OPS(cosched_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	if (group_of(p) == TRUSTED)
		return policy_select_idle(p, prev_cpu, wake_flags);
	return prev_cpu;
}

POLICY_ENQUEUE(cosched_enqueue, p, enq_flags)
{
	u64 slice = slice_us * 1000;

	if (policy_keeps_turn(p, enq_flags)) {
		enq_flags |= SCX_ENQ_HEAD;
		slice = p->scx.slice ?: slice;
	}
	scx_bpf_dsq_insert(p, POLICY_DSQ(QUEUE), slice, enq_flags);
	find_cpu(p);
}

POLICY_DISPATCH(cosched_dispatch, cpu, prev)
{
	bool runs = prev && prev->scx.flags & SCX_TASK_QUEUED;

	/* Full barrier: whoever does not see it has queued before. */
	__sync_lock_test_and_set(looking_of(cpu), 1);
	if (policy_next_sibling(cpu) == cpu) {
		/* Nobody to keep apart. */
		if (policy_pick(QUEUE) || runs)
			WRITE_ONCE(*looking_of(cpu), 0);
		pass_on(cpu);
	} else if (prev && group_of(prev) != TRUSTED) {
		go_on(cpu, prev);
	} else {
		start(cpu);
		/* If it finds nothing, a kernel thread goes on. */
		if (runs)
			WRITE_ONCE(*looking_of(cpu), 0);
	}
}

POLICY_INIT()
{
	forget_claims();
	return policy_init_evictors() ?: policy_create_dsq(QUEUE, -1);
}

POLICY_DEFINE(cosched, "tasks of different cgroups never run on SMT siblings at the same time",
	      .enqueue = (void *)cosched_enqueue, .dispatch = (void *)cosched_dispatch,
	      .select_cpu = (void *)cosched_select_cpu)
