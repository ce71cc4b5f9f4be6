// SPDX-License-Identifier: GPL-2.0-only
//! The root scheduler: attached once, its ops tail-call into the policy of the active slot.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Object, OpenObject, ProgramInput, skel::Skel as _};
use scx_utils::{compat, scx_ops_attach, scx_ops_load, scx_ops_open};

use crate::agent::{Agent, AgentStatus};
use crate::exit::ExitInfo;
use crate::globals::{Globals, btf_of};
use crate::grace;
use crate::hints::Hints;
use crate::intf;
use crate::libbpf_log;
use crate::policy::{
    DUMP_LEN, LoadedPolicy, OpenPolicy, ParamSpec, PolicyInForce, SharedMaps, load_error, program_fd,
};
use crate::swap::SlotId;

#[allow(
    missing_docs,
    unused,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    non_camel_case_types
)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/root_skel.rs"));
}
use skel::{RootSkel, RootSkelBuilder, types};

/// Number of slots.
pub const NR_SLOTS: usize = intf::slot_consts_NR_SLOTS as usize;

/// Ops that the root always has: what every policy needs, and what costs nothing until it happens.
const BASE_OPS: &[&str] = &[
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
        const OPTIONAL_OPS: &[&str] = &[$($name),*];

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
#[derive(Debug, Clone)]
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

/// The route word, as `bpf/include/intf.h` lays it out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Route {
    /// `None`: the root's built-in defaults decide.
    active: Option<SlotId>,
    retired: Option<SlotId>,
    epoch: u32,
}

impl Route {
    /// As `struct route` of `bpf/include/intf.h` lies in memory.
    fn word(self) -> u64 {
        let none = intf::route_consts_ROUTE_NONE as u8;
        let field = |slot: Option<SlotId>| slot.map_or(none, |slot| slot.index() as u8);
        let dispatch =
            if self.retired.is_some() { intf::route_consts_ROUTE_DRAIN as u8 } else { field(self.active) };
        let [e0, e1, e2, e3] = self.epoch.to_ne_bytes();
        u64::from_ne_bytes([field(self.active), dispatch, field(self.retired), 0, e0, e1, e2, e3])
    }
}

/// The root scheduler, loaded and possibly attached.
pub struct Root {
    skel: RootSkel<'static>,
    globals: Globals,
    link: Option<Link>,
    slots: [Option<LoadedPolicy>; NR_SLOTS],
    route: Route,
    options: RootOptions,
    next_epoch: u64,
}

// SAFETY: the skeleton's raw pointers lead into its own, leaked object, which no other thread knows of.
unsafe impl Send for Root {}

impl Root {
    /// Loads the root scheduler. Nothing is attached yet. `hints` is the map with the hints that there are already.
    pub fn load(options: RootOptions, hints: Option<BorrowedFd<'_>>) -> Result<Self> {
        libbpf_log::take();
        // The skeleton borrows its storage for as long as it lives, and a root lives until it is replaced by
        // a reload or the process ends: a few hundred bytes are leaked for each.
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let builder = RootSkelBuilder::default();
        let mut skel =
            scx_ops_open!(builder, storage, root_ops, None::<libbpf_rs::libbpf_sys::bpf_object_open_opts>)
                .context("opening the root scheduler")?;
        let globals = {
            use libbpf_rs::skel::OpenSkel as _;
            Globals::of(&btf_of(skel.open_object())?)
        };

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
        if let Some(hints) = hints {
            skel.maps.policy_hints.reuse_fd(hints).context("keeping the hints")?;
        }

        let skel =
            scx_ops_load!(skel, root_ops, uei).map_err(|error| load_error("the root scheduler", &error))?;
        put_program(
            skel.object(),
            "dispatch",
            intf::route_consts_ROUTE_DRAIN,
            program_fd(&skel.progs.root_drain),
        )?;
        let next_epoch = options.first_epoch.max(1);
        Ok(Root {
            skel,
            globals,
            link: None,
            slots: Default::default(),
            route: Route::default(),
            options,
            next_epoch,
        })
    }

    /// Attaches the root: from here on the machine is under our scheduler, with the built-in default until a
    /// policy is made active.
    pub fn attach(&mut self) -> Result<()> {
        let skel = &mut self.skel;
        let link = scx_ops_attach!(skel, root_ops).context("attaching the root scheduler")?;
        self.link = Some(link);
        Ok(())
    }

    /// Detaches the root: the kernel's default scheduler takes over. Why it ended, as the kernel saw it.
    pub fn detach(&mut self) -> Result<ExitInfo> {
        self.link = None;
        // The queues are gone with the attachment: a policy has to be prepared again before it may decide.
        self.route = Route { epoch: self.route.epoch, ..Route::default() };
        let word = self.route.word();
        self.route_cell()?.store(word, Ordering::SeqCst);
        self.exit_info()
    }

    /// Epoch that the next policy will get.
    pub fn next_epoch(&self) -> u64 {
        self.next_epoch
    }

    /// Verifies a policy and puts its programs into a free slot. Nothing is scheduled by it yet.
    pub fn install(&mut self, policy: OpenPolicy, assignments: &[String]) -> Result<SlotId> {
        let info = policy.info();
        if info.flags != 0 {
            bail!(
                "{} asks for sched_ext_ops.flags {:#x}, which a slot cannot have; use --via reload or --direct",
                info.name,
                info.flags
            );
        }
        let missing: Vec<_> =
            ops_for(&info.ops)?.into_iter().filter(|op| !self.options.ops.contains(op)).collect();
        if !missing.is_empty() {
            bail!(
                "{} needs the ops {}, which the attached root does not have; use --via reload, or start scx_run \
                 with --ops {}",
                info.name,
                missing.join(", "),
                missing.join(",")
            );
        }
        let slot = self.free_slot()?;
        let maps = SharedMaps {
            shared: self.skel.maps.policy_shared.as_fd(),
            tasks: self.skel.maps.policy_tasks.as_fd(),
            hints: self.skel.maps.policy_hints.as_fd(),
        };
        let loaded = policy.load_for_slot(assignments, self.next_epoch, maps)?;
        for (op, program) in loaded.ops() {
            if let Err(error) = put_program(self.skel.object(), op, slot.index() as u32, program_fd(&program))
            {
                // What did get in must not answer for the slot's next policy.
                for (op, _) in loaded.ops() {
                    let _ = self.clear_program(op, slot);
                }
                return Err(error);
            }
        }
        self.next_epoch += 1;
        self.slots[slot.index()] = Some(loaded);
        Ok(slot)
    }

    /// Runs the policy's init and tells the root of its queues. The root must be attached.
    pub fn prepare(&mut self, slot: SlotId) -> Result<()> {
        let (base, queues) = self.policy(slot)?.prepare()?;
        if let Some(policy) = &mut self.slots[slot.index()] {
            policy.start_agent()?;
        }
        let bss = self.skel.maps.bss_data.as_mut().context("the root has no .bss")?;
        let desc = &mut bss.slots[slot.index()];
        desc.dsq_base = base;
        desc.nr_dsqs = queues;
        desc.cursor = 0;
        Ok(())
    }

    /// The flip: from the store on, the policy in `slot` makes every new decision, and dispatch empties what
    /// the one before it has queued. Returns how long the store took.
    pub fn flip(&mut self, slot: SlotId) -> Result<Duration> {
        let epoch = self.policy(slot)?.in_force.epoch as u32;
        self.route =
            Route { active: Some(slot), retired: self.route.active.filter(|old| *old != slot), epoch };
        let word = self.route.word();
        let cell = self.route_cell()?;
        // The next one's agent is at work before it is asked anything, and the last one's until it is not.
        self.set_present(slot, true);
        let start = Instant::now();
        cell.store(word, Ordering::SeqCst);
        let took = start.elapsed();
        if let Some(old) = self.route.retired {
            self.set_present(old, false);
        }
        Ok(took)
    }

    fn set_present(&self, slot: SlotId, present: bool) {
        if let Some(agent) = self.agent(slot) {
            agent.set_present(present);
        }
    }

    fn agent(&self, slot: SlotId) -> Option<&Agent> {
        self.slots[slot.index()].as_ref().and_then(LoadedPolicy::agent)
    }

    /// What the agent of the policy in a slot has done, if it has one.
    pub fn agent_status(&self, slot: SlotId) -> Option<AgentStatus> {
        self.agent(slot).map(Agent::status)
    }

    /// Tasks still queued in a slot's queues; wakes idle CPUs if there are any. With `push`, some of them are put
    /// into the CPUs' own queues: a CPU that always has something there does not look for more.
    pub fn queued(&self, slot: SlotId, push: bool) -> Result<u32> {
        self.run_on_slot(&self.skel.progs.slot_queued, slot, push)
    }

    /// Ends the draining of the retired slot, which the caller has seen empty after a grace period.
    pub fn drained(&mut self) -> Result<()> {
        self.route.retired = None;
        let word = self.route.word();
        self.route_cell()?.store(word, Ordering::SeqCst);
        Ok(())
    }

    /// Takes a policy that is neither active nor being drained out of its slot and frees all it has.
    pub fn retire(&mut self, slot: SlotId) -> Result<()> {
        if self.route.active == Some(slot) || self.route.retired == Some(slot) {
            bail!("slot {} is in use", slot.index());
        }
        // After this nobody looks at the slot's queues or runs in its programs.
        grace::wait()?;
        let Some(policy) = self.slots[slot.index()].take() else { return Ok(()) };
        for (op, _) in policy.ops() {
            self.clear_program(op, slot)?;
        }
        let left = self.run_on_slot(&self.skel.progs.slot_destroy, slot, false)?;
        let bss = self.skel.maps.bss_data.as_mut().context("the root has no .bss")?;
        bss.slots[slot.index()].nr_dsqs = 0;
        if left > 0 {
            bail!("{left} tasks were still queued in slot {}: its queues are left in place", slot.index());
        }
        Ok(())
    }

    /// Tasks that dispatch has moved out of retired slots since the root was loaded.
    pub fn nr_drained(&self) -> u64 {
        self.skel.maps.bss_data.as_ref().map_or(0, |bss| {
            // SAFETY: `bss` is the mapped section; BPF writes the counter behind the compiler's back.
            unsafe { ptr::read_volatile(&raw const bss.nr_drained) }
        })
    }

    /// Why the kernel ended the scheduler; `ExitInfo::ended` tells whether it did.
    pub fn exit_info(&self) -> Result<ExitInfo> {
        ExitInfo::read(self.skel.object(), &self.globals)
    }

    /// Whether the kernel has ended the scheduler.
    pub fn has_ended(&self) -> bool {
        self.skel.maps.data_data.as_ref().is_some_and(|data| {
            // SAFETY: `data` is the mapped section; BPF writes the kind behind the compiler's back.
            unsafe { ptr::read_volatile(&raw const data.uei.kind) != 0 }
        })
    }

    /// The slot whose policy decides; `None` before the first flip.
    pub fn active(&self) -> Option<SlotId> {
        self.route.active
    }

    /// The slot that is being emptied.
    pub fn retired(&self) -> Option<SlotId> {
        self.route.retired
    }

    /// The policy in a slot.
    pub fn in_slot(&self, slot: SlotId) -> Option<&PolicyInForce> {
        self.slots[slot.index()].as_ref().map(|policy| &policy.in_force)
    }

    /// The parameters that the policy in a slot declares.
    pub fn params(&self, slot: SlotId) -> &[ParamSpec] {
        self.slots[slot.index()].as_ref().map_or(&[], |policy| &policy.params)
    }

    /// How long the kernel took to verify the policy in a slot.
    pub fn verify_time(&self, slot: SlotId) -> Duration {
        self.slots[slot.index()].as_ref().map_or(Duration::ZERO, |policy| policy.verify)
    }

    /// The map of hints. It outlives the root if the next one is loaded with it.
    pub fn hints(&self) -> Result<Hints> {
        Hints::of(MapHandle::try_from(&self.skel.maps.policy_hints))
    }

    /// Descriptor of the census iterator's link.
    pub fn census_link(&self) -> Option<&Link> {
        self.skel.links.census.as_ref()
    }

    /// Whether `dsq` is one of a slot's queues.
    pub fn owns_dsq(&self, slot: SlotId, dsq: u64) -> bool {
        let Some(bss) = self.skel.maps.bss_data.as_ref() else { return false };
        let desc = &bss.slots[slot.index()];
        (desc.dsq_base..desc.dsq_base + u64::from(desc.nr_dsqs)).contains(&dsq)
    }

    fn policy(&self, slot: SlotId) -> Result<&LoadedPolicy> {
        self.slots[slot.index()].as_ref().with_context(|| format!("slot {} is empty", slot.index()))
    }

    fn free_slot(&self) -> Result<SlotId> {
        (0..NR_SLOTS)
            .map(SlotId::new)
            .find(|slot| self.slots[slot.index()].is_none())
            .context("all slots are taken")
    }

    fn route_cell(&self) -> Result<&AtomicU64> {
        let data = self.skel.maps.data_data.as_ref().context("the root has no .data")?;
        // SAFETY: `route` is eight aligned bytes in a mapped section that lives as long as the skeleton, and is only
        // ever accessed atomically: by BPF a field at a time, by us through this cell.
        Ok(unsafe { AtomicU64::from_ptr((&raw const data.route).cast_mut().cast()) })
    }

    fn clear_program(&self, op: &str, slot: SlotId) -> Result<()> {
        let map = op_slots(self.skel.object(), op)?;
        map.delete(&(slot.index() as u32).to_ne_bytes())
            .with_context(|| format!("taking {op} out of slot {}", slot.index()))
    }

    fn run_on_slot(&self, program: &libbpf_rs::ProgramMut<'_>, slot: SlotId, push: bool) -> Result<u32> {
        let mut args = intf::slot_args { slot: slot.index() as u32, push: push.into(), nr_queued: 0 };
        // SAFETY: `args` is plain data of the size given and outlives the slice.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut((&raw mut args).cast::<u8>(), size_of::<intf::slot_args>())
        };
        program
            .test_run(ProgramInput { context_in: Some(bytes), ..Default::default() })
            .with_context(|| format!("running {}", program.name().to_string_lossy()))?;
        Ok(args.nr_queued)
    }
}

/// Puts a program into an op's array.
fn put_program(root: &Object, op: &str, index: u32, fd: u32) -> Result<()> {
    op_slots(root, op)?
        .update(&index.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
        .with_context(|| format!("putting {op} into slot {index}"))
}

fn op_slots<'obj>(object: &'obj Object, op: &str) -> Result<libbpf_rs::Map<'obj>> {
    let name = format!("{op}_slots");
    object.maps().find(|map| map.name() == name.as_str()).ok_or_else(|| anyhow!("the root has no map {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_word_layout() {
        let bytes = |route: Route| route.word().to_ne_bytes();
        assert_eq!(bytes(Route::default()), [0xff, 0xff, 0xff, 0, 0, 0, 0, 0]);
        let route = Route { active: Some(SlotId::new(2)), retired: None, epoch: 7 };
        assert_eq!(bytes(route)[..4], [2, 2, 0xff, 0]);
        assert_eq!(bytes(route)[4..], 7u32.to_ne_bytes());
        let draining = Route { retired: Some(SlotId::new(1)), ..route };
        assert_eq!(bytes(draining)[..4], [2, NR_SLOTS as u8, 1, 0]);
    }

    #[test]
    fn ops_are_optional_base_or_refused() {
        assert!(ops_for(&["enqueue", "dispatch"]).unwrap().is_empty());
        assert_eq!(ops_for(&["tick", "enqueue"]).unwrap(), BTreeSet::from(["tick".to_owned()]));
        assert!(ops_for(&["sub_attach"]).unwrap_err().to_string().contains("--direct"));
    }
}
