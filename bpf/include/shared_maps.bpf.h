/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps that outlive a policy. The root has them; the framework gives a policy in
 * a slot the root's, which works only while both declare them alike: hence once, here.
 */
#ifndef __SHARED_MAPS_BPF_H
#define __SHARED_MAPS_BPF_H

#include "intf.h"
#include "hints_map.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct policy_shared);
} policy_shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct policy_task);
} policy_tasks SEC(".maps");

/*
 * In a section of its own it is one load for a policy to read and, since the section is shared
 * like the maps above, one store for all policies.
 */
volatile struct policy_agent policy_agent SEC(".data.agent") = {.tgid = -1};

#endif /* __SHARED_MAPS_BPF_H */
