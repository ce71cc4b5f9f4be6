/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The census of waiting tasks, a part of the root's object: framework's census.rs
 * reads it.
 */
#ifndef __CENSUS_BPF_H
#define __CENSUS_BPF_H

/**
 * census - list every sched_ext task that is runnable and not on a CPU
 *
 * The check that a swap lost nobody.
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

#endif /* __CENSUS_BPF_H */
