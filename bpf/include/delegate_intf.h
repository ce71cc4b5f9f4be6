/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a delegated policy and its agent share: messages, transactions, status
 * words. All of it lies in arrays that both sides have mapped, so neither makes a
 * system call to read or to write. Included by intf.h.
 */
#ifndef __DELEGATE_INTF_H
#define __DELEGATE_INTF_H

enum delegate_consts {
	/* Tasks with a status word at one time; others are scheduled in BPF. */
	DELEGATE_MAX_TASKS = 32768,
	/* Transactions that can be pending; a power of two. */
	DELEGATE_MAX_TXNS = 4096,
	/* The same of one of many agents, each of which decides for one CPU. */
	DELEGATE_CPU_TXNS = 1024,
	/* Transactions of a group. */
	DELEGATE_MAX_GROUP = 64,
	/* CPUs that an affinity in a status word can name, in 64-bit words. */
	DELEGATE_CPU_WORDS = 16,
	/* A status word's state is below its sequence number. */
	DELEGATE_STATE_BITS = 8,
	DELEGATE_STATE_MASK = 255,
};

/* Where a task is, as far as delegation is concerned. */
enum delegate_state {
	/* no task has this word */
	DELEGATE_FREE,
	/* asleep, or new */
	DELEGATE_BLOCKED,
	/* waits for the agent's decision */
	DELEGATE_QUEUED,
	/* the agent's decision was carried out: on its way to a CPU, or running */
	DELEGATE_PLACED,
	/* BPF schedules it without the agent this time */
	DELEGATE_FALLBACK,
	/* left sched_ext */
	DELEGATE_DEPARTED,
};

enum delegate_kind {
	/* a task is seen for the first time; the next message is why */
	DELEGATE_TASK_NEW = 1,
	/* it has woken up and waits for a decision */
	DELEGATE_WAKEUP,
	/* it sleeps */
	DELEGATE_TASK_BLOCKED,
	/* its slice is used up or it was preempted: waits for a decision */
	DELEGATE_PREEMPTED,
	/* it yielded: waits for a decision */
	DELEGATE_YIELD,
	/* its affinity changed */
	DELEGATE_AFFINITY,
	/* its weight changed */
	DELEGATE_PRIORITY,
	/* it left sched_ext, or the CPU of the agent that is told */
	DELEGATE_TASK_DEPARTED,
	/* it is dead */
	DELEGATE_DEAD,
	/* a CPU has nothing to run */
	DELEGATE_CPU_IDLE,
	/* timer tick of a CPU, if the policy wants them */
	DELEGATE_CPU_TICK,
	/* it has woken up, and BPF gave it an idle CPU at once since nobody waited */
	DELEGATE_DIRECT,
};

/* A message from BPF to the agent; 64 bytes. */
struct delegate_msg {
	/* sequence number of the task: a transaction has to name the latest */
	u64 seq;
	/* CLOCK_MONOTONIC, ns */
	u64 time;
	/* run time of the task in all, ns */
	u64 runtime;
	/* first 64 CPUs that it may run on; the status word has all */
	u64 affinity;
	/* index of the task's status word; 0 in messages about a CPU */
	u32 task;
	/* CPU that the task is on, or that the message is about */
	s32 cpu;
	s32 pid;
	/* weight from nice and cgroups, 100 = default */
	u32 weight;
	/* enum delegate_kind */
	u32 kind;
	u32 unused;
	u64 unused2;
};

/* Status word of a task; 256 bytes, in which nothing crosses a cache line. */
struct delegate_task {
	/* sequence number << DELEGATE_STATE_BITS | enum delegate_state */
	u64 word;
	/* when it was last queued for a decision, ns */
	u64 queued_at;
	/* run time in all when it was last queued, ns */
	u64 runtime;
	/* slice of the last decision, ns */
	u64 slice;
	s32 pid;
	s32 tgid;
	/* CPU it was on last */
	s32 cpu;
	u32 weight;
	u32 nr_allowed;
	/* yielded since it was queued last */
	u32 yielded;
	char comm[16];
	u64 affinity[DELEGATE_CPU_WORDS];
	/* its hint (struct policy_hint) when it was last queued; 0 where it has none */
	u64 deadline_ns;
	u64 hint_slice_ns;
	u32 class;
	/* 1: it may be in the kernel's global queue, see strays.bpf.h */
	u32 stray;
	/* with stages=1, ns: when it was woken, when the agent saw that, when it was placed */
	u64 waking_at;
	u64 seen_at;
	u64 placed_at;
	u64 unused2;
};

/* Where a wakeup is on its way to a CPU. */
enum delegate_stage {
	/* the message is written */
	DELEGATE_WRITTEN,
	/* the agent reads it */
	DELEGATE_SEEN,
	/* the transaction is carried out */
	DELEGATE_DONE,
	/* the task runs */
	DELEGATE_RUNNING,
	DELEGATE_NR_STAGES,
};

/* Status word of a CPU, and its ring; 192 bytes. */
struct delegate_cpu {
	/* messages written, by BPF on this CPU only or under this CPU's run queue lock */
	u64 head;
	/* tasks that were queued for a decision */
	u64 nr_queued;
	/* tasks that BPF took over because no decision came in time */
	u64 nr_overdue;
	/* tasks that were queued and left without either: dead, of another class, swapped away */
	u64 nr_left;
	/* messages for which the ring had no room */
	u64 nr_full;
	/* tasks that never were queued: BPF scheduled them at once */
	u64 nr_undelegated;
	/* since when the task runs, ns */
	u64 since;
	/* pid of the running task, 0 = idle */
	s32 pid;
	/* the agent waits for this CPU or is on it */
	u32 agent_here;
	/* tasks that woke up and got an idle CPU at once */
	u64 nr_direct;
	/* wakeups measured by stage, and the time that each stage took them, ns */
	u64 nr_staged;
	u64 stage_ns[DELEGATE_NR_STAGES];
	/* tasks that an idle CPU took from where they waited for another CPU's agent */
	u64 nr_stolen;
	/* since when decisions may have overtaken what waits in this CPU's own queue, ns; 0: not */
	u64 overtaking_since;
	/* messages read, by the agent only: on a cache line of its own */
	u64 tail;
	u64 unused[7];
};

/* What became of a transaction. */
enum delegate_outcome {
	DELEGATE_PENDING,
	/* the task is in the CPU's queue */
	DELEGATE_COMMITTED,
	/* ESTALE: something has happened to the task since */
	DELEGATE_STALE,
	/* no such task any more */
	DELEGATE_GONE,
	/* it does not wait for a decision */
	DELEGATE_NOT_QUEUED,
	/* it may not run on that CPU */
	DELEGATE_NOT_ALLOWED,
	/* that CPU is offline, or there is none */
	DELEGATE_OFFLINE,
	/* it is being queued at this moment: try again */
	DELEGATE_AGAIN,
	/* another transaction of the group failed */
	DELEGATE_ABORTED,
	DELEGATE_NR_OUTCOMES,
};

enum delegate_txn_flags {
	/* what runs on the CPU makes room at once */
	DELEGATE_PREEMPT = 1,
	/* the next transaction belongs to the same group */
	DELEGATE_MORE = 2,
	/* an idle CPU of @cpus if there is one, else any of them; @cpu is ignored */
	DELEGATE_ANY_OF = 4,
	/* what runs on the CPU makes room at once for what waits there, the task last */
	DELEGATE_TAKE_TURNS = 8,
};

/* A transaction: run @task on @cpu; 192 bytes. */
struct delegate_txn {
	u64 seq;
	/* ns */
	u64 slice;
	u32 task;
	s32 cpu;
	/* enum delegate_txn_flags */
	u32 flags;
	/* enum delegate_outcome, by BPF */
	u32 outcome;
	u64 cpus[DELEGATE_CPU_WORDS];
	/* CPU it went to, by BPF */
	s32 chosen;
	u32 unused;
	/* when the agent saw what it is about, ns */
	u64 seen;
	u64 unused2[2];
};

/* Whether the agent wants the bell. */
enum delegate_sleep {
	/* it is awake, or has been woken */
	DELEGATE_AWAKE,
	/* for all news */
	DELEGATE_SLEEPS,
	/* not for tasks that wake up: it has said when it will look at these */
	DELEGATE_DOZES,
};

/* An agent: there is one of it for all CPUs, or one for each. 192 bytes. */
struct delegate_agent {
	/* transactions written, by the agent */
	u64 txn_tail;
	/* enum delegate_sleep; DELEGATE_AWAKE by who rings, the rest by the agent */
	u32 sleeping;
	/* 1: the agent is there; by the agent */
	u32 present;
	/* thread that decides; by the agent */
	s32 tid;
	/* 1: there is news that it was not woken for; set by BPF, cleared by both */
	u32 gathered;
	/* when the agent last gave a sign of life, or was rung, ns; by both */
	u64 beat;
	/* 1: the CPU that it decides for alone is offline; by BPF */
	u32 offline;
	u32 unused;
	u64 unused2[3];
	/* transactions done, by who holds @committing */
	u64 txn_head;
	/* somebody carries out transactions */
	u32 committing;
	/* 1: decisions did not come in time, BPF schedules alone; the agent clears it */
	u32 silent;
	u64 outcomes[DELEGATE_NR_OUTCOMES];
	/* times that @silent was set, and when last, ns */
	u64 nr_silent;
	u64 silent_since;
	/* highest index of a status word ever used; counts in the first one of the agents */
	u32 max_task;
	u32 unused3;
	u64 unused4[2];
};

#endif /* __DELEGATE_INTF_H */
