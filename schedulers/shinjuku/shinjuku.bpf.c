// SPDX-License-Identifier: GPL-2.0-only
/*
 * shinjuku - one queue, preempted after a quantum, decided in user space: the kernel half
 */

/* What made room for the agent must not be next on its CPU whatever the agent decides. */
#define DELEGATE_ASK_ALWAYS
/* A real-time thread that hands out requests must not be two context switches for the agent. */
#define DELEGATE_PUT_BACK
/* One queue is the point: with many, short requests wait behind long ones elsewhere. */
#define DELEGATE_ONE_AGENT
#include "delegate.bpf.h"

PARAM_U64(quantum_us, 500, 10, 5000, "us", "time a latency task may run while others wait");
PARAM_U64(batch_quantum_us, 5000, 100, 1000000, "us",
	  "time a batch task may run while other batch tasks wait");
PARAM_U64(turn_within_us, 50000, 1000, 1000000, "us",
	  "wait after which any task has a quantum as if it had just woken up");

DELEGATE_DEFINE(shinjuku, "one queue, preemption after a quantum; batch tasks get what is left");
