// SPDX-License-Identifier: GPL-2.0-only
/*
 * interactive - who sleeps much runs at once, the rest gets fair shares
 *
 * Algorithm. Each task has a virtual time, its run time divided by its weight, and a burst: how
 * long it usually runs from a wakeup until it sleeps, at most a slice. It waits in the queue of
 * its last-level cache (LLC), ordered by its virtual deadline: virtual time + burst / weight. So
 * of two tasks that had as much for their weight the one that needs less comes first; it cannot
 * get more than the other in the long run, since virtual time counts all that it runs. Who has
 * slept is placed within lag_us of the others.
 *
 * A task that wakes gets an idle CPU, of its LLC first. If there is none it takes the CPU whose
 * task has the latest deadline, provided that this is later than its own by preempt_us, and puts
 * that task back. A hog's burst is a slice, so whoever runs shortly takes the CPU of a hog, and
 * tasks that are alike do not take it from each other. A hint `class=latency` or a short
 * `slice=` makes the burst short, `class=batch` makes it a slice.
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
 * Worst case. A task waits no longer than under vtime plus a slice for each CPU-bound task of its
 * LLC. Who pretends to be short, by sleeping often, gets its share early, and no more of it.
 *
 * Parameters: slice_us, lag_us, preempt_us, llc_cpus.
 */
#include "llc.bpf.h"
#include "idle.bpf.h"
#include "vtime.bpf.h"

PARAM_U64(slice_us, 5000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(lag_us, 5000, 0, 1000000, "us",
	  "what who has slept may be ahead of or behind the others");
PARAM_U64(preempt_us, 500, 0, 1000000, "us",
	  "how much later a deadline has to be for a wakeup to take its CPU");

COUNTER_U64(preempted, "tasks that made room for one that woke up");
COUNTER_U64(stolen, "tasks that a CPU took from another LLC, since its own had none");

/* What interactive knows of a task; written with its own locks held, read by others any time. */
struct fair_task {
	u64 epoch;
	u64 vtime;
	/* what it asks for at a time, ns at weight 100 */
	u64 request;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct fair_task);
} fair_tasks SEC(".maps");

/* The burst that counts, from its history and what was said of it. */
static __always_inline u64 burst_of(struct task_struct *p, u64 burst)
{
	const struct policy_hint *hint = policy_hint(p);
	u64 slice = slice_us * 1000;

	if (hint && hint->slice_ns)
		burst = hint->slice_ns;
	if (hint && hint->class == POLICY_LATENCY)
		burst = 0;
	else if (hint && hint->class == POLICY_BATCH)
		burst = slice;
	return burst < slice ? burst : slice;
}

/**
 * charge - bring @p's virtual time up to date
 * @llc: where it competes
 *
 * Return: NULL without memory.
 */
static __always_inline struct fair_task *charge(struct task_struct *p, u32 llc, bool woke)
{
	struct fair_task *t;
	u64 ran, *now = policy_llc_now(llc), weight = policy_weight(p);
	bool moved, known = policy_charge_in(p, llc, &ran, &moved);
	u64 worth = slice_us * 100000 / weight;

	t = bpf_task_storage_get(&fair_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t)
		return NULL;
	ran = ran * 100 / weight;
	t->vtime += ran;
	if (woke || moved || !known || t->epoch != policy_epoch)
		t->vtime = within(lag_us * 100000 / weight, *now, t->vtime);
	if (woke || t->epoch != policy_epoch)
		t->request = burst_of(p, policy_note_wakeup(p)) * 100 / weight;
	else if (ran > t->request)
		/* It runs for longer this time than it usually does. */
		t->request = ran < worth ? ran : worth;
	t->epoch = policy_epoch;
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
	u64 deadline = 0;

	bpf_rcu_read_lock();
	curr = __COMPAT_scx_bpf_cpu_curr(cpu);
	/* Others wait for kernel threads; tasks of a higher class stay. */
	if (!curr || !curr->pid || curr->prio < 100 || curr->flags & PF_KTHREAD)
		goto out;
	t = bpf_task_storage_get(&fair_tasks, curr, NULL, 0);
	history = bpf_task_storage_get(&policy_tasks, curr, NULL, 0);
	if (t && history && t->epoch == policy_epoch)
		deadline = t->vtime + t->request +
			   (curr->se.sum_exec_runtime - history->charged_ns) * 100 /
				   policy_weight(curr);
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

/*
 * The CPU that @p, which ran on @prev last, takes from a task whose deadline is after @deadline,
 * or -1. This CPU if it will do, since it is interrupted already; else the last one, which is
 * warm; else the one of the LLC with the latest. The others may be slow to come: one with
 * somebody in its own queue has been called already.
 */
static __always_inline s32 find_victim(struct task_struct *p, s32 prev, u64 deadline)
{
	u32 llc = policy_llc_of(prev), i, end = policy_llc_begin(llc + 1);
	s32 cpu = bpf_get_smp_processor_id(), victim = -1;
	u64 theirs;

	if (policy_llc_of(cpu) == llc && victim_on(p, cpu, deadline))
		return cpu;
	if (victim_on(p, prev, deadline) && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | prev))
		return prev;
	bpf_for (i, policy_llc_begin(llc), end) {
		cpu = policy_llc_cpus[i & (NR_CPUS - 1)];
		theirs = victim_on(p, cpu, deadline);
		if (theirs && !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | cpu)) {
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

	if (policy_may_follow_waker(p, prev_cpu, wake_flags))
		cpu = bpf_get_smp_processor_id();
	else
		cpu = find_idle(p, prev_cpu);
	if (cpu < 0)
		return prev_cpu;
	charge(p, policy_llc_of(cpu), true);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_us * 1000, 0);
	return cpu;
}

POLICY_ENQUEUE(interactive_enqueue, p, enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p), victim;
	u32 llc = policy_llc_of(cpu);
	bool woke = enq_flags & SCX_ENQ_WAKEUP;
	struct fair_task *t = charge(p, llc, woke);
	u64 deadline = t ? t->vtime + t->request : *policy_llc_now(llc);

	if (woke) {
		victim = find_victim(p, cpu, deadline + preempt_us * 1000);
		if (victim >= 0) {
			COUNT(preempted);
			scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | victim, slice_us * 1000,
					   enq_flags | SCX_ENQ_PREEMPT);
			return;
		}
	}
	scx_bpf_dsq_insert_vtime(p, POLICY_DSQ(llc), slice_us * 1000, deadline, enq_flags);
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
