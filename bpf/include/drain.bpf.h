/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Emptying a retired slot, as the agent does it: see root_drain() for the CPUs' part.
 * Included by root.bpf.c, whose slots these are.
 */
#ifndef __DRAIN_BPF_H
#define __DRAIN_BPF_H

/* Tasks that one call moves at most, of each queue. */
#define PUSH_BATCH 64

/**
 * push_tasks - move tasks from queue @dsq into the queues of the CPUs they were on
 *
 * A CPU that always has something in its own queue never dispatches and so does not
 * drain. Nobody races for the order any more: the policy that made it is gone.
 */
static __always_inline void push_tasks(u64 dsq)
{
	struct task_struct *p;
	u32 n = 0;
	s32 cpu;

	bpf_for_each (scx_dsq, p, dsq, 0) {
		if (n++ == PUSH_BATCH)
			break;
		cpu = scx_bpf_task_cpu(p);
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			cpu = bpf_cpumask_any_distribute(p->cpus_ptr);
		/*
		 * Affinity cannot change without the task leaving its queue, and then it
		 * is not moved.
		 */
		if (cpu < scx_bpf_nr_cpu_ids() &&
		    scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL_ON | cpu, 0))
			__sync_fetch_and_add(&nr_drained, 1);
	}
}

/**
 * slot_queued - count a slot's queued tasks, and wake idle CPUs if there are any
 *
 * Run by the agent while it drains: a task that the retired policy queued on
 * its last breath may find every CPU idle and nobody to kick one. If that goes on,
 * the agent asks for the tasks to be pushed to the CPUs.
 */
SEC("syscall")
int slot_queued(struct slot_args *args)
{
	struct slot_desc *s = &slots[args->slot & (NR_SLOTS - 1)];
	u32 i, nr = 0;

	bpf_for (i, 0, s->nr_dsqs) {
		s32 queued = scx_bpf_dsq_nr_queued(s->dsq_base + i);

		if (queued <= 0)
			continue;
		nr += queued;
		if (args->push) {
			/* Iterating wants it; ops have it anyway. */
			bpf_rcu_read_lock();
			push_tasks(s->dsq_base + i);
			bpf_rcu_read_unlock();
		}
	}
	if (nr) {
		bpf_for (i, 0, scx_bpf_nr_cpu_ids())
			scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
	}
	args->nr_queued = nr;
	return 0;
}

/* The scx headers lack these. */
extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task,
			     unsigned int flags) __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;

/* Not on the stack: the verifier would look at each round. */
static u32 nr_infinite;

/**
 * end_infinite_slices - see to it that infinite slices of a retired policy end
 *
 * The next one may count on slices that end. The agent runs this, once that policy has been out
 * of force for a grace period, until there are none left: one that waits in a CPU's own queue
 * runs first. A policy in force that gives them itself sees to their end, too. Return: enum
 * infinite_slices.
 */
SEC("syscall")
int end_infinite_slices(void *ctx)
{
	struct policy_shared *shared = bpf_map_lookup_elem(&policy_shared, &(u32){0});
	u64 by = shared ? READ_ONCE(shared->infinite_by) : 0;
	struct task_struct *p;

	if (!by || (u32)by == route.epoch)
		return INFINITE_NONE;
	nr_infinite = 0;
	bpf_rcu_read_lock();
	bpf_for_each (task, p, NULL, BPF_TASK_ITER_ALL_THREADS) {
		/* One that sleeps gets another slice when it wakes. */
		if (p->scx.slice != SCX_SLICE_INF || !(p->scx.flags & SCX_TASK_QUEUED))
			continue;
		nr_infinite++;
		/* If it is not who runs there, it comes to run that way. */
		scx_bpf_kick_cpu(scx_bpf_task_cpu(p), SCX_KICK_PREEMPT);
	}
	bpf_rcu_read_unlock();
	if (nr_infinite)
		return INFINITE_LEFT;
	/* Unless the policy in force has given one in the meantime. */
	__sync_val_compare_and_swap(&shared->infinite_by, by, 0);
	return INFINITE_ENDED;
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

	bpf_for (i, 0, s->nr_dsqs) {
		s32 queued = scx_bpf_dsq_nr_queued(s->dsq_base + i);

		if (queued > 0)
			nr += queued;
		else if (!queued)
			scx_bpf_destroy_dsq(s->dsq_base + i);
	}
	args->nr_queued = nr;
	return 0;
}

#endif /* __DRAIN_BPF_H */
