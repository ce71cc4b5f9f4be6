/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What environ.bpf.c and scx_run share: hints in the environment of programs.
 */
#ifndef __ENVIRON_INTF_H
#define __ENVIRON_INTF_H

enum environ_consts {
	/* Room for the variable's value; one that fills it is too long. */
	ENVIRON_TEXT = 128,
	/* Different values that are known. */
	ENVIRON_TEXTS = 256,
};

/* The value of the variable, zeroes behind it. */
struct environ_text {
	char text[ENVIRON_TEXT];
} __attribute__((aligned(8)));

/* What a value says, once scx_run has read it: the map environ_texts. */
struct environ_known {
	struct policy_hint hint;
	/* 0: it is no hint */
	u32 valid;
	u32 unused;
};

/* What scx_run is told of. */
struct environ_event {
	/* process that has executed a program */
	s32 pid;
	u32 uid;
	/* 1: the value does not count, for whose it is; 0: nobody has read it yet */
	u32 refused;
	u32 unused;
	struct environ_text value;
};

#endif /* __ENVIRON_INTF_H */
