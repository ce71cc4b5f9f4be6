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
