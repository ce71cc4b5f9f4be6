/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Delegation: the kernel half of a policy whose decisions a process makes.
 *
 * After ghOSt (Humphries et al., SOSP 2021): what happens to tasks becomes messages,
 * the agent answers with transactions, and a sequence number in each tells whether
 * the answer is still to the point. A delegated policy is a file that includes this
 * header and says DELEGATE_DEFINE(); docs/writing-an-agent-policy.md.
 *
 * A task that waits for a decision waits in a DSQ like any other (queue_of()), in order
 * of arrival. So the kernel can take it away at any time, a swap empties the queue
 * as it does all others, and BPF can serve it without asking: when the agent has given
 * no sign of life for agent_timeout, waiting tasks are run by whoever dispatches next, and
 * until it does give one, tasks do not wait for it at all but are scheduled here by
 * virtual time (Q_FALLBACK). What an agent that is alive leaves waiting is run after
 * max_wait. Nothing ever waits for the agent without limit.
 *
 * One agent decides for all CPUs, or with per_cpu=1 one for each. In BPF that is an index
 * from a CPU to its agent, agent_nr(): to the agent's word, its transactions, its bell, and
 * the queue of the tasks that wait for it. A task belongs to the agent of the CPU on whose
 * run queue it is.
 *
 * Who writes what: all events of a task happen under its run queue's lock, with
 * interrupts off. A CPU's ring is therefore written by one program at a time: by what runs
 * on that CPU, or with per_cpu=1 by who holds that CPU's run queue lock. The word of a task is
 * claimed by compare-and-exchange: whoever turns QUEUED into something else, agent's transaction or
 * BPF's own decision, has the task.
 */
#ifndef __DELEGATE_BPF_H
#define __DELEGATE_BPF_H

/* A task is taken from a queue by its word only: rescue_overdue(). */
#define POLICY_SEES_TO_TIED
#include "policy.bpf.h"

_Static_assert(sizeof(struct delegate_msg) == 64, "a cache line");
_Static_assert(sizeof(struct delegate_task) == 256, "whole cache lines");
_Static_assert(sizeof(struct delegate_cpu) == 192, "three cache lines");
_Static_assert(sizeof(struct delegate_txn) == 192, "whole cache lines");
_Static_assert(sizeof(struct delegate_agent) == 192, "whole cache lines: there may be many");

/*
 * What a policy may define before it includes this:
 *
 * DELEGATE_ASK_ALWAYS	ask about what only made room for the agent, too: else it goes on
 *			where it was, and the agent does not know that it waits
 * DELEGATE_PUT_BACK	do not ask about what a higher class has interrupted, unless another CPU
 *			is idle: it goes on where it was
 * DELEGATE_WANTS_TICKS	tell of timer ticks: CPU_TICK
 * DELEGATE_BATCH	it never preempts: wakeups may gather while CPUs have enough to run
 * DELEGATE_FAST_PATH	0 for a policy that leaves CPUs idle though tasks could run there
 * DELEGATE_ONE_AGENT	it is about all CPUs together: there is no per_cpu=1 of it
 */
#ifndef DELEGATE_FAST_PATH
#define DELEGATE_FAST_PATH 1
#endif

PARAM_U64(agent_timeout_us, 20000, 1000, 1000000, "us",
	  "longest wait for an agent that gives no sign of life before BPF decides itself");
PARAM_U64(max_wait_us, 2000000, 1000, 20000000, "us",
	  "longest that an agent may leave a task waiting before BPF runs it");
PARAM_U64(ring, 4096, 8, 65536, "messages",
	  "messages that a CPU can have pending, rounded down to a power of two");
#ifdef DELEGATE_ONE_AGENT
static const u64 per_cpu = 0;
#else
PARAM_U64(per_cpu, 0, 0, 1, "",
	  "1: an agent for each CPU, which decides for that CPU alone; 0: one for all");
#endif
PARAM_U64(fast_path, DELEGATE_FAST_PATH, 0, 1, "",
	  "1: while nobody waits, a task that wakes gets an idle CPU at once; 0: the agent decides "
	  "always");
PARAM_U64(stages, 0, 0, 1, "", "1: measure each stage from a wakeup to the CPU");

/* Set by the framework, from the parameter. */
const volatile u32 delegate_ring_mask = 7;
const volatile u32 delegate_txn_mask = DELEGATE_MAX_TXNS - 1;

/* The queue behind those of the agents, of tasks that BPF schedules itself. */
#define Q_FALLBACK (per_cpu ? policy_nr_cpus : 1)

#include "delegate/fallback.bpf.h"
#include "delegate/direct.bpf.h"

#define TASK_IS_DEAD 0x80

static __always_inline bool is_agent(struct delegate_agent *agent, struct task_struct *p)
{
	return p->tgid == policy_agent.tgid && agent && p->pid == READ_ONCE(agent->tid);
}

/**
 * enqueue_agent - the agent comes first, and at once
 *
 * What it preempts is put back without asking for a decision. An agent that has used
 * up a slice takes its turn on its CPU: it cannot keep the machine.
 */
static __always_inline void enqueue_agent(struct task_struct *p, u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(scx_bpf_task_cpu(p));

	if (enq_flags & SCX_ENQ_WAKEUP) {
		if (c)
			c->agent_here = 1;
		enq_flags |= SCX_ENQ_HEAD | SCX_ENQ_PREEMPT;
	}
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
}

/* Whether @p only made room for the agent. */
static __always_inline bool made_room(struct task_struct *p, u64 enq_flags)
{
#ifndef DELEGATE_ASK_ALWAYS
	struct delegate_cpu *c = cpu_word(scx_bpf_task_cpu(p));

	if (!(enq_flags & SCX_ENQ_REENQ) && c && c->agent_here) {
		c->agent_here = 0;
		return true;
	}
#endif
	return false;
}

/* Whether a higher class has only interrupted @p, and no other CPU would have it meanwhile. */
static __always_inline bool was_interrupted(struct task_struct *p, u64 enq_flags)
{
	bool idle = true;
#ifdef DELEGATE_PUT_BACK
	const struct cpumask *cpus;

	if (enq_flags & SCX_ENQ_REENQ) {
		cpus = scx_bpf_get_idle_cpumask();
		idle = bpf_cpumask_intersects(p->cpus_ptr, cpus);
		scx_bpf_put_idle_cpumask(cpus);
	}
#endif
	return !idle;
}

/* Who goes on without asking gets the rest of its slice, where it was. Return: if @p does. */
static __always_inline bool goes_on(struct task_struct *p, struct delegate_task *t, u64 enq_flags)
{
	u64 ran = p->se.sum_exec_runtime - t->runtime;

	if (enq_flags & SCX_ENQ_WAKEUP || t->yielded)
		return false;
	if (!made_room(p, enq_flags) && !was_interrupted(p, enq_flags))
		return false;
	if (state_of(t->word) != DELEGATE_PLACED || ran >= t->slice)
		return false;
	t->runtime += ran;
	t->slice -= ran;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, t->slice, enq_flags);
	return true;
}

/* The agent is told anew whenever @p is queued, and comes too late each time. */
static __always_inline void run_overdue(struct task_struct *p, struct delegate_task *t,
					u64 enq_flags)
{
	struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());

	step(t, DELEGATE_FALLBACK);
	if (c)
		__sync_fetch_and_add(&c->nr_overdue, 1);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, FALLBACK_SLICE, enq_flags | SCX_ENQ_PREEMPT);
}

/**
 * delegate_enqueue - ask the agent, unless that makes no sense
 */
void BPF_STRUCT_OPS(delegate_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct delegate_agent *agent = agent_of(cpu);
	struct delegate_task *t;
	u64 now, seq;
	u32 kind, index = 0;
	bool is_new = false;

	if (is_agent(agent, p)) {
		enqueue_agent(p, enq_flags);
		return;
	}
	if (policy_enqueue_first(p, enq_flags))
		return;
	if (p->flags & PF_KTHREAD) {
		/*
		 * The agent may wait for this one: khugepaged and kcompactd hold locks that
		 * its page faults take. It must not wait for the agent in turn.
		 */
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, enq_flags);
		return;
	}
	if (!agent)
		return fall_back(p, enq_flags);
	/* Those that may run on one CPU only get here without delegate_select_cpu(). */
	if (enq_flags & SCX_ENQ_WAKEUP && may_go_direct(cpu) && claim_idle(cpu))
		return go_direct(agent, p, cpu, enq_flags);

	t = task_word(p, &index);
	if (t && goes_on(p, t, enq_flags))
		return;
	if (t && policy_has_waited(p, enq_flags, max_wait_us / 1000))
		return run_overdue(p, t, enq_flags);
	if (!t) {
		t = new_task_word(p, &index);
		is_new = true;
	}
	if (!t || !delegating(agent)) {
		struct delegate_cpu *c = cpu_word(bpf_get_smp_processor_id());

		if (t)
			step(t, DELEGATE_FALLBACK);
		if (c)
			c->nr_undelegated++;
		return fall_back(p, enq_flags);
	}

	now = bpf_ktime_get_ns();
	t->runtime = p->se.sum_exec_runtime;
	t->weight = policy_weight(p);
	t->cpu = cpu;
	t->queued_at = now;
	note_hint(p, t);
	kind = enq_flags & SCX_ENQ_WAKEUP ? DELEGATE_WAKEUP
	       : t->yielded		  ? DELEGATE_YIELD
					  : DELEGATE_PREEMPTED;
	t->yielded = 0;
	seq = step(t, DELEGATE_QUEUED);
	scx_bpf_dsq_insert(p, queue_of(cpu), SCX_SLICE_DFL, enq_flags);
	if ((is_new && !post(agent, DELEGATE_TASK_NEW, cpu, t, index, seq, now)) ||
	    !post(agent, kind, cpu, t, index, seq, now)) {
		/* The agent does not hear of it until it has caught up and starts over. */
		fall_silent(agent, cpu, now);
		policy_kick_idle(p);
	} else if (per_cpu && fast_path) {
		/* An idle CPU, if there is one, comes and takes it: help_others(). */
		policy_kick_idle(p);
	}
}

/**
 * delegate_select_cpu - an idle CPU at once, for the agent and while nobody waits
 *
 * With an agent for each CPU this only says which of them is to be asked. If that CPU is
 * idle, delegate_enqueue() sees so, under the lock that a message to its agent needs.
 */
s32 BPF_STRUCT_OPS(delegate_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct delegate_agent *agent = agent_of(0);
	bool is_idle = false;
	s32 cpu;

	if (per_cpu && p->tgid != policy_agent.tgid)
		return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (!agent || (p->tgid != policy_agent.tgid && !may_go_direct(prev_cpu)))
		return prev_cpu;
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (!is_idle)
		return cpu;
	if (per_cpu)
		/* Nobody needs to hear of an agent, and no message can be written here. */
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	else
		go_direct(agent, p, cpu, 0);
	return cpu;
}

/**
 * delegate_dispatch - what the agent has decided, else what it should have
 *
 * Not by POLICY_DISPATCH(): a task is taken from an agent's queue by its word only, also
 * from that of a CPU that is offline.
 */
void BPF_STRUCT_OPS(delegate_dispatch, s32 cpu, struct task_struct *prev)
{
	struct delegate_agent *agent = agent_of(cpu);
	bool idle;

	if (!agent)
		return;
	commit(agent, agent_nr(cpu));
	if (scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) > 0)
		return;
	/* Those who wait for an agent that has gone have waited for longer than any in Q_FALLBACK,
	 * which may never be empty.
	 */
	if (take_overdue(agent, cpu, cpu, false) || policy_pick(Q_FALLBACK) || !per_cpu)
		return;
	idle = !prev || !(prev->scx.flags & SCX_TASK_QUEUED);
	if (idle || policy_nr_off)
		help_others(cpu, idle);
}

/**
 * delegate_yield - give up the slice, and remember that it was given up
 */
bool BPF_STRUCT_OPS(delegate_yield, struct task_struct *from, struct task_struct *to)
{
	struct delegate_task *t;
	u32 index;

	if (to)
		return false;
	t = task_word(from, &index);
	if (t)
		t->yielded = 1;
	scx_bpf_task_set_slice(from, 0);
	return false;
}

/**
 * delegate_set_cpumask - tell of a new affinity; a queued task is queued again after it
 */
void BPF_STRUCT_OPS(delegate_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (!t)
		return;
	note_affinity(p, t);
	tell(p, t, index, DELEGATE_AFFINITY, state_of(t->word));
	/*
	 * Where it may not run it does not stay, and what happens to it next the agent of
	 * the CPU that it goes to is told. This one would count it as its own for ever.
	 */
	if (per_cpu && !may_run(p, scx_bpf_task_cpu(p)))
		tell(p, t, index, DELEGATE_TASK_DEPARTED, state_of(t->word));
}

/**
 * delegate_set_weight - tell of a new weight
 */
void BPF_STRUCT_OPS(delegate_set_weight, struct task_struct *p, u32 weight)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (!t)
		return;
	t->weight = policy_weight(p);
	tell(p, t, index, DELEGATE_PRIORITY, state_of(t->word));
}

/**
 * delegate_disable - tell that a task leaves sched_ext
 */
void BPF_STRUCT_OPS(delegate_disable, struct task_struct *p)
{
	struct delegate_task *t;
	u32 index;

	t = task_word(p, &index);
	if (t)
		tell(p, t, index, DELEGATE_TASK_DEPARTED, DELEGATE_DEPARTED);
}

/* Its word is free for the next. */
static void bury(struct task_struct *p, struct delegate_task *t, u32 index)
{
	tell(p, t, index, DELEGATE_DEAD, DELEGATE_FREE);
	bpf_task_storage_delete(&delegate_index, p);
	bpf_map_push_elem(&delegate_free, &index, 0);
}

/**
 * policy_switch - who sleeps, who is dead, which CPU has nothing to do
 *
 * A tracepoint and no op, since an op would cost all other policies in the root at
 * every switch. Attached while the policy is in a slot. Under the run queue's lock.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(policy_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	u32 cpu = bpf_get_smp_processor_id(), index;
	struct delegate_agent *agent = agent_of(cpu);
	struct delegate_cpu *c = cpu_word(cpu);
	struct delegate_task *t;
	bool by_agent;
	u64 now;

	if (!agent || !c)
		return 0;
	/* That it sleeps itself is no news to it: it would wake up for that for ever. */
	by_agent = prev->pid == READ_ONCE(agent->tid);
	if (!preempt && prev_state) {
		t = task_word(prev, &index);
		if (t && prev_state & TASK_IS_DEAD)
			bury(prev, t, index);
		else if (t && !by_agent && state_of(t->word) != DELEGATE_DEPARTED)
			/* An agent that has taken over from another was a task like any other
			 * before. */
			tell(prev, t, index, DELEGATE_TASK_BLOCKED, DELEGATE_BLOCKED);
	}
	now = bpf_ktime_get_ns();
	c->pid = next->pid;
	c->since = now;
	if (c->overtaking_since && scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) <= 0)
		c->overtaking_since = 0;
	note_running(c, next, now);
	if (by_agent)
		c->agent_here = 0;
	else if (!next->pid && delegating(agent))
		post(agent, DELEGATE_CPU_IDLE, cpu, NULL, 0, 0, now);
	remind_agent(agent, cpu);
	return 0;
}

#ifdef DELEGATE_WANTS_TICKS
/**
 * delegate_tick - tell of a timer tick
 */
void BPF_STRUCT_OPS(delegate_tick, struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);
	struct delegate_agent *agent = agent_of(cpu);

	if (agent && delegating(agent))
		post(agent, DELEGATE_CPU_TICK, cpu, NULL, 0, 0, bpf_ktime_get_ns());
}
#define DELEGATE_TICK_OP .tick = (void *)delegate_tick,
#else
#define DELEGATE_TICK_OP
#endif

/**
 * delegate_cpu_offline - the CPU's own agent, if it has one, leaves with it
 */
void BPF_STRUCT_OPS(delegate_cpu_offline, s32 cpu)
{
	struct delegate_agent *agent = agent_of(cpu);

	/* First: whoever comes for what waits there finds it overdue. */
	if (per_cpu && agent)
		WRITE_ONCE(agent->offline, 1);
	policy_note_offline(cpu);
}

/**
 * delegate_cpu_online - the CPU's own agent, if it has one, starts over
 */
void BPF_STRUCT_OPS(delegate_cpu_online, s32 cpu)
{
	struct delegate_agent *agent = agent_of(cpu);

	policy_note_online(cpu);
	if (!per_cpu || !agent)
		return;
	/* It is asked nothing before it has found its way back and said so. */
	agent->silent_since = 0;
	WRITE_ONCE(agent->silent, 1);
	WRITE_ONCE(agent->offline, 0);
	ring_bell(agent, cpu);
}

static bool delegate_filled;

POLICY_INIT()
{
	struct delegate_timer *timer = bpf_map_lookup_elem(&delegate_timers, &(u32){0});
	u32 i;
	s32 ret;

	if (!timer)
		return -ENOENT;
	bpf_for (i, 0, Q_FALLBACK + 1) {
		ret = policy_create_dsq(i, -1);
		if (ret)
			return ret;
	}
	/* Once: after a re-attach tasks still have their words. */
	if (!delegate_filled) {
		delegate_filled = true;
		bpf_for (i, 1, DELEGATE_MAX_TASKS)
			bpf_map_push_elem(&delegate_free, &i, 0);
	}
	bpf_timer_init(&timer->timer, &delegate_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&timer->timer, delegate_watch);
	return bpf_timer_start(&timer->timer, agent_timeout_us * 500, 0);
}

/**
 * DELEGATE_DEFINE - register a delegated policy
 * @__name: its name
 * @__desc: one line for `scx_run list`
 */
#define DELEGATE_DEFINE(__name, __desc)                                                           \
	POLICY_DEFINE(                                                                            \
		__name, __desc, DELEGATE_TICK_OP.enqueue = (void *)delegate_enqueue,              \
		.select_cpu = (void *)delegate_select_cpu, .dispatch = (void *)delegate_dispatch, \
		.cpu_online = (void *)delegate_cpu_online,                                        \
		.cpu_offline = (void *)delegate_cpu_offline, .yield = (void *)delegate_yield,     \
		.set_cpumask = (void *)delegate_set_cpumask,                                      \
		.set_weight = (void *)delegate_set_weight, .disable = (void *)delegate_disable)

#endif /* __DELEGATE_BPF_H */
