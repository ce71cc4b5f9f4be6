// SPDX-License-Identifier: GPL-2.0-only
//! Tests on a real sched_ext kernel. `scripts/test` runs them in one VM, one after the other.

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod balance;
mod emulator;
mod faults;
mod hints;
mod own_hints;
mod policies;
mod smoke;
mod swaps;
mod unruly;
mod upgrade;
mod waiting;
