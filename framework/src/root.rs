// SPDX-License-Identifier: GPL-2.0-only
//! The root scheduler: attached once, its ops tail-call into the policy of the active slot.

mod keep;
mod open;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Object, ProgramInput, skel::Skel as _};
use scx_utils::{scx_ops_attach, scx_ops_load};

use crate::agent::{AgentStatus, Agents};
use crate::exit::ExitInfo;
use crate::globals::Globals;
use crate::grace;
use crate::hints::Hints;
use crate::intf;
use crate::pins::Pins;
use crate::policy::{LoadedPolicy, OpenPolicy, ParamSpec, PolicyInForce, SharedMaps, load_error, program_fd};
use crate::slow_path::SlowPathStatus;
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
use open::{BASE_OPS, OPTIONAL_OPS, Opened, open};
pub use open::{RootOptions, all_ops, ops_for};
use skel::RootSkel;

/// Number of slots.
pub const NR_SLOTS: usize = intf::slot_consts_NR_SLOTS as usize;

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

    /// The reverse of `word`.
    fn from_word(word: u64) -> Self {
        let [active, _, retired, _, e0, e1, e2, e3] = word.to_ne_bytes();
        let slot = |field: u8| (usize::from(field) < NR_SLOTS).then(|| SlotId::new(field.into()));
        let epoch = u32::from_ne_bytes([e0, e1, e2, e3]);
        Route { active: slot(active), retired: slot(retired), epoch }
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
    /// See [`crate::pins::layout`].
    layout: String,
    /// What keeps it attached without this process, if anything does.
    pins: Option<Pins>,
    /// The pins are for a hand-over only: they go when this ends.
    pins_are_temporary: bool,
}

// SAFETY: the skeleton's raw pointers lead into its own, leaked object, which no other thread knows of.
unsafe impl Send for Root {}

impl Root {
    /// Loads the root scheduler. Nothing is attached yet. `hints` is the map with the hints that there are already.
    pub fn load(options: RootOptions, hints: Option<BorrowedFd<'_>>) -> Result<Self> {
        let Opened { mut skel, globals, layout } = open(&options)?;
        let agent = skel.maps.data_agent_data.as_mut().context("the root has no .data.agent")?;
        agent.policy_agent.tgid = std::process::id() as i32;
        agent.policy_agent.hinted = hints.is_some().into();
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
            layout,
            pins: None,
            pins_are_temporary: false,
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
        self.unkeep()?;
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
        let loaded = policy.load_for_slot(assignments, self.next_epoch, shared_maps(&self.skel))?;
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
        if let Err(error) = self.pin_slot(slot) {
            self.retire(slot)?;
            return Err(error);
        }
        Ok(slot)
    }

    /// Runs the policy's init and tells the root of its queues. The root must be attached.
    pub fn prepare(&mut self, slot: SlotId) -> Result<()> {
        let (base, queues) = self.policy(slot)?.prepare()?;
        if let Some(policy) = &mut self.slots[slot.index()] {
            policy.start_half()?;
        }
        self.pin_links(slot)?;
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
        let policy = self.policy(slot)?;
        policy.catch_up()?;
        let epoch = policy.in_force.epoch as u32;
        self.route =
            Route { active: Some(slot), retired: self.route.active.filter(|old| *old != slot), epoch };
        let word = self.route.word();
        let cell = self.route_cell()?;
        // The next one's agent is at work before it is asked anything, and the last one's until it is not.
        self.set_in_force(slot, true);
        let start = Instant::now();
        cell.store(word, Ordering::SeqCst);
        let took = start.elapsed();
        if let Some(old) = self.route.retired {
            self.set_in_force(old, false);
        }
        Ok(took)
    }

    fn set_in_force(&self, slot: SlotId, in_force: bool) {
        if let Some(policy) = &self.slots[slot.index()] {
            policy.set_in_force(in_force);
        }
    }

    fn agent(&self, slot: SlotId) -> Option<&Agents> {
        self.slots[slot.index()].as_ref().and_then(LoadedPolicy::agent)
    }

    /// What the agent of the policy in a slot has done, if it has one.
    pub fn agent_status(&self, slot: SlotId) -> Option<AgentStatus> {
        self.agent(slot).map(Agents::status)
    }

    /// What the slow path of the policy in a slot has done, if it has one.
    pub fn slow_path_status(&self, slot: SlotId) -> Option<SlowPathStatus> {
        self.slots[slot.index()].as_ref().and_then(LoadedPolicy::slow_path_status)
    }

    /// What the policy in a slot has counted.
    pub fn counts(&self, slot: SlotId) -> BTreeMap<String, u64> {
        self.slots[slot.index()].as_ref().map(LoadedPolicy::counts).unwrap_or_default()
    }

    /// Tasks still queued in a slot's queues; wakes idle CPUs if there are any. With `push`, some of them are put
    /// into the CPUs' own queues: a CPU that always has something there does not look for more.
    pub fn queued(&self, slot: SlotId, push: bool) -> Result<u32> {
        self.run_on_slot(&self.skel.progs.slot_queued, slot, push)
    }

    /// Tells the policy in a retired slot that it is not in force any more. What it had to know before any op of the next
    /// one ran, its half in this process has been told by the flip.
    pub fn leave(&self, slot: SlotId) -> Result<()> {
        self.policy(slot)?.leave()
    }

    /// Ends the infinite slices that a retired policy gave, after a grace period: to be called until none is left.
    pub fn end_infinite_slices(&self) -> Result<InfiniteSlices> {
        let program = &self.skel.progs.end_infinite_slices;
        let output = program.test_run(ProgramInput::default()).context("ending infinite slices")?;
        Ok(match output.return_value {
            intf::infinite_slices_INFINITE_NONE => InfiniteSlices::None,
            intf::infinite_slices_INFINITE_ENDED => InfiniteSlices::Ended,
            _ => InfiniteSlices::Left,
        })
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
        // All ops: of a policy that was taken over from another version, this one may not know which it had.
        for op in BASE_OPS.iter().chain(OPTIONAL_OPS) {
            self.clear_program(op, slot)?;
        }
        self.unpin_slot(slot)?;
        // Its half in this process, if it has one, and its timers end here.
        drop(self.slots[slot.index()].take());
        self.write_state()?;
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
        let maps = &self.skel.maps;
        Hints::of(MapHandle::try_from(&maps.policy_hints), MapHandle::try_from(&maps.data_agent))
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
        // The root needs no array for what it handles itself.
        let Ok(map) = op_slots(self.skel.object(), op) else { return Ok(()) };
        match map.delete(&(slot.index() as u32).to_ne_bytes()) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("taking {op} out of slot {}", slot.index()))
            }
            _ => Ok(()),
        }
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

/// What has become of the infinite slices that a retired policy gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfiniteSlices {
    /// It gave none.
    None,
    /// They all have ended.
    Ended,
    /// Some task still has one.
    Left,
}

/// The maps that policies in slots share with the root.
fn shared_maps<'a>(skel: &'a RootSkel<'_>) -> SharedMaps<'a> {
    SharedMaps {
        shared: skel.maps.policy_shared.as_fd(),
        tasks: skel.maps.policy_tasks.as_fd(),
        hints: skel.maps.policy_hints.as_fd(),
        agent: skel.maps.data_agent.as_fd(),
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
        for route in [Route::default(), route, draining] {
            assert_eq!(Route::from_word(route.word()), route);
        }
    }
}
