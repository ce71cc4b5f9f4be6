/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * layers: what each layer has had of a CPU, and whose turn it is. Included once, by
 * layers.bpf.c, after its parameters.
 */
#ifndef __CLOCKS_BPF_H
#define __CLOCKS_BPF_H

#include "rules.bpf.h"

/* How far ahead a layer may be of the others on a CPU, beyond a slice, ns at share 100 */
#define LEAD (10ULL * 1000 * 1000)

/*
 * A CPU's clocks. Only the CPU itself writes here, but for those who wake up elsewhere and pay
 * for what they ran here: such a payment may be lost, or another in its place.
 */
struct turns {
	/* the clock of the layer that was picked last */
	u64 now;
	u64 clocks[LAYERS_MAX_QUEUES];
	/* times that the CPU has asked for a task */
	u64 asked;
} __attribute__((aligned(64)));
static struct turns all_turns[NR_CPUS];

/* Index of queue @q in arrays of them. The compiler may know that it is one, the verifier not. */
static __always_inline u32 at(u32 q)
{
	barrier_var(q);
	return q & (LAYERS_MAX_QUEUES - 1);
}

static __always_inline const volatile struct layers_queue *queue(u32 q)
{
	return &policy_config.queues[at(q)];
}

static __always_inline u64 slice_of(u32 q)
{
	return queue(q)->slice_ns ?: slice_us * 1000;
}

static __always_inline struct turns *turns_of(s32 cpu)
{
	return &all_turns[(u32)cpu & (NR_CPUS - 1)];
}

static __always_inline u64 *clock_of(struct turns *t, u32 q)
{
	return &t->clocks[at(q)];
}

static __always_inline u64 worth(u32 q, u64 ns)
{
	return ns * 100 / queue(q)->share;
}

/* The clock of queue @q as it counts: between that of the last pick and a bit more. */
static __always_inline u64 start_of(struct turns *t, u32 q)
{
	u64 clock = *clock_of(t, q), last = t->now + worth(q, slice_of(q) + LEAD);

	if (time_before(clock, t->now))
		return t->now;
	return time_before(clock, last) ? clock : last;
}

static __always_inline void begin_turn(struct turns *t, u32 q)
{
	t->now = *clock_of(t, q) = start_of(t, q);
}

#endif /* __CLOCKS_BPF_H */
