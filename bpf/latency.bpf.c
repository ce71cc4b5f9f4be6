// SPDX-License-Identifier: GPL-2.0-only
/*
 * Scheduling latency of every task on the machine, whatever class schedules it:
 * the same four tracepoints see EEVDF, our policies and anybody's sched_ext.
 *
 *   wakeup latency   sched_wakeup[_new] until the task runs
 *   run-queue wait   all of that, and preempted or yielded until it runs again
 *   on-CPU slice     from one switch of a CPU to the next
 *
 * Samples go to per-CPU histograms in one of two buffers. The agent ends a
 * measuring window by one store to the variable window, waits for a grace
 * period, then reads and clears the buffer that nobody writes any more. A sample
 * belongs to the window in which it ends.
 *
 * Unless a comment says otherwise the programs run with interrupts off: their
 * tracepoints are hit under a run queue lock or p->pi_lock. Hence nothing else
 * on this CPU touches its buffers meanwhile, plain increments do, and an RCU
 * grace period covers every program that has read an old value of window.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "intf.h"

char _license[] SEC("license") = "GPL";

#define TASK_RUNNING 0

/* Set before load: what waits are broken down by, enum lat_per. */
const volatile u32 per;

/* The number of the measuring window; its lowest bit chooses the buffer. */
volatile u32 window;

/* Waits that found the breakdown full, so they count in the total only. */
u64 per_overflow;

/* State of a task between two of its events. */
struct lat_task {
	/* when the task became runnable, 0 if it is not waiting */
	u64 queued_at;
	/* how: enum lat_kind */
	u32 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LAT_BUFFERS);
	__type(key, u32);
	__type(value, struct lat_window);
} windows SEC(".maps");

/* When this CPU last switched tasks, that is since when its task runs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} running_since SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lat_task);
} tasks SEC(".maps");

/* Not LRU, which would evict the worst entry as readily as any other. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LAT_PER_ENTRIES);
	__type(key, struct lat_per_key);
	__type(value, struct lat_per_entry);
} per_entries SEC(".maps");

/**
 * bucket_of - the bucket of a duration
 * @ns: the duration
 *
 * Shifts the value down to its LAT_SUB_BITS + 1 leading bits, halving the range
 * of possible shifts each time since BPF has no instruction to count zeroes. A
 * value that is that short already is its own bucket.
 */
static __always_inline u32 bucket_of(u64 ns)
{
	u32 shift = 0;

	if (ns >> LAT_MAX_BITS)
		return LAT_BUCKETS - 1;
	if (ns >> (LAT_SUB_BITS + 16)) {
		ns >>= 16;
		shift = 16;
	}
	if (ns >> (LAT_SUB_BITS + 8)) {
		ns >>= 8;
		shift += 8;
	}
	if (ns >> (LAT_SUB_BITS + 4)) {
		ns >>= 4;
		shift += 4;
	}
	if (ns >> (LAT_SUB_BITS + 2)) {
		ns >>= 2;
		shift += 2;
	}
	if (ns >> (LAT_SUB_BITS + 1)) {
		ns >>= 1;
		shift += 1;
	}
	return (shift << LAT_SUB_BITS) + ns;
}

static __always_inline void record(struct lat_hist *hist, u64 ns)
{
	hist->sum += ns;
	if (ns > hist->max)
		hist->max = ns;
	/* The mask tells the verifier what bucket_of() guarantees. */
	hist->buckets[bucket_of(ns) & (LAT_BUCKETS - 1)]++;
}

/**
 * on_cpu - whether a task is on a CPU
 * @p: the task
 *
 * The field is an int up to 6.18 and a u8 in 7.3. libbpf refuses to convert
 * between signed fields, so this reads the byte that holds the value in either.
 */
static __always_inline bool on_cpu(struct task_struct *p)
{
	u32 offset = bpf_core_field_offset(p->on_cpu);

	if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
		offset += bpf_core_field_size(p->on_cpu) - 1;
	/* Or the compiler folds the offset into the load, which libbpf then refuses too. */
	barrier_var(offset);
	return *((u8 *)p + offset);
}

/* The clock of another CPU may be a little ahead: such a duration is 0. */
static __always_inline u64 elapsed(u64 since, u64 now)
{
	return (s64)(now - since) > 0 ? now - since : 0;
}

/**
 * record_per - add a wait to its entry in the breakdown
 * @p: the task that waited
 * @buffer: the buffer of the window the wait belongs to
 * @kind: how the wait began
 * @ns: how long it was
 *
 * Unlike the histograms an entry is shared by all CPUs, hence the atomics. The
 * maximum is given up after a few lost races: each of them was lost to a
 * greater maximum than the one before, within the same few nanoseconds. The name
 * is written apart from it, so in such a race it may be the other task's.
 */
static __always_inline void record_per(struct task_struct *p, u32 buffer, u32 kind, u64 ns)
{
	struct lat_per_key key = {};
	struct lat_per_entry *entry;
	struct lat_per_stat *stat;
	u64 max, seen;
	int i;

	key.buffer = buffer;
	switch (per) {
	case LAT_PER_COMM:
		bpf_probe_read_kernel_str(key.comm, sizeof(key.comm), p->comm);
		break;
	case LAT_PER_CGROUP:
		key.id = p->cgroups->dfl_cgrp->kn->id;
		break;
	default:
		key.id = p->tgid;
	}

	entry = bpf_map_lookup_elem(&per_entries, &key);
	if (!entry) {
		struct lat_per_entry new = {};

		/* If another CPU was faster its entry is the one found below. */
		bpf_map_update_elem(&per_entries, &key, &new, BPF_NOEXIST);
		entry = bpf_map_lookup_elem(&per_entries, &key);
		if (!entry) {
			__sync_fetch_and_add(&per_overflow, 1);
			return;
		}
	}

	stat = &entry->stat[kind];
	__sync_fetch_and_add(&stat->count, 1);
	__sync_fetch_and_add(&stat->sum, ns);
	max = *(volatile u64 *)&stat->max;
#pragma unroll
	for (i = 0; i < 4; i++) {
		if (ns <= max)
			break;
		seen = __sync_val_compare_and_swap(&stat->max, max, ns);
		if (seen == max) {
			bpf_probe_read_kernel_str(entry->comm, sizeof(entry->comm), p->comm);
			break;
		}
		max = seen;
	}
}

/**
 * wait_begins - a task that was not waiting for a CPU now is
 * @p: the task
 * @kind: why
 * @now: the time
 *
 * The task's run queue is locked, so its events come one after the other. If no
 * memory is found for its state this one wait is not measured.
 */
static __always_inline void wait_begins(struct task_struct *p, u32 kind, u64 now)
{
	struct lat_task *t;

	t = bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* Already waiting: preempted on its way to sleep, and woken before it got there. */
	if (!t || t->queued_at)
		return;
	t->queued_at = now;
	t->kind = kind;
}

/**
 * wait_ends - a task gets a CPU
 * @p: the task
 * @win: the window
 * @buffer: its buffer
 * @now: the time
 *
 * A task without state was waiting already when the measurement began.
 */
static __always_inline void wait_ends(struct task_struct *p, struct lat_window *win, u32 buffer,
				      u64 now)
{
	struct lat_task *t = bpf_task_storage_get(&tasks, p, NULL, 0);
	u32 kind;
	u64 ns;

	if (!t || !t->queued_at)
		return;
	ns = elapsed(t->queued_at, now);
	/* One of two; the mask tells the verifier so. */
	kind = t->kind & (LAT_WAITS - 1);
	t->queued_at = 0;

	record(&win->hist[kind], ns);
	if (per)
		record_per(p, buffer, kind, ns);
}

/**
 * latency_wakeup - a sleeping task becomes runnable
 *
 * A task that is woken before it has left its CPU does not wait at all. When it
 * wakes itself like that only preemption is off, so that an interrupt's wakeup
 * may nest here; the kernel then skips the inner program, and that wait is not
 * measured. In every other case the run queue is locked and on_cpu is stable.
 */
SEC("tp_btf/sched_wakeup")
int BPF_PROG(latency_wakeup, struct task_struct *p)
{
	if (!on_cpu(p))
		wait_begins(p, LAT_WAKEUP, bpf_ktime_get_ns());
	return 0;
}

/**
 * latency_wakeup_new - a forked task becomes runnable for the first time
 */
SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(latency_wakeup_new, struct task_struct *p)
{
	wait_begins(p, LAT_WAKEUP, bpf_ktime_get_ns());
	return 0;
}

/**
 * latency_switch - a CPU leaves one task for another
 *
 * Whether prev stays runnable is read from the task: the tracepoint's prev_state
 * still says "sleeping" on some kernels when a signal has kept it awake. Nobody
 * else sets __state to TASK_RUNNING while this CPU's run queue is locked.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(latency_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u64 now = bpf_ktime_get_ns();
	u32 buffer = window & (LAT_BUFFERS - 1), zero = 0;
	struct lat_window *win;
	u64 *since;

	win = bpf_map_lookup_elem(&windows, &buffer);
	since = bpf_map_lookup_elem(&running_since, &zero);
	if (!win || !since)
		return 0;

	win->switches++;
	/* pid 0 is the idle task, which neither waits nor has a slice. */
	if (prev->pid) {
		if (*since)
			record(&win->hist[LAT_SLICE], elapsed(*since, now));
		if (preempt || prev->__state == TASK_RUNNING)
			wait_begins(prev, LAT_REQUEUE, now);
	}
	*since = now;
	if (next->pid)
		wait_ends(next, win, buffer, now);
	return 0;
}

/**
 * latency_migrate - a task is moved to another CPU
 */
SEC("tp_btf/sched_migrate_task")
int BPF_PROG(latency_migrate, struct task_struct *p, int dest_cpu)
{
	u32 buffer = window & (LAT_BUFFERS - 1);
	struct lat_window *win = bpf_map_lookup_elem(&windows, &buffer);

	if (win)
		win->migrations++;
	return 0;
}
