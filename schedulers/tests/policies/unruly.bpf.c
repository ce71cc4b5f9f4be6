// SPDX-License-Identifier: GPL-2.0-only
/*
 * unruly - the kernel half of an agent that does what an agent should not, for the
 * tests of what happens then; the other half is tests/guest/unruly.rs
 */
#include "delegate.bpf.h"

PARAM_U64(burn_ms, 0, 0, 1000, "ms", "time that it computes for each decision");
PARAM_U64(wrong, 0, 0, 1, "", "1: wrong transactions of every kind before each right one");
PARAM_U64(forget, 0, 0, 1, "", "1: never decides on a task of an odd pid");

DELEGATE_DEFINE(unruly, "an agent that does what it should not")
