/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * layers: which layer a task belongs to. Included once, by layers.bpf.c.
 *
 * The rules are tried only when something has changed that one of them asks for: what they ask
 * for is looked at each time a task is queued or its slice ends, and compared with what it was.
 * Conditions that no rule has cost nothing: the verifier knows the rules.
 */
#ifndef __RULES_BPF_H
#define __RULES_BPF_H

#include "policy.bpf.h"
#include "layers_intf.h"

POLICY_CONFIG(struct layers_config,
	      "TOML: rules that assign tasks to layers, and what each layer gets");

/* What rules ask for; 0 where none does. */
struct facts {
	u8 comm[LAYERS_COMM_LEN];
	u64 cgroup;
	u32 uid;
	s32 nice;
	u32 threads;
	u32 class;
};

struct assignment {
	struct facts facts;
	u32 layer;
	u32 known;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct assignment);
} assignments SEC(".maps");

static __always_inline void look_at(struct task_struct *p, struct facts *f)
{
	u32 conditions = policy_config.conditions;
	const struct policy_hint *hint;

	if (conditions & LAYERS_COMM)
		bpf_probe_read_kernel(f->comm, sizeof(f->comm), p->comm);
	if (conditions & LAYERS_CGROUP)
		f->cgroup = p->cgroups->dfl_cgrp->kn->id;
	if (conditions & LAYERS_UID)
		f->uid = p->real_cred->euid.val;
	if (conditions & LAYERS_NICE)
		f->nice = p->static_prio - 120;
	if (conditions & LAYERS_THREADS)
		f->threads = p->signal->nr_threads;
	if (conditions & LAYERS_HINT) {
		hint = policy_hint(p);
		f->class = hint ? hint->class : POLICY_NORMAL;
	}
}

static __always_inline bool same_facts(const struct facts *a, const struct facts *b)
{
	return !__builtin_memcmp(a, b, sizeof(*a));
}

/* Whether the cgroup of @p at @level of the hierarchy has a name. */
__noinline bool name_matches(struct task_struct *p __arg_trusted, u32 level, u32 name)
{
	const volatile struct layers_name *want;
	struct cgroup *cgrp;
	char has[LAYERS_NAME_LEN];
	bool same = true;
	u32 i;

	cgrp = bpf_cgroup_ancestor(p->cgroups->dfl_cgrp, level);
	if (!cgrp)
		return false;
	if (bpf_probe_read_kernel_str(has, sizeof(has), BPF_CORE_READ(cgrp, kn, name)) < 0)
		has[0] = 0;
	bpf_cgroup_release(cgrp);
	want = &policy_config.names[name & (LAYERS_MAX_NAMES - 1)];
	bpf_for (i, 0, want->len) {
		if (i >= LAYERS_NAME_LEN)
			break;
		same = has[i] == want->text[i];
		if (!same || !has[i])
			break;
	}
	return same;
}

/* Whether the cgroup of @p is the one that the rule names or below it. */
__noinline bool cgroup_matches(struct task_struct *p __arg_trusted, u32 rule)
{
	const volatile struct layers_rule *r = &policy_config.rules[rule & (LAYERS_MAX_RULES - 1)];
	u32 level;

	if (p->cgroups->dfl_cgrp->level < r->depth)
		return false;
	bpf_for (level, 0, r->depth) {
		if (!name_matches(p, level + 1, r->path[level & (LAYERS_MAX_DEPTH - 1)]))
			return false;
	}
	return true;
}

static __always_inline bool rule_matches(struct task_struct *p, u32 rule, const struct facts *f)
{
	const volatile struct layers_rule *r = &policy_config.rules[rule & (LAYERS_MAX_RULES - 1)];
	u32 conditions = r->conditions, i;

	if (conditions & LAYERS_UID && f->uid != r->uid)
		return false;
	if (conditions & LAYERS_NICE && (f->nice < r->nice[0] || f->nice > r->nice[1]))
		return false;
	if (conditions & LAYERS_THREADS &&
	    (f->threads < r->threads[0] || f->threads > r->threads[1]))
		return false;
	if (conditions & LAYERS_HINT && f->class != r->class_)
		return false;
	if (conditions & LAYERS_COMM) {
		bpf_for (i, 0, r->comm_len) {
			if (i >= LAYERS_COMM_LEN || f->comm[i] != r->comm[i])
				return false;
		}
	}
	return !(conditions & LAYERS_CGROUP) || cgroup_matches(p, rule);
}

/* The layer of the first rule that matches, or the last layer. */
__noinline u32 classify(struct task_struct *p __arg_trusted, struct facts *f)
{
	u32 i;

	if (!f)
		return 0;
	bpf_for (i, 0, policy_config.nr_rules) {
		if (rule_matches(p, i, f))
			return policy_config.rules[i & (LAYERS_MAX_RULES - 1)].layer;
	}
	return policy_config.nr_layers - 1;
}

/**
 * layer_of - the layer that @p belongs to
 *
 * With the locks of the task held. Not static: the verifier looks at it once.
 */
__noinline u32 layer_of(struct task_struct *p __arg_trusted)
{
	struct assignment *a;
	struct facts f = {};

	if (!policy_config.conditions)
		return 0;
	look_at(p, &f);
	a = bpf_task_storage_get(&assignments, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* Without memory for it the rules are tried each time. */
	if (!a)
		return classify(p, &f);
	if (!a->known || !same_facts(&a->facts, &f)) {
		a->layer = classify(p, &f);
		a->facts = f;
		a->known = 1;
	}
	return a->layer;
}

/* The same for a task whose locks others hold, as it was when it was looked at last. */
static __always_inline u32 last_layer_of(struct task_struct *p)
{
	struct assignment *a = bpf_task_storage_get(&assignments, p, NULL, 0);

	return a ? a->layer : policy_config.nr_layers - 1;
}

#endif /* __RULES_BPF_H */
