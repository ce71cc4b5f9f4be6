// SPDX-License-Identifier: GPL-2.0-only
//! A policy's object: opened, given its parameters, loaded into the kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::btf::ReferencesType as _;
use libbpf_rs::btf::types::DeclTag;
use libbpf_rs::{MapType, ObjectBuilder, OpenObject, ProgramMut, ProgramType};
use scx_utils::compat;

use super::load_error::{last_line, load_error};
use super::loaded::{LoadedPolicy, PREPARE};
use super::params::{self, ParamSpec, ParamValue};
use super::{CONFIG, Compile, ConfigFile, Half, PolicyInForce, PolicyInfo, StructOps};
use crate::agent;
use crate::cores;
use crate::globals::{Globals, btf_of, raw_id};
use crate::intf;
use crate::libbpf_log;
use crate::llc;
use crate::pins::{self, KeptSlot};
use crate::slow_path;

/// The SDK's own ops (`policy_ops_init` and so on), for running directly: the root has its own.
const SDK_OPS: &str = "policy_ops_";
/// The map of hints.
pub(crate) const HINTS: &str = "policy_hints";
/// The section of `policy_agent`.
pub(crate) const AGENT: &str = ".data.agent";
/// fentry program that scx's headers add; only schedulers built with their macros attach it.
const SCX_PROBE: &str = "scx_lib_init_probe";

/// Bytes of debug dump that are kept of a scheduler that ends.
pub(crate) const DUMP_LEN: u32 = 32 << 10;

/// Descriptors of the maps that outlive a policy.
#[derive(Debug, Clone, Copy)]
pub struct SharedMaps<'a> {
    /// The map `policy_shared`.
    pub shared: BorrowedFd<'a>,
    /// The map `policy_tasks`.
    pub tasks: BorrowedFd<'a>,
    /// The map `policy_hints`.
    pub hints: BorrowedFd<'a>,
    /// The section `.data.agent`.
    pub agent: BorrowedFd<'a>,
}

/// Names of the maps that a policy in a slot has from the root.
pub(crate) const SHARED_MAPS: &[&str] = &["policy_shared", "policy_tasks", HINTS, AGENT];

/// A policy that has been opened but not loaded.
pub struct OpenPolicy {
    object: OpenObject,
    globals: Globals,
    ops: StructOps,
    info: PolicyInfo,
    layout: String,
    origin: String,
    half: Option<Half>,
    compile: Option<Compile>,
    config: Option<ConfigFile>,
    /// The value of [`CONFIG`], if there is one.
    compiled: Vec<u8>,
}

impl OpenPolicy {
    pub(super) fn open(
        bytes: &[u8],
        origin: &str,
        half: Option<Half>,
        compile: Option<Compile>,
    ) -> Result<Self> {
        libbpf_log::take();
        let mut object = ObjectBuilder::default()
            .open_memory(bytes)
            .map_err(|error| anyhow!("it is no BPF object ({error}): {}", last_line(&libbpf_log::take())))?;
        let globals = Globals::of(&btf_of(&object)?);
        let ops = StructOps::of(&object)?;
        leave_out_unused(&mut object, &ops);
        let mut specs = param_specs(&mut object, &globals)?;
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        let fits_slot = object.progs().any(|prog| prog.name() == PREPARE);
        let info = PolicyInfo {
            name: ops.name(),
            description: description(&object)?,
            params: specs,
            config: config_description(&object, &globals)?,
            ops: policy_ops(&ops),
            flags: ops.number("flags", 8),
            fits_slot,
        };
        for op in ["enqueue", "dispatch"] {
            if !info.ops.iter().any(|have| have == op) {
                bail!("it has no {op} op, without which nothing would run");
            }
        }
        if agent::is_delegated(&object) && !matches!(half, Some(Half::Agent(_))) {
            bail!(
                "its decisions are made by a process, which is not part of the object: build it into scx_run"
            );
        }
        if info.config.is_some() != compile.is_some() {
            bail!(
                "its configuration is compiled by a process, which is not part of the object: build it into scx_run"
            );
        }
        let compiled = compile.map_or(Ok(Vec::new()), |compile| compile(""))?;
        let layout = pins::layout(&object)?;
        let (origin, config) = (origin.into(), None);
        Ok(OpenPolicy { object, globals, ops, info, layout, origin, half, compile, config, compiled })
    }

    /// What the policy says of itself.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// Gives it a configuration, which is compiled here. `None` leaves it with the one of a policy that is given none.
    pub fn configure(mut self, config: Option<ConfigFile>) -> Result<Self> {
        let Some(config) = config else { return Ok(self) };
        let Some(compile) = self.compile else {
            bail!("{} takes no configuration file: leave out --config", self.info.name);
        };
        self.compiled = config.compile(compile)?;
        self.config = Some(config);
        Ok(self)
    }

    /// Loads the policy for a slot of the root scheduler, sharing the root's maps. Nothing is attached.
    pub fn load_for_slot(
        self,
        assignments: &[String],
        epoch: u64,
        maps: SharedMaps<'_>,
    ) -> Result<LoadedPolicy> {
        self.load_shared(assignments, epoch, maps, None)
    }

    /// Loads the policy once more, over the memory of one that is in a slot: its pinned maps. The ops stay those that
    /// are there.
    pub(crate) fn load_over(
        mut self,
        kept: &KeptSlot,
        maps: SharedMaps<'_>,
        pinned: &Path,
    ) -> Result<LoadedPolicy> {
        let PolicyInForce { name, epoch, .. } = &kept.policy;
        if self.info.name != *name || self.layout != kept.layout {
            bail!("{}: the policy {name} that runs is of {}", self.origin, pins::ANOTHER_LAYOUT);
        }
        // What has been made of it is with the other constants in the pinned maps.
        self.config = kept.policy.config.clone();
        self.load_shared(&kept.policy.assignments(), *epoch, maps, Some(pinned))
    }

    fn load_shared(
        mut self,
        assignments: &[String],
        epoch: u64,
        maps: SharedMaps<'_>,
        pinned: Option<&Path>,
    ) -> Result<LoadedPolicy> {
        if !self.info.fits_slot {
            bail!("{} is not built on policy.bpf.h, so it fits no slot; run it with --direct", self.origin);
        }
        for (op, program) in self.ops.programs.clone() {
            if program.starts_with(SDK_OPS) {
                self.ops.clear_op(&mut self.object, &op)?;
            }
        }
        for mut map in self.object.maps_mut() {
            let fd = match map.name().to_str() {
                Some("policy_shared") => maps.shared,
                Some("policy_tasks") => maps.tasks,
                Some(HINTS) => maps.hints,
                Some(AGENT) => maps.agent,
                _ => continue,
            };
            map.reuse_fd(fd).context("the policy's shared maps do not fit this framework's: rebuild it")?;
        }
        self.load(assignments, epoch, pinned)
    }

    /// Loads the policy to be attached by itself.
    ///
    /// `flags` are added to `sched_ext_ops.flags`; a `timeout_ms` of 0 leaves the kernel's default. `hints` is the
    /// map with the hints that there are already.
    pub fn load_direct(
        mut self,
        assignments: &[String],
        flags: u64,
        timeout_ms: u32,
        hints: Option<BorrowedFd<'_>>,
    ) -> Result<LoadedPolicy> {
        let agent = intf::policy_agent { tgid: std::process::id() as i32, hinted: hints.is_some().into() };
        self.globals.set_bytes(&mut self.object, "policy_agent", &agent.to_bytes())?;
        if let (Some(fd), Some(mut map)) = (hints, self.object.maps_mut().find(|map| map.name() == HINTS)) {
            map.reuse_fd(fd)
                .context("the policy's map of hints does not fit this framework's: rebuild it")?;
        }
        let flags = self.info.flags | flags;
        self.ops.set_number(&mut self.object, "flags", 8, flags)?;
        if timeout_ms > 0 {
            self.ops.set_number(&mut self.object, "timeout_ms", 4, timeout_ms.into())?;
        }
        self.ops.set_number(&mut self.object, "exit_dump_len", 4, DUMP_LEN.into())?;
        self.globals.set(&mut self.object, "uei_dump_len", DUMP_LEN.into())?;
        if let Some(mut dump) = self.object.maps_mut().find(|map| map.name() == ".data.uei_dump") {
            dump.set_value_size(DUMP_LEN).context("making room for the debug dump")?;
        }
        self.load(assignments, 1, None)
    }

    fn load(mut self, assignments: &[String], epoch: u64, pinned: Option<&Path>) -> Result<LoadedPolicy> {
        let start = Instant::now();
        let values = params::resolve(&self.info.name, &self.info.params, assignments)?;
        for ParamValue { name, value } in &values {
            self.globals.set(&mut self.object, name, *value)?;
        }
        self.globals.set_bytes(&mut self.object, CONFIG, &self.compiled)?;
        self.globals.set(&mut self.object, "policy_dsq_base", dsq_base(epoch))?;
        self.globals.set(&mut self.object, "policy_epoch", epoch)?;
        self.globals.set(&mut self.object, "policy_nr_cpus", *scx_utils::NR_CPU_IDS as u64)?;
        if pinned.is_none() {
            set_scx_enums(&mut self.object, &self.globals)?;
        }
        agent::size_maps(&mut self.object, &self.globals, &values)?;
        llc::tell(&mut self.object, &self.globals, &values)?;
        cores::tell(&mut self.object, &self.globals, &values)?;
        let counters = counters(&self.object, &self.globals)?;
        if let Some(pinned) = pinned {
            pins::reuse(&mut self.object, pinned, SHARED_MAPS)?;
            self.leave_out_ops_in_force()?;
        }
        for mut prog in self.object.progs_mut() {
            if prog.name() == SCX_PROBE {
                prog.set_autoload(false);
            }
        }

        libbpf_log::take();
        let origin = &self.origin;
        let object = self.object.load().map_err(|error| load_error(origin, &error))?;
        let in_force = PolicyInForce {
            name: self.info.name,
            origin: self.origin,
            params: values,
            config: self.config,
            epoch,
        };
        Ok(LoadedPolicy {
            object,
            globals: self.globals,
            ops: self.ops,
            in_force,
            params: self.info.params,
            verify: start.elapsed(),
            layout: self.layout,
            counters,
            half: self.half,
            links: Vec::new(),
            agent: None,
            slow_path: None,
        })
    }
}

impl OpenPolicy {
    /// The ops are in the kernel and go on; what is needed anew is what this process calls. Verifying is most of the time
    /// that loading takes.
    fn leave_out_ops_in_force(&mut self) -> Result<()> {
        for mut program in self.object.progs_mut() {
            let callable = slow_path::is_callable(&program);
            program.set_autoload(callable);
        }
        for mut map in self.object.maps_mut() {
            if map.map_type() == MapType::StructOps {
                map.set_autocreate(false)?;
            }
        }
        Ok(())
    }
}

/// Id of the first queue of the policy with this epoch. Epochs are never given out twice, so neither are ids.
pub(super) fn dsq_base(epoch: u64) -> u64 {
    epoch * u64::from(intf::slot_consts_SLOT_MAX_DSQS)
}

/// Descriptor of a program, for a PROG_ARRAY.
pub(crate) fn program_fd(program: &ProgramMut<'_>) -> u32 {
    use std::os::fd::AsRawFd;
    program.as_fd().as_raw_fd() as u32
}

/// The SDK's default of an op that the policy has its own of is a program that libbpf cannot place.
fn leave_out_unused(object: &mut OpenObject, ops: &StructOps) {
    for mut program in object.progs_mut() {
        let used = ops.programs.iter().any(|(_, name)| program.name() == name.as_str());
        if program.prog_type() == ProgramType::StructOps && !used {
            program.set_autoload(false);
        }
    }
}

fn policy_ops(ops: &StructOps) -> Vec<String> {
    ops.programs
        .iter()
        .filter(|(_, program)| !program.starts_with(SDK_OPS))
        .map(|(op, _)| op.clone())
        .collect()
}

/// Declaration tags of the object: the id of the tagged type and the text.
fn tags(object: &OpenObject) -> Result<Vec<(u32, String)>> {
    let btf = btf_of(object)?;
    Ok(btf
        .type_by_kind::<DeclTag<'_>>()
        .filter_map(|tag| {
            let text = tag.name()?.to_string_lossy().into_owned();
            Some((raw_id(tag.referenced_type().type_id()), text))
        })
        .collect())
}

fn description(object: &OpenObject) -> Result<String> {
    Ok(tags(object)?
        .into_iter()
        .find_map(|(_, text)| Some(text.strip_prefix("policy:")?.to_owned()))
        .unwrap_or_default())
}

/// What the policy says of its configuration file in `POLICY_CONFIG`.
fn config_description(object: &OpenObject, globals: &Globals) -> Result<Option<String>> {
    let Some(config) = globals.get(CONFIG) else { return Ok(None) };
    let mut tags = tags(object)?.into_iter().filter(|(id, _)| *id == config.type_id);
    Ok(tags.find_map(|(_, text)| Some(text.strip_prefix("config:")?.to_owned())))
}

fn param_specs(object: &mut OpenObject, globals: &Globals) -> Result<Vec<ParamSpec>> {
    let tags: BTreeMap<u32, String> = tags(object)?.into_iter().collect();
    let mut specs = Vec::new();
    for (name, global) in globals.iter() {
        let Some(int) = global.int.filter(|_| global.section == ".rodata") else { continue };
        let Some(tag) = tags.get(&global.type_id).and_then(|text| text.strip_prefix("param:")) else {
            continue;
        };
        let (min, max, unit, description) =
            params::parse_tag(tag).with_context(|| format!("parameter {name} has a malformed tag: {tag}"))?;
        let bits = int.bytes * 8;
        specs.push(ParamSpec {
            name: name.clone(),
            ctype: if int.boolean {
                "bool".into()
            } else {
                format!("{}{bits}", if int.signed { 's' } else { 'u' })
            },
            default: initial_u64(object, &global.section, global.offset, global.size)?,
            min,
            max,
            unit: unit.into(),
            description: description.into(),
        });
    }
    Ok(specs)
}

/// Names of the variables that were declared with `COUNTER_U64`.
fn counters(object: &OpenObject, globals: &Globals) -> Result<Vec<String>> {
    let counters: Vec<_> = tags(object)?
        .into_iter()
        .filter(|(_, text)| text.starts_with("counter:"))
        .map(|(id, _)| id)
        .collect();
    let named = globals.iter().filter(|(_, global)| counters.contains(&global.type_id));
    Ok(named.map(|(name, _)| name.clone()).collect())
}

fn initial_u64(object: &OpenObject, section: &str, offset: usize, size: usize) -> Result<u64> {
    let map = object
        .maps()
        .find(|map| crate::globals::names_section(&map.name().to_string_lossy(), section))
        .with_context(|| format!("the object has no section {section}"))?;
    let bytes = map.initial_value().context("the section has no data")?;
    let mut word = [0; 8];
    word[..size]
        .copy_from_slice(bytes.get(offset..offset + size).context("a parameter outside its section")?);
    Ok(u64::from_ne_bytes(word))
}

/// Gives the scx headers the values that the running kernel has for its constants (`__SCX_DSQ_LOCAL`, ...).
fn set_scx_enums(object: &mut OpenObject, globals: &Globals) -> Result<()> {
    let names: Vec<_> = globals
        .iter()
        .filter_map(|(name, global)| {
            let bare = name.strip_prefix("__").filter(|bare| bare.starts_with("SCX_"))?;
            (global.section == ".rodata").then(|| (name.clone(), bare.to_owned()))
        })
        .collect();
    for (variable, constant) in names {
        // A constant that this kernel lacks stays 0, which the headers take for "not supported".
        if let Some(value) = scx_enum(&constant) {
            globals.set(object, &variable, value)?;
        }
    }
    Ok(())
}

/// Value of one of sched_ext's constants on this kernel. Each is looked up once: that walks the kernel's BTF.
fn scx_enum(constant: &str) -> Option<u64> {
    const ENUMS: &[&str] = &[
        "scx_public_consts",
        "scx_dsq_id_flags",
        "scx_enq_flags",
        "scx_ent_flags",
        "scx_kick_flags",
        "scx_rq_flags",
        "scx_deq_flags",
        "scx_ent_dsq_flags",
        "scx_task_state",
        "scx_consts",
        "scx_wake_flags",
        "scx_pick_idle_cpu_flags",
        "scx_ops_flags",
    ];
    static KNOWN: Mutex<BTreeMap<String, Option<u64>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = known.get(constant) {
        return *value;
    }
    let value = compat::read_enum_any(ENUMS, constant).ok();
    known.insert(constant.to_owned(), value);
    value
}
