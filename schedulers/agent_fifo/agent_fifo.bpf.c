// SPDX-License-Identifier: GPL-2.0-only
/*
 * agent_fifo - first come, first served, decided in user space: the kernel half
 */
#define DELEGATE_BATCH
#include "delegate.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(depth, 4, 1, 64, "tasks",
	  "tasks that a CPU is given: one that runs and others to run next");

DELEGATE_DEFINE(agent_fifo, "first come, first served, decided by a process in user space");
