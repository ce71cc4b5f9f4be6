/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What happens to a CPU's tasks when a higher scheduling class takes the CPU.
 */
#pragma once

/**
 * reenqueue_local - queue again what waits in the local DSQ of this CPU
 *
 * For cpu_release. The task that is being preempted goes with the others, but a BPF
 * program that runs on its CPU keeps it from migrating for as long, so kernels that
 * queue again at once (before v7.0) see a task that cannot migrate: they put it back
 * and give it the default slice. Preempted often enough, as by a real-time thread with
 * a period of a millisecond, its slice would never end, and whatever else needs this
 * CPU would never run. So it keeps the slice that it had.
 */
static __always_inline void reenqueue_local(void)
{
	/* cpu_release runs before the switch, under the lock of the CPU's run queue. */
	struct task_struct *curr = bpf_get_current_task_btf();
	u64 slice = curr->scx.slice;

	scx_bpf_reenqueue_local();
	/* A smaller slice is a policy's, which queued it anew. */
	if (slice && curr->scx.slice > slice && curr->scx.dsq && curr->scx.dsq->id == SCX_DSQ_LOCAL)
		scx_bpf_task_set_slice(curr, slice);
}
