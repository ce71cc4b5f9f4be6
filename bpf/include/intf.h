/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Types and constants that the BPF programs and the Rust agent share. Bindgen
 * turns this file into framework::intf.
 */
#ifndef __INTF_H
#define __INTF_H

#ifdef __VMLINUX_H__
/* included by a BPF program: vmlinux.h has the integer types */
#else
typedef unsigned char u8;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
#endif

#include <scx/user_exit_info_common.h>

enum slot_consts {
	/* Slots of the root scheduler; a power of two. */
	NR_SLOTS = 4,
	/* DSQs a policy may create; policy_dsq_base advances by this much. */
	SLOT_MAX_DSQS = 65536,
};

/*
 * The route word: which slot decides, where dispatch goes, which slot is being
 * emptied, and the epoch that tells successive policies apart. One aligned 64-bit
 * store of it is a swap.
 */
struct route {
	/* slot whose policy decides, or ROUTE_NONE: only the root's defaults */
	u8 active;
	/* slot whose dispatch is called: @active, or ROUTE_DRAIN meanwhile */
	u8 dispatch;
	/* slot that is being emptied, or ROUTE_NONE */
	u8 retired;
	u8 unused;
	u32 epoch;
};

enum route_consts {
	ROUTE_NONE = 0xff,
	/* Index in the root's dispatch array of what drains a retired slot. */
	ROUTE_DRAIN = NR_SLOTS,
};

/* What the root has to know of the policy in a slot, to empty its queues. */
struct slot_desc {
	u64 dsq_base;
	u32 nr_dsqs;
	/* Next DSQ that a dispatch looks at when there are many. */
	u32 cursor;
};

/* Argument and result of the root's slot_queued() and slot_destroy(). */
struct slot_args {
	u32 slot;
	/* 1: also push them to the CPUs' own queues */
	u32 push;
	/* out: tasks queued in the slot's DSQs */
	u32 nr_queued;
};

/* What the root's end_infinite_slices() has found. */
enum infinite_slices {
	/* the policies before this one gave none */
	INFINITE_NONE,
	/* they all have ended now */
	INFINITE_ENDED,
	/* they have been told to end */
	INFINITE_LEFT,
};

/*
 * State that outlives a policy, one for the machine: the map policy_shared.
 */
struct policy_shared {
	/* Progress of virtual time, ns at weight 100. */
	u64 vtime_now;
	/* Epoch of the policy that gave tasks infinite slices last, or 0 if none of them has one.
	 */
	u64 infinite_by;
};

/*
 * What scx_run tells all policies at once: the variable policy_agent.
 */
struct policy_agent {
	/* process id of scx_run; it changes when another process takes over */
	s32 tgid;
	/* whether any task has been given a hint yet */
	u32 hinted;
};

/*
 * Per-task history that outlives a policy: the task storage map policy_tasks.
 */
struct policy_task {
	/* Epoch of the policy that wrote the fields below. */
	u64 epoch;
	/* p->se.sum_exec_runtime up to which run time has been charged, ns */
	u64 charged_ns;
	/* the policy's queue that the task competed in last */
	u32 queue;
	u32 unused;
	/*
	 * History, whoever wrote it: p->se.sum_exec_runtime at the last wakeup, and how long the
	 * task runs from a wakeup until it sleeps, a moving average; ns
	 */
	u64 woke_at_ns;
	u64 burst_ns;
	/* What else the policy of that epoch knows, for its own use: one look-up finds it all. */
	u64 own[2];
};

/* What matters most to a task. */
enum policy_class {
	/* nothing in particular */
	POLICY_NORMAL,
	/* to run soon after it wakes up */
	POLICY_LATENCY,
	/* to get much done: it can wait */
	POLICY_BATCH,
};

/* Who gets a hint from the task that has it. */
enum hint_scope {
	/* nobody */
	HINT_TASK,
	/* the threads that it starts */
	HINT_PROCESS,
	/* these, and processes: it follows the environment variable that it is from */
	HINT_ENVIRON,
};

/*
 * What somebody who knows a task says of its needs (`scx_run hint`): the task storage
 * map policy_hints. A policy may act on it or not. 0 means that nothing was said.
 */
struct policy_hint {
	/* it should have run this long after it woke up, ns */
	u64 deadline_ns;
	/* how long it wants to run at a time, ns */
	u64 slice_ns;
	/* enum policy_class */
	u32 class;
	/* enum hint_scope; of no concern to a policy */
	u32 scope;
};

/* One line of the census iterator: a runnable task that is not on a CPU. */
struct census_entry {
	s32 pid;
	/* CPU whose run queue the task is on */
	s32 cpu;
	/* DSQ the task is on, 0 for none */
	u64 dsq_id;
	/* jiffies since it became runnable */
	u64 waited_ticks;
	/* p->scx.runnable_at: equal in two censuses = has not run in between */
	u64 runnable_at;
	char comm[16];
};

#include "environ_intf.h"
#include "delegate_intf.h"
#include "latency_intf.h"

#endif /* __INTF_H */
