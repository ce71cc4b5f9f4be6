// SPDX-License-Identifier: GPL-2.0-only
/*
 * unruly - the kernel half of an agent that does what an agent should not, for the
 * tests of what happens then; the other half is tests/guest/unruly.rs
 */
#define DELEGATE_ASK_ALWAYS
#include "delegate.bpf.h"

PARAM_U64(burn_ms, 0, 0, 1000, "ms", "time that it computes for each decision");
PARAM_U64(wrong, 0, 0, 1, "", "1: wrong transactions of every kind before each right one");
PARAM_U64(forget, 0, 0, 1, "", "1: never decides on a task of an odd pid");
PARAM_U64(preempt, 0, 0, 1, "",
	  "1: takes the CPU away again and again and gives it back to whom it was taken from");

DELEGATE_DEFINE(unruly, "an agent that does what it should not")
