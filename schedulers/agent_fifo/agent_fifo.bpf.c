// SPDX-License-Identifier: GPL-2.0-only
/*
 * agent_fifo - first come, first served, decided in user space: the kernel half
 */
#include "delegate.bpf.h"

PARAM_U64(slice_us, 20000, 100, 1000000, "us", "time a task may run before the next is picked");
PARAM_U64(per_cpu, 0, 0, 1, "", "1: a queue for each CPU; 0: one for all");

DELEGATE_DEFINE(agent_fifo, "first come, first served, decided by a process in user space");
