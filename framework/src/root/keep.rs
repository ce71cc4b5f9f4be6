// SPDX-License-Identifier: GPL-2.0-only
//! A root that stays attached without its process, and its coming under another one.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use libbpf_rs::MapType;
use libbpf_rs::skel::{OpenSkel as _, Skel as _};

use super::open::{Opened, open_plain};
use super::{NR_SLOTS, Root, Route, shared_maps};
use crate::agent::Saved;
use crate::intf::policy_agent;
use crate::kernel::{KernelState, monotonic_ns};
use crate::pins::{self, Kept, KeptSlot, Pins};
use crate::policy::{Catalogue, DUMP_LEN, Image, LoadedPolicy, SHARED_MAPS, load_error};
use crate::swap::SlotId;

/// What has changed when a root has come under this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct TakenOver {
    /// When the agent of the policy in force had decided for the first time, if it has one: CLOCK_MONOTONIC, ns.
    pub decides_at_ns: Option<u64>,
    /// Tasks of which it knows what the agent before it knew.
    pub restored: u64,
}

impl Root {
    /// Pins it: from here on it stays attached when this process ends, for whatever reason. With `temporary` it does so
    /// only until this is dropped.
    pub fn keep(&mut self, temporary: bool) -> Result<()> {
        let link = self.link.as_ref().context("what is not attached cannot be kept")?;
        if self.pins.is_some() {
            self.pins_are_temporary &= temporary;
            return Ok(());
        }
        let pins = Pins::create()?;
        let pinned = self.pin_all(&pins).and_then(|()| pins.pin_link(link));
        if let Err(error) = pinned {
            // Half of it is of no use to anybody.
            let _ = pins.remove();
            return Err(error);
        }
        self.pins = Some(pins);
        self.pins_are_temporary = temporary;
        Ok(())
    }

    fn pin_all(&self, pins: &Pins) -> Result<()> {
        pins.write(&self.kept())?;
        pins.pin_maps(self.skel.object(), &pins.root_dir(), &[])?;
        for (slot, policy) in self.loaded() {
            pins.pin_maps(policy.object(), &pins.slot_dir(slot), SHARED_MAPS)?;
            pins.pin_links(slot, policy.links())?;
        }
        Ok(())
    }

    /// Removes the pins: it is detached when this process ends.
    pub fn unkeep(&mut self) -> Result<()> {
        self.pins.take().map_or(Ok(()), |pins| pins.remove())
    }

    /// Whether it stays attached without this process.
    pub fn is_kept(&self) -> bool {
        self.pins.is_some() && !self.pins_are_temporary
    }

    /// Lets go of it, for another process that has it open: nothing here touches it any more. Returns when the last
    /// decision of an agent was made, CLOCK_MONOTONIC ns, and what the agents in force know of their tasks.
    pub fn let_go(&mut self) -> Result<(u64, Option<Saved>)> {
        if self.pins.is_none() {
            bail!("it is not pinned, so it would be detached");
        }
        for slot in (0..NR_SLOTS).map(SlotId::new) {
            self.set_in_force(slot, false);
        }
        let at = monotonic_ns();
        // Waits for the threads: from here on they write nothing.
        let active = self.route.active.and_then(|slot| self.slots[slot.index()].as_mut());
        let saved = active.and_then(LoadedPolicy::leave_half);
        self.slots.iter_mut().flatten().for_each(LoadedPolicy::end_half);
        // The pins are the other's now, and so is the attachment.
        self.pins = None;
        self.link = None;
        Ok((at, saved))
    }

    /// Loads what this process needs of the root and the policy in force, over the memory of those that are pinned.
    /// Nothing changes for those before [`take_over`](Self::take_over).
    ///
    /// The ops stay the ones that are in the kernel, so this cannot be attached again once it is detached.
    pub(crate) fn adopt(pins: Pins, kept: &Kept, catalogue: Catalogue) -> Result<Self> {
        let Opened { mut skel, globals, layout } = open_plain()?;
        if layout != kept.layout {
            bail!("the scheduler that runs is of {}", pins::ANOTHER_LAYOUT);
        }
        skel.maps.data_uei_dump.set_value_size(DUMP_LEN).context("making room for the debug dump")?;
        pins::reuse(skel.open_object_mut(), &pins.root_dir(), &[])?;
        // Its ops are in the kernel and stay there; without the maps of ops their programs are not loaded.
        for mut map in skel.open_object_mut().maps_mut() {
            if map.map_type() == MapType::StructOps {
                map.set_autocreate(false)?;
            }
        }
        // Not scx_ops_load!: it would associate the programs with this copy's struct_ops map, which is not attached,
        // and kernels with sub-schedulers then let their kfuncs do nothing.
        let mut skel = skel.load().map_err(|error| load_error("the root scheduler", &error))?;
        // libbpf has put its own copy of the variables where the skeleton looks for them.
        let data = skel.maps.data_data.as_deref().context("the root has no .data")?;
        map_over(data, &skel.maps.data)?;
        let bss = skel.maps.bss_data.as_deref().context("the root has no .bss")?;
        map_over(bss, &skel.maps.bss)?;
        skel.links.census = Some(skel.progs.census.attach().context("attaching the census")?);

        let mut root = Root {
            skel,
            globals,
            link: Some(pins.open_link()?),
            slots: Default::default(),
            route: Route::default(),
            options: kept.options.clone(),
            next_epoch: kept.next_epoch,
            layout,
            pins: Some(pins),
            pins_are_temporary: false,
        };
        root.route = Route::from_word(root.route_cell()?.load(Ordering::Acquire));
        let active = root.route.active.context("no policy is in force in the scheduler that runs")?;
        let slot =
            kept.slots.get(&active.index()).context("the state that is pinned has no active policy")?;
        root.slots[active.index()] = Some(root.load_over(active, slot, catalogue)?);
        Ok(root)
    }

    fn load_over(&self, slot: SlotId, kept: &KeptSlot, catalogue: Catalogue) -> Result<LoadedPolicy> {
        let dir = self.pins.as_ref().context("the root is not pinned")?.slot_dir(slot);
        let policy = Image::find(catalogue, &kept.policy.origin)?.open()?;
        let mut loaded = policy.load_over(kept, shared_maps(&self.skel), &dir)?;
        loaded.start_half_beside(Pins::open_links(&dir)?)?;
        Ok(loaded)
    }

    /// Whether all of it is loaded here, so that it can be attached again.
    pub(crate) fn can_be_attached(&self) -> bool {
        self.skel.maps.root_ops.autocreate()
    }

    /// The other process has let go, or is dead: from here on this one is in charge. `saved`: what its agents knew.
    pub(crate) fn take_over(&mut self, saved: Option<Saved>) -> Result<TakenOver> {
        policy_agent::change(&self.skel.maps.data_agent, |agent| agent.tgid = std::process::id() as i32)?;
        let mut taken = TakenOver::default();
        let active = self.route.active.and_then(|slot| self.slots[slot.index()].as_ref());
        if let Some(policy) = active {
            // Before it begins: an agent's first round starts over with all tasks.
            policy.set_in_force(true);
        }
        if let Some(agent) = active.and_then(LoadedPolicy::agent) {
            agent.begin(saved)?;
            taken.decides_at_ns = Some(agent.first_round()?);
            taken.restored = agent.restored();
        }
        Ok(taken)
    }

    /// Frees what a process that was killed has left in other slots than the active one and the one that is drained.
    pub(crate) fn clean_up(&mut self, kept: &Kept) -> Result<()> {
        for slot in (0..NR_SLOTS).map(SlotId::new) {
            let bss = self.skel.maps.bss_data.as_deref().context("the root has no .bss")?;
            let used = kept.slots.contains_key(&slot.index()) || bss.slots[slot.index()].nr_dsqs > 0;
            if used && Some(slot) != self.route.active && Some(slot) != self.route.retired {
                self.retire(slot)?;
            }
        }
        self.write_state()
    }

    /// Pins what has come into a slot, if the root is pinned.
    pub(super) fn pin_slot(&self, slot: SlotId) -> Result<()> {
        if let (Some(pins), Some(policy)) = (&self.pins, &self.slots[slot.index()]) {
            pins.pin_maps(policy.object(), &pins.slot_dir(slot), SHARED_MAPS)?;
        }
        self.write_state()
    }

    pub(super) fn pin_links(&self, slot: SlotId) -> Result<()> {
        match (&self.pins, &self.slots[slot.index()]) {
            (Some(pins), Some(policy)) => pins.pin_links(slot, policy.links()),
            _ => Ok(()),
        }
    }

    pub(super) fn unpin_slot(&self, slot: SlotId) -> Result<()> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.remove_slot(slot))
    }

    pub(super) fn write_state(&self) -> Result<()> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.write(&self.kept()))
    }

    fn kept(&self) -> Kept {
        let slot = |(slot, policy): (SlotId, &LoadedPolicy)| {
            let kept = KeptSlot { policy: policy.in_force.clone(), layout: policy.layout.clone() };
            (slot.index(), kept)
        };
        Kept {
            pid: std::process::id(),
            version: crate::VERSION.into(),
            enable_seq: KernelState::read().enable_seq,
            options: self.options.clone(),
            next_epoch: self.next_epoch,
            layout: self.layout.clone(),
            slots: self.loaded().map(slot).collect(),
        }
    }

    fn loaded(&self) -> impl Iterator<Item = (SlotId, &LoadedPolicy)> {
        self.slots.iter().enumerate().filter_map(|(n, policy)| Some((SlotId::new(n), policy.as_ref()?)))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.pins_are_temporary {
            // Nobody is left to tell; `scx_run stop` removes what stays.
            let _ = self.unkeep();
        }
    }
}

/// Maps a section's map over the memory in which the skeleton looks for its variables, as libbpf does it for maps that
/// it creates.
fn map_over<T>(variables: &T, map: &impl AsFd) -> Result<()> {
    let start: *const T = variables;
    // SAFETY: libbpf made this mapping for the section: it begins on a page, is at least this long (the kernel rounds
    // up), and libbpf unmaps it with the object. Nobody holds a reference into it but the skeleton, whose variables BPF
    // writes at any time anyway.
    let mapped = unsafe {
        libc::mmap(
            start.cast_mut().cast(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
            map.as_fd().as_raw_fd(),
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        bail!("mapping the variables of the root: {}", io::Error::last_os_error());
    }
    Ok(())
}
