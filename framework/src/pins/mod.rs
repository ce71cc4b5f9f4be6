// SPDX-License-Identifier: GPL-2.0-only
//! A scheduler that outlives its process: link and maps pinned in bpffs.
//!
//! ```text
//! /sys/fs/bpf/scx_run/
//!   link          the attachment: while it is there, the scheduler is
//!   state         what is in no map: which policies, parameters, options (JSON in a map, so that it goes with the rest)
//!   maps/         the root's maps
//!   slot0/ ...    the maps of the policy in a slot, and in `links/` the links of its tracepoint programs if it has any
//! ```
//!
//! Not only what has to be found again is pinned: a PROG_ARRAY empties itself, and a BPF timer stops, when nobody in
//! user space has the map any more, and a pin counts for that. Constants (`.rodata`) are pinned too: to find out the
//! kernel's values of sched_ext's constants again takes longer than all the rest of taking over.

mod layout;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, MapType, Object, OpenObject, libbpf_sys};
use serde::{Deserialize, Serialize};

use crate::kernel::KernelState;
use crate::policy::PolicyInForce;
use crate::root::RootOptions;
use crate::swap::SlotId;

pub(crate) use layout::layout;

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
const DIR: &str = "/sys/fs/bpf/scx_run";
/// Room for the state.
const STATE_SIZE: usize = 64 << 10;
/// How long the kernel may take to end a scheduler whose link has gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The end of a message: why a pinned object cannot be used, and what to do.
pub(crate) const ANOTHER_LAYOUT: &str =
    "another version, whose memory this one cannot share; end it with `scx_run stop` and start this one";

/// What is pinned and in no map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// Process that has pinned it, or taken it over.
    pub pid: u32,
    /// That one's version.
    pub version: String,
    /// The kernel's count when the root was attached: tells whether it still is.
    pub enable_seq: Option<u64>,
    /// What the root was attached with.
    pub options: RootOptions,
    /// Epoch that the next policy gets.
    pub next_epoch: u64,
    /// Layout of the root's memory.
    pub layout: String,
    /// The policies, by slot.
    pub slots: BTreeMap<usize, KeptSlot>,
}

/// A policy in a slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptSlot {
    /// The policy.
    pub policy: PolicyInForce,
    /// Layout of its memory.
    pub layout: String,
}

impl Kept {
    /// The policies' names, the last to be loaded first.
    pub fn policies(&self) -> String {
        let mut slots: Vec<_> = self.slots.values().collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.policy.epoch));
        let names: Vec<_> = slots.iter().map(|slot| slot.policy.name.as_str()).collect();
        names.join(", ")
    }

    /// Whether the scheduler is still attached: the kernel may have ended it.
    pub fn attached(&self) -> bool {
        let kernel = KernelState::read();
        kernel.enabled() && (kernel.enable_seq.is_none() || kernel.enable_seq == self.enable_seq)
    }
}

/// What is pinned on this machine, if anything is. Whether somebody runs it is another question.
pub fn kept() -> Result<Option<Kept>> {
    match Pins::open()? {
        Some(pins) => pins.read().map(Some),
        None => Ok(None),
    }
}

/// Removes what is left of a scheduler that was kept and that the kernel has ended since. Returns it, if there was one.
pub fn remove_remains() -> Result<Option<Kept>> {
    let Some(kept) = kept()?.filter(|kept| !kept.attached()) else { return Ok(None) };
    remove()?;
    Ok(Some(kept))
}

/// Removes all pins. A scheduler that lives by them alone is detached; returns when it is.
pub fn remove() -> Result<()> {
    let kept = kept().ok().flatten();
    remove_file(&link_path())?;
    let start = Instant::now();
    // Its maps stay until nobody uses them: the kernel ends a scheduler behind the last link's back. And until it is
    // done with that, the next one could not be attached.
    let there = |kept: &Kept| kept.attached() || KernelState::read().state == "disabling";
    while kept.as_ref().is_some_and(there) {
        ensure!(start.elapsed() < PATIENCE, "the scheduler is still attached: who else holds its link?");
        thread::sleep(Duration::from_millis(5));
    }
    remove_tree(Path::new(DIR))
}

/// The pins of a scheduler.
pub(crate) struct Pins {
    state: MapHandle,
}

impl Pins {
    /// Makes the folder, with nothing in it but the state.
    pub fn create() -> Result<Self> {
        mount_bpffs()?;
        remove_tree(Path::new(DIR)).context("removing the pins of a scheduler that has ended")?;
        make_dir(Path::new(DIR))?;
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            ..Default::default()
        };
        let state =
            MapHandle::create(MapType::Array, Some("scx_run_state"), 4, STATE_SIZE as u32, 1, &options)
                .context("creating the map for the state")?;
        pin(&state, &state_path())?;
        Ok(Pins { state })
    }

    /// Those that are there.
    pub fn open() -> Result<Option<Self>> {
        if !state_path().exists() {
            return Ok(None);
        }
        let state = MapHandle::from_pinned_path(state_path())
            .with_context(|| format!("opening {}", state_path().display()))?;
        Ok(Some(Pins { state }))
    }

    pub fn read(&self) -> Result<Kept> {
        let bytes = self.state.lookup(&0u32.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
        let json = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        serde_json::from_slice(json)
            .with_context(|| format!("what is pinned in {DIR} is of {ANOTHER_LAYOUT}"))
    }

    pub fn write(&self, kept: &Kept) -> Result<()> {
        let mut bytes = serde_json::to_vec(kept)?;
        ensure!(bytes.len() < STATE_SIZE, "the state is too long to be kept");
        bytes.resize(STATE_SIZE, 0);
        self.state.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY).context("writing the pinned state")
    }

    /// Where the root's maps are.
    pub fn root_dir(&self) -> PathBuf {
        Path::new(DIR).join("maps")
    }

    /// Where the maps of the policy in a slot are.
    pub fn slot_dir(&self, slot: SlotId) -> PathBuf {
        Path::new(DIR).join(format!("slot{}", slot.index()))
    }

    pub fn pin_link(&self, link: &Link) -> Result<()> {
        pin(link, &link_path())
    }

    pub fn open_link(&self) -> Result<Link> {
        Link::open(link_path()).with_context(|| format!("opening {}", link_path().display()))
    }

    /// Pins the links of the policy in a slot, with their names.
    pub fn pin_links(&self, slot: SlotId, links: &[(String, Link)]) -> Result<()> {
        let dir = links_dir(&self.slot_dir(slot));
        make_dir(&dir)?;
        links.iter().try_for_each(|(name, link)| pin(link, &dir.join(name)))
    }

    /// Opens them; `dir` is the slot's.
    pub fn open_links(dir: &Path) -> Result<Vec<(String, Link)>> {
        let dir = links_dir(dir);
        let open = |entry: io::Result<fs::DirEntry>| -> Result<_> {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), Link::open(entry.path())?))
        };
        fs::read_dir(&dir)
            .map_err(anyhow::Error::from)
            .and_then(|entries| entries.map(open).collect())
            .with_context(|| format!("opening the links in {}", dir.display()))
    }

    /// Pins all maps of an object but those in `others`, which somebody else pins.
    pub fn pin_maps(&self, object: &Object, dir: &Path, others: &[&str]) -> Result<()> {
        remove_tree(dir)?;
        make_dir(dir)?;
        for map in object.maps() {
            let name = map.name().to_string_lossy();
            if is_shared(map.map_type(), &name) && !others.contains(&&*name) {
                pin(&map, &dir.join(pin_name(&name)))?;
            }
        }
        Ok(())
    }

    pub fn remove_slot(&self, slot: SlotId) -> Result<()> {
        remove_tree(&self.slot_dir(slot))
    }

    /// Removes all pins; whoever has the scheduler open keeps it.
    pub fn remove(&self) -> Result<()> {
        remove_file(&link_path())?;
        remove_tree(Path::new(DIR))
    }
}

/// Makes an object use the maps that are pinned in `dir`, but for those in `others`.
pub(crate) fn reuse(object: &mut OpenObject, dir: &Path, others: &[&str]) -> Result<()> {
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if !is_shared(map.map_type(), &name) || others.contains(&name.as_str()) {
            continue;
        }
        let path = dir.join(pin_name(&name));
        let pinned =
            MapHandle::from_pinned_path(&path).with_context(|| format!("opening {}", path.display()))?;
        let here = (map.map_type(), map.key_size(), map.value_size(), map.max_entries());
        let there = (pinned.map_type(), pinned.key_size(), pinned.value_size(), pinned.max_entries());
        // libbpf would take over whatever the other one is.
        if here != there {
            bail!("the map {name} does not fit (here {here:?}, there {there:?}): that is {ANOTHER_LAYOUT}");
        }
        map.reuse_fd(pinned.as_fd()).with_context(|| format!("sharing the map {name}"))?;
    }
    Ok(())
}

/// Whether a map is one that a process that takes over has to share.
fn is_shared(kind: MapType, name: &str) -> bool {
    kind != MapType::StructOps && name.find('.').is_none_or(|dot| is_shared_section(&name[dot..]))
}

/// Whether a section holds variables or constants.
fn is_shared_section(section: &str) -> bool {
    [".data", ".bss", ".rodata"].iter().any(|kind| section.starts_with(kind))
}

/// libbpf puts the object's name before that of `.bss` and `.data`, which for a policy is the address at which it was
/// loaded; and bpffs has no dots in names.
fn pin_name(map: &str) -> String {
    map.find('.').map_or(map, |dot| &map[dot..]).replace('.', "_")
}

fn link_path() -> PathBuf {
    Path::new(DIR).join("link")
}

fn state_path() -> PathBuf {
    Path::new(DIR).join("state")
}

fn links_dir(slot_dir: &Path) -> PathBuf {
    slot_dir.join("links")
}

fn pin(what: &impl AsFd, path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
    // SAFETY: `name` is a string that outlives the call.
    let ret = unsafe { libbpf_sys::bpf_obj_pin(what.as_fd().as_raw_fd(), name.as_ptr()) };
    if ret < 0 {
        bail!("pinning {}: {}", path.display(), io::Error::from_raw_os_error(-ret));
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("creating {}", dir.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(fs::remove_file(path), path)
}

fn remove_tree(dir: &Path) -> Result<()> {
    absent_is_fine(fs::remove_dir_all(dir), dir)
}

fn absent_is_fine(outcome: io::Result<()>, path: &Path) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Most distributions have it mounted; a machine without systemd may not.
pub(crate) fn mount_bpffs() -> Result<()> {
    let dir = CString::new(BPFFS)?;
    // SAFETY: all-zeroes is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a string and `stat` is valid for writes.
    if unsafe { libc::statfs(dir.as_ptr(), &mut stat) } == 0 && stat.f_type == BPFFS_MAGIC {
        return Ok(());
    }
    // SAFETY: all are strings; no data.
    let ret = unsafe { libc::mount(c"bpf".as_ptr(), dir.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
    if ret != 0 {
        bail!(
            "{BPFFS} is no bpffs and cannot be made one ({}); mount it: mount -t bpf bpf {BPFFS}",
            io::Error::last_os_error()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_the_same_name_wherever_the_object_was_loaded() {
        assert_eq!(pin_name("7f001020.bss"), pin_name("root_bpf.bss"));
        assert_eq!(pin_name(".data.agent"), "_data_agent");
        assert_eq!(pin_name("policy_tasks"), "policy_tasks");
    }

    #[test]
    fn all_but_the_ops_is_shared() {
        assert!(is_shared(MapType::Array, "root_bpf.rodata"));
        assert!(!is_shared(MapType::Array, "7f001020.kconfig"));
        assert!(!is_shared(MapType::StructOps, "root_ops"));
        assert!(is_shared(MapType::Array, "root_bpf.bss") && is_shared(MapType::ProgArray, "tick_slots"));
    }
}
