// SPDX-License-Identifier: GPL-2.0-only
//! scx_bench on a machine with sched_ext, where it measures on the machine itself. `scripts/test` runs all in one VM,
//! one after the other.

mod ends;
mod failures;
mod measures;
mod support;
