// SPDX-License-Identifier: GPL-2.0-only
/*
 * agent_edf - earliest deadline first, decided in user space: the kernel half
 */

/* What made room for the agent may have to make room for another task too. */
#define DELEGATE_ASK_ALWAYS
#include "delegate.bpf.h"

PARAM_U64(default_deadline_us, 100000, 100, 3600000000, "us", "deadline of tasks without a hint");
PARAM_U64(slice_us, 20000, 100, 1000000, "us",
	  "share of tasks without a hint: run time after which the deadline is a new one");

DELEGATE_DEFINE(agent_edf, "earliest deadline first, decided by a process in user space");
