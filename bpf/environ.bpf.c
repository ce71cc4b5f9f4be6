// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hints in the environment: SCX_HINT="class=latency deadline=5ms".
 *
 *   exec           the new program's environment is searched; what its value means is
 *                  looked up, and the task has the hint before the program's first
 *                  instruction. A value that nobody has read yet goes to scx_run,
 *                  which reads it once and hints whoever has it by then.
 *   fork, clone    the child has the parent's hint if that is one to hand on.
 *
 * Nothing here is on a path of the scheduler. The programs run in the context of the
 * task that executes or forks, which cannot do the other meanwhile; scx_run may write a
 * hint at the same time, and then either of the two is the last.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "hints_map.bpf.h"

char _license[] SEC("license") = "GPL";

/* From linux/sched.h. */
#define CLONE_THREAD 0x00010000

/* Pieces of an environment that are looked at: 4096 variables, or half a megabyte. */
#define MAX_PIECES 4096

/* Set before load: the environment of other users than root counts, too. */
const volatile u32 user_hints;

/* Programs that were given the hint in their environment. */
volatile u64 nr_given;
/* Programs whose value does not count, for whose they are; says nothing. */
volatile u64 nr_refused;
volatile u64 nr_malformed;
/* Values that scx_run was not told of, since it was busy. */
volatile u64 nr_lost;

static const char variable[] = "SCX_HINT=";
#define VARIABLE_LEN (sizeof(variable) - 1)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENVIRON_TEXTS);
	__type(key, struct environ_text);
	__type(value, struct environ_known);
} environ_texts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} environ_events SEC(".maps");

/**
 * find_variable - looks for the variable in a new program's environment
 * @start: where the environment begins, in the user's memory
 * @end: where it ends
 * @value: gets the value
 *
 * The pages are there, the kernel has just written them: reading without faulting
 * them in fails only if they were swapped out at once, and then there is no hint.
 *
 * Return: whether it is there
 */
static __noinline bool find_variable(u64 start, u64 end, struct environ_text *value)
{
	bool whole = true;
	u32 i, k;

	if (!value)
		return false;
	bpf_for (i, 0, MAX_PIECES) {
		bool found = whole;
		long len;

		if (start >= end)
			break;
		len = bpf_probe_read_user_str(value->text, ENVIRON_TEXT, (void *)start);
		if (len <= 0)
			break;
		for (k = 0; k < VARIABLE_LEN; k++) {
			if (value->text[k] != variable[k])
				found = false;
		}
		if (found) {
			start += VARIABLE_LEN;
			__builtin_memset(value, 0, sizeof(*value));
			len = bpf_probe_read_user_str(value->text, ENVIRON_TEXT, (void *)start);
			/* Only in a value that is too long the last byte is not 0. */
			if (len == ENVIRON_TEXT)
				value->text[ENVIRON_TEXT - 1] = 1;
			return len > 0;
		}
		/* What did not fit goes on where this ends. */
		whole = len < ENVIRON_TEXT;
		start += whole ? len : len - 1;
	}
	return false;
}

/**
 * tell - tells scx_run of a value
 * @p: the task that executes a program
 * @uid: whose it is
 * @refused: whether the value does not count
 * @value: the value
 */
static __noinline void tell(struct task_struct *p, u32 uid, u32 refused, struct environ_text *value)
{
	struct environ_event *event;

	if (!value)
		return;
	event = bpf_ringbuf_reserve(&environ_events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&nr_lost, 1);
		return;
	}
	event->pid = p->tgid;
	event->uid = uid;
	event->refused = refused;
	event->unused = 0;
	event->value = *value;
	bpf_ringbuf_submit(event, 0);
}

/**
 * may_hint - whether the environment of a new program counts
 * @bprm: the program
 * @uid: whose it is
 *
 * The environment of a program that has got more rights than its caller is the caller's:
 * like the dynamic linker we do not heed it.
 */
static __always_inline bool may_hint(struct linux_binprm *bprm, u32 uid)
{
	return !BPF_CORE_READ_BITFIELD_PROBED(bprm, secureexec) && (!uid || user_hints);
}

/**
 * environ_exec - a task has executed a program
 *
 * A hint that it has from its environment goes, unless the new one says the same or
 * scx_run still has to read what it says. One that a user gave it stays if the
 * environment says nothing.
 */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(environ_exec, struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
{
	u32 uid = BPF_CORE_READ(p, real_cred, uid.val);
	struct environ_known *known = NULL;
	struct environ_text value;
	struct policy_hint *hint;
	bool found;

	found = find_variable(BPF_CORE_READ(p, mm, env_start), BPF_CORE_READ(p, mm, env_end),
			      &value);
	if (found && !may_hint(bprm, uid)) {
		/* The first is enough to tell a user what to do. */
		if (!__sync_fetch_and_add(&nr_refused, 1))
			tell(p, uid, 1, &value);
		found = false;
	}
	if (found) {
		known = bpf_map_lookup_elem(&environ_texts, &value);
		if (!known) {
			tell(p, uid, 0, &value);
			return 0;
		}
		if (!known->valid) {
			__sync_fetch_and_add(&nr_malformed, 1);
			known = NULL;
		}
	}

	hint = bpf_task_storage_get(&policy_hints, p, NULL, 0);
	/* Made anew, not changed: a policy that reads it meanwhile sees one or the other. */
	if (hint && (known || hint->scope == HINT_ENVIRON))
		bpf_task_storage_delete(&policy_hints, p);
	if (known &&
	    bpf_task_storage_get(&policy_hints, p, &known->hint, BPF_LOCAL_STORAGE_GET_F_CREATE))
		__sync_fetch_and_add(&nr_given, 1);
	return 0;
}

/**
 * environ_newtask - the current task has made @p, which has not run yet
 */
SEC("tp_btf/task_newtask")
int BPF_PROG(environ_newtask, struct task_struct *p, u64 clone_flags)
{
	struct policy_hint *hint;

	hint = bpf_task_storage_get(&policy_hints, bpf_get_current_task_btf(), NULL, 0);
	if (!hint)
		return 0;
	if (hint->scope == HINT_ENVIRON ||
	    (hint->scope == HINT_PROCESS && (clone_flags & CLONE_THREAD)))
		bpf_task_storage_get(&policy_hints, p, hint, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return 0;
}
