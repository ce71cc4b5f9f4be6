// SPDX-License-Identifier: GPL-2.0-only
//! Opening the root scheduler: what is fixed when it is attached.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::ptr;

use anyhow::{Context, Result, bail};
use libbpf_rs::OpenObject;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use scx_utils::{compat, scx_ops_open};
use serde::{Deserialize, Serialize};

use super::skel::{OpenRootSkel, RootSkelBuilder, types};
use crate::globals::{Globals, btf_of};
use crate::libbpf_log;
use crate::policy::DUMP_LEN;

/// Ops that the root always has: what every policy needs, and what costs nothing until it happens.
pub(super) const BASE_OPS: &[&str] = &[
    "select_cpu",
    "enqueue",
    "dispatch",
    "cpu_release",
    "cpu_online",
    "cpu_offline",
    "enable",
    "dump",
    "exit",
];

/// Declares the optional ops once, by their field in `struct sched_ext_ops` and by name.
macro_rules! optional_ops {
    ($($op:ident $name:literal),* $(,)?) => {
        /// Ops that the root has only if a policy that may come into a slot has them: each costs at every
        /// context switch, wakeup or tick, whether the active policy uses it or not.
        pub(super) const OPTIONAL_OPS: &[&str] = &[$($name),*];

        /// Leaves out those that are not wanted.
        fn leave_out_ops(ops: &mut types::sched_ext_ops, wanted: &BTreeSet<String>) {
            $(if !wanted.contains($name) {
                ops.$op = ptr::null_mut();
            })*
        }
    };
}

optional_ops!(
    dequeue "dequeue",
    tick "tick",
    runnable "runnable",
    running "running",
    stopping "stopping",
    quiescent "quiescent",
    r#yield "yield",
    set_weight "set_weight",
    set_cpumask "set_cpumask",
    update_idle "update_idle",
    cpu_acquire "cpu_acquire",
    exit_task "exit_task",
    disable "disable",
    dump_cpu "dump_cpu",
    dump_task "dump_task",
);

/// What is fixed when the root is attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootOptions {
    /// Optional ops to have (see [`ops_for`]).
    pub ops: BTreeSet<String>,
    /// Only tasks of class SCHED_EXT are scheduled, not all normal ones.
    pub partial: bool,
    /// Longest a runnable task may wait before the kernel ends the scheduler, ms; 0 for the kernel's default
    /// of 30 s.
    pub timeout_ms: u32,
    /// First epoch to give out, so that epochs go on across re-attachments.
    pub first_epoch: u64,
}

/// The optional ops among `wanted`. Fails on an op that no slot can have.
pub fn ops_for<S: AsRef<str>>(wanted: &[S]) -> Result<BTreeSet<String>> {
    let mut ops = BTreeSet::new();
    for op in wanted.iter().map(AsRef::as_ref) {
        if OPTIONAL_OPS.contains(&op) {
            ops.insert(op.to_owned());
        } else if !BASE_OPS.contains(&op) {
            bail!("op {op} cannot go through the root scheduler; run the policy with --direct");
        }
    }
    Ok(ops)
}

/// All optional ops.
pub fn all_ops() -> BTreeSet<String> {
    OPTIONAL_OPS.iter().map(|op| (*op).to_owned()).collect()
}

/// The root as it was opened.
pub(super) struct Opened {
    pub skel: OpenRootSkel<'static>,
    pub globals: Globals,
    /// See [`crate::pins::layout`].
    pub layout: String,
}

/// Opens it to be attached.
pub(super) fn open(options: &RootOptions) -> Result<Opened> {
    libbpf_log::take();
    // The skeleton borrows its storage for as long as it lives, and a root lives until it is replaced by
    // a reload or the process ends: a few hundred bytes are leaked for each.
    let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    let builder = RootSkelBuilder::default();
    let mut skel =
        scx_ops_open!(builder, storage, root_ops, None::<libbpf_rs::libbpf_sys::bpf_object_open_opts>)
            .context("opening the root scheduler")?;
    let ops = skel.struct_ops.root_ops_mut();
    ops.exit_dump_len = DUMP_LEN;
    if options.timeout_ms > 0 {
        ops.timeout_ms = options.timeout_ms;
    }
    if options.partial {
        ops.flags |= *compat::SCX_OPS_SWITCH_PARTIAL;
    }
    if options.ops.contains("update_idle") {
        ops.flags |= *compat::SCX_OPS_KEEP_BUILTIN_IDLE;
    }
    leave_out_ops(ops, &options.ops);
    opened(skel)
}

/// Opens the root without what its ops need, for one whose ops are in the kernel already.
pub(super) fn open_plain() -> Result<Opened> {
    libbpf_log::take();
    // As above.
    let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    opened(RootSkelBuilder::default().open(storage).context("opening the root scheduler")?)
}

fn opened(skel: OpenRootSkel<'static>) -> Result<Opened> {
    let globals = Globals::of(&btf_of(skel.open_object())?);
    let layout = crate::pins::layout(skel.open_object())?;
    Ok(Opened { skel, globals, layout })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_are_optional_base_or_refused() {
        assert!(ops_for(&["enqueue", "dispatch"]).unwrap().is_empty());
        assert_eq!(ops_for(&["tick", "enqueue"]).unwrap(), BTreeSet::from(["tick".to_owned()]));
        assert!(ops_for(&["sub_attach"]).unwrap_err().to_string().contains("--direct"));
    }
}
