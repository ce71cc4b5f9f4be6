/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The map of hints. The root has it, policies read it, environ.bpf.c hands hints on:
 * scx_run gives all of them the same one.
 */
#ifndef __HINTS_MAP_BPF_H
#define __HINTS_MAP_BPF_H

#include "intf.h"

/* It outlives a root that is attached again. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct policy_hint);
} policy_hints SEC(".maps");

#endif /* __HINTS_MAP_BPF_H */
