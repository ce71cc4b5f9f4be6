// SPDX-License-Identifier: GPL-2.0-only
//! A policy's object: opened, given its parameters, loaded into the kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::btf::ReferencesType as _;
use libbpf_rs::btf::types::DeclTag;
use libbpf_rs::{Object, ObjectBuilder, OpenObject, ProgramInput, ProgramMut, ProgramType};
use scx_utils::compat;

use super::params::{self, ParamSpec, ParamValue};
use super::{PolicyInForce, PolicyInfo, StructOps};
use crate::agent::{self, Agent};
use crate::globals::{Globals, btf_of, raw_id};
use crate::intf;
use crate::libbpf_log;

/// The SDK's own ops (`policy_ops_init` and so on), for running directly: the root has its own.
const SDK_OPS: &str = "policy_ops_";
/// The program that creates a policy's queues when it goes into a slot.
const PREPARE: &str = "policy_prepare";
/// The map of hints.
pub(crate) const HINTS: &str = "policy_hints";
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
}

/// A policy that has been opened but not loaded.
pub struct OpenPolicy {
    object: OpenObject,
    globals: Globals,
    ops: StructOps,
    info: PolicyInfo,
    origin: String,
    agent: Option<agent::Factory>,
}

/// A policy whose programs the kernel has verified and holds.
pub struct LoadedPolicy {
    object: Object,
    globals: Globals,
    ops: StructOps,
    /// What is in force.
    pub in_force: PolicyInForce,
    /// Its parameters, as declared.
    pub params: Vec<ParamSpec>,
    /// How long loading took, most of which is verifying.
    pub verify: Duration,
    factory: Option<agent::Factory>,
    /// Its half in this process, from when it is prepared.
    agent: Option<Agent>,
}

impl OpenPolicy {
    pub(super) fn open(bytes: &[u8], origin: &str, agent: Option<agent::Factory>) -> Result<Self> {
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
            ops: policy_ops(&ops),
            flags: ops.number("flags", 8),
            fits_slot,
        };
        for op in ["enqueue", "dispatch"] {
            if !info.ops.iter().any(|have| have == op) {
                bail!("it has no {op} op, without which nothing would run");
            }
        }
        if agent::is_delegated(&object) && agent.is_none() {
            bail!(
                "its decisions are made by a process, which is not part of the object: build it into scx_run"
            );
        }
        Ok(OpenPolicy { object, globals, ops, info, origin: origin.into(), agent })
    }

    /// What the policy says of itself.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// Loads the policy for a slot of the root scheduler, sharing the root's maps. Nothing is attached.
    pub fn load_for_slot(
        mut self,
        assignments: &[String],
        epoch: u64,
        maps: SharedMaps<'_>,
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
                _ => continue,
            };
            map.reuse_fd(fd).context("the policy's shared maps do not fit this framework's: rebuild it")?;
        }
        self.load(assignments, epoch)
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
        self.load(assignments, 1)
    }

    fn load(mut self, assignments: &[String], epoch: u64) -> Result<LoadedPolicy> {
        let start = Instant::now();
        let values = params::resolve(&self.info.name, &self.info.params, assignments)?;
        for ParamValue { name, value } in &values {
            self.globals.set(&mut self.object, name, *value)?;
        }
        self.globals.set(&mut self.object, "policy_dsq_base", dsq_base(epoch))?;
        self.globals.set(&mut self.object, "policy_epoch", epoch)?;
        self.globals.set(&mut self.object, "policy_nr_cpus", *scx_utils::NR_CPU_IDS as u64)?;
        self.globals.set(&mut self.object, "policy_agent_tgid", std::process::id().into())?;
        set_scx_enums(&mut self.object, &self.globals)?;
        agent::size_maps(&mut self.object, &self.globals, &values)?;
        for mut prog in self.object.progs_mut() {
            if prog.name() == SCX_PROBE {
                prog.set_autoload(false);
            }
        }

        libbpf_log::take();
        let origin = &self.origin;
        let object = self.object.load().map_err(|error| load_error(origin, &error))?;
        let in_force = PolicyInForce { name: self.info.name, origin: self.origin, params: values, epoch };
        Ok(LoadedPolicy {
            object,
            globals: self.globals,
            ops: self.ops,
            in_force,
            params: self.info.params,
            verify: start.elapsed(),
            factory: self.agent,
            agent: None,
        })
    }
}

impl LoadedPolicy {
    /// Runs the policy's init: creates its queues. A scheduler must be attached.
    ///
    /// Returns the id of the first queue and the number of queues.
    pub(crate) fn prepare(&self) -> Result<(u64, u32)> {
        let program = self.program(PREPARE).context("the policy has no policy_prepare")?;
        let output = program
            .test_run(ProgramInput::default())
            .with_context(|| format!("running the init of {}", self.in_force.name))?;
        let errno = output.return_value as i32;
        if errno != 0 {
            let error = std::io::Error::from_raw_os_error(-errno);
            bail!("the init of {} failed: {error}", self.in_force.name);
        }
        let queues = self.globals.read_u64(&self.object, "policy_nr_dsqs")?;
        Ok((dsq_base(self.in_force.epoch), u32::try_from(queues)?))
    }

    /// Starts the policy's half in this process, if it has one. It decides nothing before it is in force.
    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let Some(factory) = self.factory else { return Ok(()) };
        self.agent = None;
        let name = &self.in_force.name;
        let agent = Agent::start(&self.object, factory, name, &self.in_force.params)
            .with_context(|| format!("starting the agent of {name}"))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// The policy's half in this process.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Each op of the policy and the program that implements it.
    pub(crate) fn ops(&self) -> impl Iterator<Item = (&str, ProgramMut<'_>)> {
        self.ops.programs.iter().filter_map(|(op, name)| Some((op.as_str(), self.program(name)?)))
    }

    /// Instructions of each loaded program, after verification.
    pub fn program_sizes(&self) -> Vec<(String, usize)> {
        self.object
            .progs()
            .filter(|prog| prog.autoload())
            .map(|prog| (prog.name().to_string_lossy().into_owned(), prog.insn_cnt()))
            .collect()
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn object_mut(&mut self) -> &mut Object {
        &mut self.object
    }

    pub(crate) fn globals(&self) -> &Globals {
        &self.globals
    }

    pub(crate) fn ops_map(&self) -> &str {
        &self.ops.map
    }

    fn program(&self, name: &str) -> Option<ProgramMut<'_>> {
        self.object.progs_mut().find(|prog| prog.name() == OsStr::new(name))
    }
}

/// Id of the first queue of the policy with this epoch. Epochs are never given out twice, so neither are ids.
fn dsq_base(epoch: u64) -> u64 {
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

/// The kernel refused to load a policy.
#[derive(Debug, thiserror::Error)]
#[error("{origin} does not load: {reason}")]
pub struct LoadError {
    /// The policy, as the user called it.
    pub origin: String,
    /// The reason in one line.
    pub reason: String,
    /// All that libbpf and the verifier said.
    pub log: String,
}

/// Makes one line of what libbpf has said since its log was taken last.
pub(crate) fn load_error(origin: &str, error: &dyn std::fmt::Display) -> LoadError {
    let log = libbpf_log::take();
    let malformed = compat::malformed_scx_kfuncs();
    let reason = if malformed.is_empty() {
        verifier_reason(&log).unwrap_or_else(|| format!("{error}: {}", last_line(&log)))
    } else {
        format!(
            "this kernel's BTF describes sched_ext's kfuncs wrongly ({}): it was built with pahole < 1.26; \
             boot another kernel",
            malformed.join(", ")
        )
    };
    LoadError { origin: origin.into(), reason, log }
}

/// The line in which the verifier says what it does not like: the last one before its summary.
fn verifier_reason(log: &str) -> Option<String> {
    let lines: Vec<_> = log.lines().collect();
    let summary = lines.iter().rposition(|line| line.starts_with("processed ") && line.contains(" insns"))?;
    lines[..summary]
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.starts_with(char::is_numeric))
        .map(|line| (*line).trim().to_owned())
}

fn last_line(log: &str) -> &str {
    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_s_reason_is_found() {
        let log = "libbpf: prog 'x': BPF program load failed: -EACCES\n-- BEGIN PROG LOAD LOG --\n\
                   0: R1=ctx() R10=fp0\n0: (79) r1 = *(u64 *)(r1 +0)\nR1 invalid mem access 'scalar'\n\
                   processed 3 insns (limit 1000000)\n-- END PROG LOAD LOG --\n";
        assert_eq!(verifier_reason(log).as_deref(), Some("R1 invalid mem access 'scalar'"));
        assert_eq!(last_line("a\n b \n\n"), "b");
    }
}
