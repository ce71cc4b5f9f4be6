// SPDX-License-Identifier: GPL-2.0-only
/*
 * interactive - who sleeps much runs at once, the rest gets fair shares
 *
 * Algorithm. Each task has a virtual time, its run time divided by its weight, and a request. When
 * it wakes that is its usual burst, from a wakeup until it sleeps, at most first_us; it grows with
 * what the task runs until it sleeps again, up to lag_us. The task waits in the queue of its
 * last-level cache (LLC), ordered by its virtual deadline: virtual time + request / weight. So of
 * two tasks that had as much for their weight the one that needs less comes first; it cannot get
 * more than the other in the long run, since virtual time counts all that it runs. Who has slept
 * is placed at most lag_us behind the others; who is ahead of them stays ahead.
 *
 * A task that wakes gets an idle CPU, of its LLC first. If there is none it is queued, and the CPU
 * whose task has the latest deadline is called, provided that this is later than its own by
 * preempt_us. Whichever CPU asks first gets the task: one that was called may be slow to come.
 * Nobody is called if who runs here is short and about to sleep, or said so when it woke the task
 * (pipes and sockets do; of a hog it is not believed if it came from an interrupt); if nobody else
 * waits, the task is next here at once. A hog's request is lag_us whatever its weight, so whoever
 * wakes takes the CPU of a hog even if it had somewhat more than its share lately, and tasks that
 * are alike do not take it from each other. A hint `class=latency` or a short `slice=` makes the
 * burst short, `class=batch` makes it long.
 *
 * Source. Virtual deadlines and lag are EEVDF's (Stoica and Abdel-Wahab, 1995; Linux 6.6), with
 * the request taken from what the task has done, as scx_bpfland, scx_flash and scx_cosmos take
 * it; the victim of a wakeup is looked for in the whole LLC, as none of them does.
 *
 * Good for: desktops, servers with requests beside background work; anything without hints.
 * Bad for: groups (a cgroup's weight applies to each of its tasks), shares across LLCs that are
 * all busy.
 *
 * Cost: O(log n) an enqueue, O(CPUs of the LLC) on a wakeup that finds no idle CPU; O(1) a
 * dispatch, O(LLCs) if the own queue is empty.
 *
 * Worst case. A task waits no longer than under vtime plus lag_us for each other task of its LLC.
 * One that was woken by a promise to sleep that is not kept waits for the next CPU that asks, a
 * slice at most if it is first. Where all CPUs have tasks that wake each other in turns, one that
 * waits is seen after up to a tenth of a millisecond (idle.bpf.h).
 * Who pretends to be short, by sleeping often, gets its share early, and no more of it.
 *
 * Parameters: slice_us, lag_us, first_us, preempt_us, llc_cpus.
 */
#include "llc.bpf.h"
#include "idle.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"
#include <bpf_experimental.h>

PARAM_U64(slice_us, 3000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(lag_us, 20000, 0, 1000000, "us",
	  "what who has slept may be behind the others, and the most that a task asks for");
PARAM_U64(first_us, 1000, 0, 1000000, "us",
	  "what who wakes is taken to want at most, until it has run for longer");
PARAM_U64(preempt_us, 500, 0, 1000000, "us",
	  "how much later a deadline has to be for a wakeup to take its CPU");

COUNTER_U64(preempted, "tasks that made room for one that woke up");
COUNTER_U64(stolen, "tasks that a CPU took from another LLC, since its own had none");

/*
 * What interactive knows of a task, in its history; written with its own locks held, read by
 * others any time.
 */
struct fair_task {
	u64 vtime;
	/* what it asks for at a time, ns at weight 100 */
	u64 request;
};

static __always_inline struct fair_task *fair_task(struct policy_task *history)
{
	_Static_assert(sizeof(struct fair_task) <= sizeof(history->own), "it fits");
	return (void *)history->own;
}

/* CPUs that have been called for a task that woke up and have not asked for one since. */
static u8 called[NR_CPUS];

/* Of each CPU, the pid of the task that was woken there last by one that said it would sleep. */
static u32 promised[NR_CPUS];

static __always_inline bool is_called(s32 cpu)
{
	return READ_ONCE(called[(u32)cpu & (NR_CPUS - 1)]);
}

/* The burst that counts when it wakes, from its history and what was said of it. */
static __always_inline u64 burst_of(struct task_struct *p, u64 burst)
{
	const struct policy_hint *hint = policy_hint(p);
	u64 most = lag_us * 1000;

	if (burst > first_us * 1000)
		burst = first_us * 1000;
	if (hint && hint->slice_ns)
		burst = hint->slice_ns;
	if (hint && hint->class == POLICY_LATENCY)
		burst = 0;
	else if (hint && hint->class == POLICY_BATCH)
		burst = most;
	return burst < most ? burst : most;
}

/* What a task asks for that has run for @since ns since it woke up. */
static __always_inline u64 grown(u64 request, u64 since, u64 weight)
{
	u64 most = lag_us * 1000;

	/* The same for all hogs, or the lighter of two would first fall behind by more. */
	if (since >= most)
		return most;
	since = since * 100 / weight;
	since = since > request ? since : request;
	return since < most ? since : most;
}

/*
 * Who has slept is owed @lag at most. What it owes itself stays, or sleeping would pay; twice the
 * lag is more than who is let run comes to.
 */
static __always_inline u64 placed(s64 lag, u64 now, u64 vtime)
{
	s64 ahead = vtime - now;

	return now + (ahead < -lag ? -lag : ahead > 2 * lag ? 2 * lag : ahead);
}

/**
 * charge - bring @p's virtual time up to date
 * @llc: where it competes
 *
 * Return: NULL without memory.
 */
static __always_inline struct fair_task *charge(struct task_struct *p, u32 llc, bool woke)
{
	struct policy_task *history = policy_history(p);
	struct fair_task *t;
	u64 ran, *now = policy_llc_now(llc), weight = policy_weight(p);
	bool moved, known;

	if (!history)
		return NULL;
	t = fair_task(history);
	known = policy_charge_to(p, history, llc, &ran, &moved);
	ran = ran * 100 / weight;
	t->vtime += ran;
	if (!known) {
		t->vtime = *now;
		if (!woke)
			vtime_expect(now, llc, first_us * 100000 / weight);
	} else if (moved)
		t->vtime = within(slice_us * 100000 / weight, *now, t->vtime);
	else if (woke)
		t->vtime = placed(lag_us * 100000 / weight, *now, t->vtime);
	if (woke || !known)
		t->request = burst_of(p, policy_note_wakeup_in(p, history)) * 100 / weight;
	else
		t->request = grown(t->request, history->charged_ns - history->woke_at_ns, weight);
	/*
	 * A step towards each sample that is as long as what was run for it makes a running
	 * median of where CPU time goes. CPUs race here: what is lost is one sample.
	 */
	*now = within(ran, *now, t->vtime);
	return t;
}

/*
 * Deadline of the task that runs on @cpu by what it has run until the last tick, 0 if it does
 * not make room for anybody. Not static: the verifier looks at it once.
 */
__noinline u64 deadline_on(s32 cpu)
{
	struct task_struct *curr;
	struct policy_task *history;
	struct fair_task *t;
	u64 deadline = 0, sum, weight;

	bpf_rcu_read_lock();
	curr = __COMPAT_scx_bpf_cpu_curr(cpu);
	/* Others wait for kernel threads; tasks of a higher class stay. */
	if (!curr || !curr->pid || curr->prio < 100 || curr->flags & PF_KTHREAD)
		goto out;
	history = bpf_task_storage_get(&policy_tasks, curr, NULL, 0);
	if (!history || history->epoch != policy_epoch)
		goto out;
	t = fair_task(history);
	sum = curr->se.sum_exec_runtime;
	weight = policy_weight(curr);
	deadline = t->vtime + (sum - history->charged_ns) * 100 / weight +
		   grown(t->request, sum - history->woke_at_ns, weight);
out:
	bpf_rcu_read_unlock();
	return deadline;
}

/* Deadline of the task on @cpu that would make room for @p, which is due at @deadline, or 0. */
static __always_inline u64 victim_on(struct task_struct *p, s32 cpu, u64 deadline)
{
	u64 theirs;

	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr) || *policy_off_flag(cpu))
		return 0;
	theirs = deadline_on(cpu);
	return theirs && time_before(deadline, theirs) ? theirs : 0;
}

/* Not bpf_in_interrupt(): it does not load where the kernel's configuration is in no file. */
static __always_inline bool in_interrupt(void)
{
	return get_preempt_count() & (NMI_MASK | HARDIRQ_MASK | SOFTIRQ_OFFSET);
}

/*
 * How who runs on this CPU is going to sleep: soon, by what it usually does, or at once, as it said
 * when it woke a task, if it @promises. Interrupts say so for whom they interrupt: then a hog is
 * not believed.
 */
enum ending { GOES_ON, SOON, AT_ONCE };

static __always_inline enum ending ending_of_waker(bool promises)
{
	struct task_struct *curr = bpf_get_current_task_btf();
	struct policy_task *history = bpf_task_storage_get(&policy_tasks, curr, NULL, 0);
	u64 since;

	if (!history)
		return GOES_ON;
	since = curr->se.sum_exec_runtime - history->woke_at_ns;
	if (promises && (since <= lag_us * 1000 || !in_interrupt()))
		return AT_ONCE;
	return history->burst_ns <= preempt_us * 1000 && since <= preempt_us * 1000 ? SOON
										    : GOES_ON;
}

/*
 * The CPU to call for @p, which ran on @prev last: one whose task's deadline is after @deadline,
 * or -1. This CPU if it will do, since it is interrupted already; else the last one, which is
 * warm; else the one of the LLC with the latest.
 */
static __always_inline s32 find_victim(struct task_struct *p, s32 prev, u64 deadline)
{
	u32 llc = policy_llc_of(prev), i, end = policy_llc_begin(llc + 1);
	s32 cpu = bpf_get_smp_processor_id(), victim = -1;
	enum ending ending;
	u64 theirs;

	if (policy_llc_of(cpu) == llc && bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
		ending = ending_of_waker(READ_ONCE(promised[cpu & (NR_CPUS - 1)]) == p->pid);
		if (ending == AT_ONCE)
			return -1;
		if (ending == SOON &&
		    (!policy_first_vtime(llc, cpu, &theirs) || time_before(deadline, theirs)))
			return -1;
		if (!is_called(cpu) && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu) &&
		    victim_on(p, cpu, deadline))
			return cpu;
	}
	if (!is_called(prev) && victim_on(p, prev, deadline))
		return prev;
	bpf_for (i, policy_llc_begin(llc), end) {
		cpu = policy_llc_cpus[i & (NR_CPUS - 1)];
		theirs = is_called(cpu) ? 0 : victim_on(p, cpu, deadline);
		if (theirs) {
			deadline = theirs;
			victim = cpu;
		}
	}
	return victim;
}

/* An idle CPU for @p, which was on @cpu last; it is then taken. A negative number if none is. */
static __always_inline s32 find_idle(struct task_struct *p, s32 cpu)
{
	u32 home = policy_llc_of(cpu), i;
	s32 found;

	if (policy_none_is_idle())
		return -1;
	found = policy_find_idle_at_home(p, cpu);
	if (found >= 0)
		return found;
	bpf_for (i, 1, policy_nr_llcs) {
		found = policy_pick_idle_in(p, policy_llc_nth(home, i), 0);
		if (found >= 0)
			return found;
	}
	return -1;
}

/**
 * interactive_select_cpu - an idle CPU, of the home if there is one, runs @p at once
 */
s32 BPF_STRUCT_OPS(interactive_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu;

	if (policy_waker_makes_room(p, prev_cpu, wake_flags) &&
	    (ending_of_waker(false) == SOON || !policy_none_is_idle()))
		cpu = bpf_get_smp_processor_id();
	else
		cpu = find_idle(p, prev_cpu);
	if (cpu < 0) {
		/* Enqueue comes next, on this CPU, before anybody else can be woken here. */
		WRITE_ONCE(promised[bpf_get_smp_processor_id() & (NR_CPUS - 1)],
			   wake_flags & SCX_WAKE_SYNC ? p->pid : 0);
		return prev_cpu;
	}
	charge(p, policy_llc_of(cpu), true);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, 0);
	return cpu;
}

POLICY_ENQUEUE(interactive_enqueue, p, enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p), victim = -1;
	u32 llc = policy_llc_of(cpu);
	bool woke = enq_flags & SCX_ENQ_WAKEUP;
	struct fair_task *t;
	u64 deadline, first;

	if (policy_run_overdue(p, slice_us * 1000, enq_flags))
		return;
	t = charge(p, llc, woke);
	deadline = t ? t->vtime + t->request : *policy_llc_now(llc);
	/* No other CPU could take it, and nobody else wants this one: the queue is a detour. */
	if (woke && p->nr_cpus_allowed == 1 && cpu == bpf_get_smp_processor_id() &&
	    ending_of_waker(false) == SOON && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) &&
	    !scx_bpf_dsq_nr_queued(POLICY_DSQ(llc))) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, enq_flags);
		return;
	}
	if (woke)
		victim = find_victim(p, cpu, deadline + preempt_us * 1000);
	/* This CPU comes at once: without the queue it needs no interrupt, and nobody to ask. */
	if (victim == cpu && cpu == bpf_get_smp_processor_id() &&
	    !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) &&
	    (!policy_first_vtime(llc, cpu, &first) || time_before(deadline, first))) {
		COUNT(preempted);
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(llc), slice_us * 1000, deadline, enq_flags);
	if (victim >= 0) {
		COUNT(preempted);
		/*
		 * Any CPU may take @p meanwhile: this one may be slow to come, for a hypervisor
		 * or an interrupt. If two call it at once, one of their tasks waits for another.
		 */
		WRITE_ONCE(called[victim & (NR_CPUS - 1)], 1);
		scx_bpf_kick_cpu(victim, SCX_KICK_PREEMPT);
		return;
	}
	cpu = find_idle(p, cpu);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

POLICY_DISPATCH(interactive_dispatch, cpu, prev)
{
	bool runs = prev && prev->scx.flags & SCX_TASK_QUEUED;
	u32 own = policy_llc_of(cpu), i;
	struct fair_task *t;
	u64 first;

	policy_see_to_overdue(own);
	WRITE_ONCE(called[(u32)cpu & (NR_CPUS - 1)], 0);
	if (policy_pick_abandoned(own, slice_us * 1000))
		return;
	if (runs) {
		t = charge(prev, own, false);
		if (t && policy_first_vtime(own, cpu, &first) &&
		    time_before(t->vtime + t->request, first)) {
			scx_bpf_task_set_slice(prev, slice_us * 1000);
			return;
		}
	}
	if (policy_pick(own) || runs)
		return;
	bpf_for (i, 1, policy_nr_llcs) {
		if (policy_pick(policy_llc_nth(own, i))) {
			COUNT(stolen);
			return;
		}
	}
}

POLICY_INIT()
{
	return policy_create_llc_dsqs() ?: policy_create_llc_masks();
}

POLICY_DEFINE(interactive, "who sleeps much runs at once, the rest gets fair shares",
	      .select_cpu = (void *)interactive_select_cpu, .enqueue = (void *)interactive_enqueue,
	      .dispatch = (void *)interactive_dispatch)
