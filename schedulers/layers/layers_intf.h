/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What layers' rules are compiled into: config.rs writes it, layers.bpf.c reads it.
 */
#ifndef __LAYERS_INTF_H
#define __LAYERS_INTF_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
#endif

/* Powers of two, but for the first. */
enum layers_sizes {
	LAYERS_MAX = 15,
	/* queues: the layers' and that of strays, which comes after them */
	LAYERS_MAX_QUEUES = 16,
	LAYERS_MAX_RULES = 64,
	/* names in paths of cgroups, and how long they may be, with the 0 at the end */
	LAYERS_MAX_NAMES = 128,
	LAYERS_NAME_LEN = 128,
	/* names in one path */
	LAYERS_MAX_DEPTH = 8,
	/* a task's name, with the 0 */
	LAYERS_COMM_LEN = 16,
	/* NR_CPUS of the scx headers */
	LAYERS_MAX_CPUS = 1024,
};

/* Conditions. */
enum layers_conditions {
	LAYERS_COMM = 1,
	LAYERS_CGROUP = 2,
	LAYERS_UID = 4,
	LAYERS_NICE = 8,
	LAYERS_THREADS = 16,
	LAYERS_HINT = 32,
};

/* The queue of a layer, or of strays. */
struct layers_queue {
	/* 0: as the parameter slice_us says */
	u64 slice_ns;
	u32 share;
	u8 preempt;
	/* all CPUs serve it */
	u8 everywhere;
	u16 unused;
};

/* Conditions that have all to hold. */
struct layers_rule {
	u32 layer;
	/* enum layers_conditions */
	u32 conditions;
	/* the first @comm_len bytes of a task's name; with the 0 if it is the whole name */
	u8 comm[LAYERS_COMM_LEN];
	u32 comm_len;
	u32 uid;
	/* from the first to the last, both included */
	s32 nice[2];
	u32 threads[2];
	/* enum policy_class */
	u32 class_;
	/* the cgroup's path: numbers of names */
	u32 depth;
	u32 path[LAYERS_MAX_DEPTH];
};

/* The first @len bytes of the name of a cgroup; with the 0 if it is the whole name. */
struct layers_name {
	u8 text[LAYERS_NAME_LEN];
	u32 len;
};

struct layers_config {
	u32 nr_layers;
	u32 nr_rules;
	/* conditions that occur, and what else does */
	u32 conditions;
	u32 some_preempt;
	struct layers_queue queues[LAYERS_MAX_QUEUES];
	/* in the order in which they are tried */
	struct layers_rule rules[LAYERS_MAX_RULES];
	struct layers_name names[LAYERS_MAX_NAMES];
	/* the layers that each CPU serves, a bit each */
	u16 cpu_layers[LAYERS_MAX_CPUS];
};

#endif /* __LAYERS_INTF_H */
