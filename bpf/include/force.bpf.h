/* SPDX-License-Identifier: GPL-2.0-only */
/* The policy SDK: coming into force in a slot, and going out of it. */
#ifndef __FORCE_BPF_H
#define __FORCE_BPF_H

#include "hotplug.bpf.h"

/*
 * Counts the times that this policy has come into force. What a policy has summed up over tasks
 * is void then, since it has not seen who came and went: it keeps this number with what it knows
 * of a task.
 */
static u64 policy_generation = 1;

/*
 * What else a policy has to do each time before it comes into force in a slot, while none of its
 * ops runs. One that needs it defines it before it includes this.
 */
#ifndef POLICY_CATCH_UP
#define POLICY_CATCH_UP()
#endif

/*
 * Whether this policy is in force. For what runs beside its ops, such as a timer: an op runs only
 * if it is.
 */
static bool policy_in_force;

/**
 * policy_catch_up - prepare for coming into force
 *
 * The agent runs this each time before. CPUs that have gone in the meantime need no note: nothing
 * waits in their queues.
 */
SEC("syscall")
int policy_catch_up(void *ctx)
{
	policy_note_all_online();
	policy_generation++;
	WRITE_ONCE(policy_in_force, true);
	POLICY_CATCH_UP();
	return 0;
}

/**
 * policy_leave - note that this policy is not in force any more
 *
 * The agent runs this after the flip and before it waits for a grace period: after that, nothing
 * runs that has not seen it.
 */
SEC("syscall")
int policy_leave(void *ctx)
{
	WRITE_ONCE(policy_in_force, false);
	return 0;
}

#endif /* __FORCE_BPF_H */
