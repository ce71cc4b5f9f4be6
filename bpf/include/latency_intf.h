/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What latency.bpf.c and framework's latency module share. Included by intf.h,
 * which defines the integer types.
 */
#ifndef __LATENCY_INTF_H
#define __LATENCY_INTF_H

/*
 * Buckets are log-linear: below 2^(LAT_SUB_BITS + 1) ns a bucket is one value,
 * above it every power of two is divided into 2^LAT_SUB_BITS buckets of equal
 * width, so no bucket is wider than 1/32 of the values in it. Values of
 * 2^LAT_MAX_BITS ns (68.7 s) and more go to the last bucket.
 */
enum lat_consts {
	LAT_SUB_BITS = 5,
	LAT_MAX_BITS = 36,
	LAT_BUCKETS = (LAT_MAX_BITS - LAT_SUB_BITS + 1) << LAT_SUB_BITS,
	/* Buffers for measuring windows: one is filled while the other is read. */
	LAT_BUFFERS = 2,
	/* Entries that a breakdown by comm, cgroup or tgid can hold. */
	LAT_PER_ENTRIES = 16384,
};

/* Which distribution a sample belongs to. */
enum lat_kind {
	/* from a wakeup to running */
	LAT_WAKEUP,
	/* from losing the CPU, still runnable, to running again */
	LAT_REQUEUE,
	/* from running to leaving the CPU */
	LAT_SLICE,
	LAT_KINDS,
	/* The kinds that are waits come first; together they are run-queue wait. */
	LAT_WAITS = LAT_SLICE,
};

/*
 * A bucket wraps after 2^32 samples on one CPU in one window: more than an hour
 * at a million context switches a second.
 */
struct lat_hist {
	u64 sum;
	u64 max;
	u32 buckets[LAT_BUCKETS];
};

/* One CPU's share of a window; must stay below 32 KiB, the limit of per-CPU values. */
struct lat_window {
	struct lat_hist hist[LAT_KINDS];
	u64 migrations;
	u64 switches;
};

/* What waits are broken down by, beside the machine's total. */
enum lat_per {
	LAT_PER_NONE,
	LAT_PER_COMM,
	LAT_PER_CGROUP,
	LAT_PER_TGID,
};

struct lat_per_key {
	/* set for LAT_PER_COMM, all zeroes for the others */
	u8 comm[16];
	/* cgroup id or tgid */
	u64 id;
	/* the buffer of the window that the entry belongs to */
	u32 buffer;
	u32 pad;
};

struct lat_per_stat {
	u64 count;
	u64 sum;
	u64 max;
};

struct lat_per_entry {
	struct lat_per_stat stat[LAT_WAITS];
	/* the task whose wait was the longest of its kind */
	u8 comm[16];
};

#endif /* __LATENCY_INTF_H */
