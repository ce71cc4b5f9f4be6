// SPDX-License-Identifier: GPL-2.0-only
/*
 * balance - a fair queue per last-level cache; a process moves load between them
 *
 * Algorithm. Each task has a home, one of the LLCs, and waits in its queue, ordered by
 * virtual time as in vtime: within an LLC shares follow weights. A task that wakes up gets
 * an idle CPU, of its home if there is one. A CPU takes from the queue of its own LLC; only
 * when that is empty does it take from another's, and such a visitor goes back to its own
 * queue when others want the CPU. So no CPU idles while a task waits that it may run, and
 * where CPUs are idle the tasks of a crowded LLC share all of them fairly.
 *
 * What BPF does not do is even out LLCs that are all busy: that takes a view of the whole.
 * The half in user space (slow_path.rs, moves.rs) takes one every period_ms: how long each
 * task was runnable, times its weight, makes its load. It says which tasks should have
 * another home, and each gets it when it is queued the next time. Nobody ever waits for
 * that process: while it is slow, stopped or dead, homes stay as they are.
 *
 * Load is measured at no cost to scheduling: the kernel counts the time that a task ran and
 * the time that it waited, and an iterator reads both when the process asks.
 *
 * Source. Domains with a BPF fast path and a balancer in user space are scx_rusty's, weights
 * made feasible before loads are compared too (LoadAggregator of scx_utils); load as weight
 * times runnable time, and the least imbalance that is worth a migration, are Linux's.
 *
 * Cost. An enqueue is O(log n) for the n tasks in the queue, a dispatch O(1), both with one
 * look-up in task storage more than vtime if there is more than one LLC; a steal O(LLCs). A
 * round of the process looks at every task once, O(tasks), and at the busy ones for each
 * task that it moves, O(moves x busy tasks x LLCs).
 *
 * Worst case. While all CPUs are busy and nobody balances, a task in a crowded LLC gets less
 * than its share, in the ratio of the loads per CPU; it never starves, since its own LLC's
 * CPUs serve it. Loads that whole tasks cannot even out stay uneven: three equal tasks on
 * one LLC of two CPUs and two on another stay there.
 *
 * Good for: machines with several LLCs, or many CPUs on one (llc_cpus), under loads that
 * last longer than a few periods; shares that follow weights; caches that stay warm.
 * Bad for: one small LLC (vtime does the same with less), tasks that live for milliseconds
 * (they are gone before they are measured), latency beside hogs of the same weight.
 *
 * Parameters: slice_us, period_ms, llc_cpus.
 */
#include "llc.bpf.h"
#include "overdue.bpf.h"
#include "vtime.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(period_ms, 100, 10, 60000, "ms", "how often load is measured and moved");

COUNTER_U64(moves_wished, "tasks that should have another home");
COUNTER_U64(moves_done, "tasks that were given it");
COUNTER_U64(stolen, "tasks that a CPU of another LLC took, since it had none");

/*
 * What balance knows of a task. All but @wish is written with the task's own locks held, or
 * by the one sampler there is; @wish is taken by exchange. 0 stands for none.
 */
struct balance_task {
	/* 1 + the CPU that stands for its home: one that it may use, if it can its last there */
	u32 home;
	/* 1 + such a CPU of the home that it should have */
	u32 wish;
	/* its runnable time up to the last sample, ns */
	u64 sampled;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct balance_task);
} balance_tasks SEC(".maps");

/* NULL with a single LLC, where nobody has to know, and without memory. */
static __always_inline struct balance_task *task_of(struct task_struct *p)
{
	if (policy_nr_llcs < 2)
		return NULL;
	return bpf_task_storage_get(&balance_tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline bool may_run(struct task_struct *p, s32 cpu)
{
	return bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && !*policy_off_flag(cpu);
}

/* Gives @p another home. What it is ahead or behind it stays among its new neighbours. */
static __always_inline void move_home(struct task_struct *p, struct balance_task *t, s32 cpu)
{
	u64 old = *policy_llc_now(policy_llc_of(t->home - 1));

	scx_bpf_task_set_dsq_vtime(p, p->scx.dsq_vtime - old + *policy_llc_now(policy_llc_of(cpu)));
	t->home = cpu + 1;
}

/**
 * home_cpu - a CPU of @p's home that it may use, after moving home if that is wished
 * @cpu: where it is or was
 */
static __always_inline s32 home_cpu(struct task_struct *p, struct balance_task *t, s32 cpu)
{
	u32 wish;

	if (!t)
		return cpu;
	/* A wish that comes in between is found the next time. */
	wish = t->wish ? __sync_lock_test_and_set(&t->wish, 0) : 0;
	if (wish && t->home && may_run(p, wish - 1)) {
		move_home(p, t, wish - 1);
		COUNT(moves_done);
	}
	if (!t->home || policy_llc_of(t->home - 1) == policy_llc_of(cpu))
		t->home = cpu + 1;
	else if (!may_run(p, t->home - 1))
		/* Its affinity has changed, or the CPU is offline: home is where it is. */
		move_home(p, t, cpu);
	return t->home - 1;
}

/**
 * balance_select_cpu - an idle CPU, of the home if there is one
 */
s32 BPF_STRUCT_OPS(balance_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct balance_task *t = task_of(p);
	bool is_new = t && !t->home;
	s32 cpu;

	/* The kernel looks near the CPU that it is told, and then further away. */
	cpu = policy_select_idle(p, home_cpu(p, t, prev_cpu), wake_flags);
	if (is_new)
		t->home = cpu + 1;
	return cpu;
}

/**
 * balance_enqueue - @p waits in the queue of its home
 */
POLICY_ENQUEUE(balance_enqueue, p, enq_flags)
{
	struct balance_task *t = task_of(p);
	u32 before = t ? t->home : 0;
	s32 cpu = home_cpu(p, t, scx_bpf_task_cpu(p));
	u32 llc = policy_llc_of(cpu);
	bool moved = before && policy_llc_of(before - 1) != llc;
	u64 vtime;

	if (policy_run_overdue(p, slice_us * 1000, enq_flags))
		return;
	vtime = vtime_in(p, llc, cpu, policy_llc_now(llc), slice_us * 1000,
			 moved || enq_flags & SCX_ENQ_WAKEUP);
	policy_queue_vtime(p, llc, slice_us * 1000, vtime, enq_flags);
}

/**
 * goes_on - whether @prev, which is in no queue, keeps @cpu
 * @home: where its home goes
 */
static __always_inline bool goes_on(struct task_struct *prev, s32 cpu, u32 *home)
{
	struct balance_task *t = task_of(prev);
	u64 vtime, next;

	*home = policy_llc_of(t && t->home ? t->home - 1 : cpu);
	vtime = vtime_in(prev, *home, cpu, policy_llc_now(*home), slice_us * 1000, false);
	scx_bpf_task_set_dsq_vtime(prev, vtime);
	if (t && t->wish)
		return false;
	/* Those who are at home here come before a visitor. */
	if (*home != policy_llc_of(cpu) &&
	    scx_bpf_dsq_nr_queued(POLICY_DSQ(policy_llc_of(cpu))) > 0)
		return false;
	return policy_first_vtime(*home, cpu, &next) && time_before(vtime, next);
}

/**
 * balance_dispatch - the own LLC's first task; if there is none, another LLC's
 */
POLICY_DISPATCH(balance_dispatch, cpu, prev)
{
	u32 own = policy_llc_of(cpu), home = own, i;
	bool runs = prev && (prev->scx.flags & SCX_TASK_QUEUED);

	policy_see_to_overdue(own);
	if (policy_pick_abandoned(own, slice_us * 1000))
		return;
	if (runs && goes_on(prev, cpu, &home)) {
		scx_bpf_task_set_slice(prev, slice_us * 1000);
		return;
	}
	if (policy_pick(own))
		return;
	if (runs) {
		/* A visitor takes turns with those that it came from; others would only
		 * change places with @prev.
		 */
		if (home != own && policy_pick(home))
			COUNT(stolen);
		return;
	}
	bpf_for (i, 1, policy_nr_llcs) {
		if (policy_pick((own + i) % policy_nr_llcs)) {
			COUNT(stolen);
			return;
		}
	}
}

/* --- For the half in user space ---------------------------------------------- */

/*
 * Time that @p has been runnable in its life, ns: what it ran and what it waited. The
 * clocks of two CPUs may differ by a little.
 */
static __always_inline u64 runnable_ns(struct task_struct *p)
{
	u64 total = p->se.sum_exec_runtime, since;
	s64 waits;

	/* A kernel without it counts only what ran. */
	if (!bpf_core_field_exists(p->sched_info))
		return total;
	since = p->sched_info.last_queued;
	waits = scx_bpf_now() - since;
	return total + p->sched_info.run_delay + (since && waits > 0 ? waits : 0);
}

/* The LLCs with a CPU that @p may use, a bit each. */
static __always_inline u64 allowed_llcs(struct task_struct *p)
{
	u64 set = 0;
	u32 i;

	if (p->nr_cpus_allowed >= policy_nr_cpus)
		return ~0ULL;
	bpf_for (i, 0, policy_nr_cpus) {
		if (may_run(p, i))
			set |= 1ULL << policy_llc_of(i);
	}
	return set;
}

/* What the sampler writes of a task; five words for slow_path.rs. */
struct balance_record {
	u64 pid;
	/* runnable since the last sample, ns */
	u64 runnable_ns;
	u64 weight;
	/* its home, or the one that it is to have */
	u64 llc;
	u64 allowed;
};

/**
 * balance_sample - list every task that was runnable since the last sample
 *
 * The fields of a task that is scheduled meanwhile may be of two moments; that is noise
 * in one sample.
 */
SEC("iter/task")
int balance_sample(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;
	struct balance_record record = {};
	struct balance_task *t;
	u32 home, wish;
	u64 total;

	if (!p)
		return 0;
	t = bpf_task_storage_get(&balance_tasks, p, NULL, 0);
	if (!t || !t->home)
		return 0;
	home = t->home;
	wish = t->wish;
	total = runnable_ns(p);
	record.pid = p->pid;
	record.runnable_ns = total - t->sampled;
	record.weight = policy_weight(p);
	record.llc = policy_llc_of((wish ?: home) - 1);
	record.allowed = allowed_llcs(p);
	if (!t->sampled) {
		/* Its life until now says nothing of the present. */
		t->sampled = total;
		return 0;
	}
	if ((s64)record.runnable_ns <= 0)
		return 0;
	/* One that finds no room is shown once more. */
	if (!bpf_seq_write(ctx->meta->seq, &record, sizeof(record)))
		t->sampled = total;
	return 0;
}

/* Two words from slow_path.rs: a task and an LLC. */
struct balance_move {
	u64 pid;
	u64 llc;
};

/**
 * balance_wish - a task should have another home
 *
 * The task may be gone, and its number another's since it was sampled: that one moves,
 * which harms nobody. Return: 0, or a negative errno.
 */
SEC("syscall")
int balance_wish(struct balance_move *move)
{
	struct task_struct *p = bpf_task_from_pid(move->pid);
	struct balance_task *t;
	int ret = -EINVAL;
	u32 i;

	if (!p)
		return -ESRCH;
	t = bpf_task_storage_get(&balance_tasks, p, NULL, 0);
	bpf_rcu_read_lock();
	bpf_for (i, 0, policy_nr_cpus) {
		if (!t || policy_llc_of(i) != move->llc || !may_run(p, i))
			continue;
		t->wish = i + 1;
		COUNT(moves_wished);
		ret = 0;
		break;
	}
	bpf_rcu_read_unlock();
	bpf_task_release(p);
	return ret;
}

POLICY_INIT()
{
	return policy_create_llc_dsqs();
}

POLICY_DEFINE(balance, "a fair queue per last-level cache; a process moves load between them",
	      .select_cpu = (void *)balance_select_cpu, .enqueue = (void *)balance_enqueue,
	      .dispatch = (void *)balance_dispatch)
