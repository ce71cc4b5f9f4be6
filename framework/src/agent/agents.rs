// SPDX-License-Identifier: GPL-2.0-only
//! The agents of a policy that is loaded: one for all CPUs, or one for each.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{Link, Map, MapCore as _, MapFlags, MapHandle, MapType, Object, OpenObject, libbpf_sys};

use super::handover::Saved;
use super::shared::{Descriptors, MAX_TASKS, Model, Shared};
use super::thread::Agent;
use super::{AgentStatus, CpuId, Factory, Settings};
use crate::globals::Globals;
use crate::policy::ParamValue;

/// The program that notes when a task is woken, attached for [`STAGES`] only.
const WAKING: &str = "delegate_waking";
/// The parameter that asks for each stage of a wakeup to be measured.
const STAGES: &str = "stages";
/// The program that carries out transactions.
const COMMIT: &str = "delegate_commit";
/// The parameter that asks for an agent for each CPU.
const PER_CPU: &str = "per_cpu";
/// The bells of agents that decide for one CPU each.
const BELLS: &str = "delegate_bells";
/// Bytes of a bell: the least that a ring buffer can have is a page.
const BELL_SIZE: u32 = 4096;
/// How long to wait for the thread to come up.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Whether an object is the BPF half of a delegated policy.
pub(crate) fn is_delegated(object: &OpenObject) -> bool {
    object.maps().any(|map| map.name() == "delegate_agent")
}

/// Gives the maps that a delegated policy shares with its agents their sizes.
pub(crate) fn size_maps(object: &mut OpenObject, globals: &Globals, params: &[ParamValue]) -> Result<()> {
    if !is_delegated(object) {
        return Ok(());
    }
    let cpus = nr_cpus();
    let ring = ring_of(params);
    let model = model_of(params);
    let agents = model.agents(cpus as usize) as u32;
    let txns = model.txns() as u32;
    globals.set(object, "delegate_ring_mask", u64::from(ring) - 1)?;
    globals.set(object, "delegate_txn_mask", u64::from(txns) - 1)?;
    for mut map in object.maps_mut() {
        let entries = match map.name().to_str() {
            Some("delegate_msgs") => cpus * ring,
            Some("delegate_cpus") => cpus,
            Some("delegate_tasks") => MAX_TASKS as u32,
            Some("delegate_txns") => agents * txns,
            Some("delegate_agent" | BELLS) => agents,
            _ => continue,
        };
        map.set_max_entries(entries).context("sizing the memory shared with the agent")?;
    }
    Ok(())
}

fn nr_cpus() -> u32 {
    u32::try_from(*scx_utils::NR_CPU_IDS).unwrap_or(1)
}

/// Whether there is such a CPU, online or not: many machines have numbers for far more than they have.
fn exists(cpu: usize) -> bool {
    Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists()
}

fn param(params: &[ParamValue], name: &str) -> Option<u64> {
    params.iter().find(|param| param.name == name).map(|param| param.value)
}

/// Messages of a CPU's ring: the parameter `ring`, rounded down to a power of two.
fn ring_of(params: &[ParamValue]) -> u32 {
    let wanted = param(params, "ring").unwrap_or(1);
    1 << u32::try_from(wanted).unwrap_or(u32::MAX).max(1).ilog2()
}

fn model_of(params: &[ParamValue]) -> Model {
    if param(params, PER_CPU).unwrap_or(0) != 0 { Model::PerCpu } else { Model::Global }
}

/// The agents of a delegated policy that is loaded. Dropping them ends them; BPF schedules alone then.
pub(crate) struct Agents {
    agents: Vec<Agent>,
    /// Where the bells of several go. Their own are made for each process, and put there as it begins.
    bells: Option<(MapHandle, Vec<MapHandle>)>,
    /// Keeps the program attached that notes wakeups, while stages are measured.
    _waking: Option<Link>,
}

impl Agents {
    /// Starts the agents on memory on which others may be at work: they touch nothing before [`begin`](Self::begin),
    /// and decide nothing before they are [made present](Self::set_present).
    pub fn start(object: &Object, factory: Factory, name: &str, params: &[ParamValue]) -> Result<Self> {
        // It does no harm if other agents have it attached, too.
        let stages = param(params, STAGES).unwrap_or(0) != 0;
        let waking = if stages { Some(attach(object, WAKING)?) } else { None };
        let cpus = nr_cpus();
        let model = model_of(params);
        let mut shared = Shared::map(descriptors(object)?, cpus as usize, ring_of(params) as usize, model)?;
        shared.retain(|shared| shared.home().is_none_or(exists));
        let settings = Settings::of(params);
        let bells = bells(object, model, shared.len())?;
        lock_memory();
        let mut agents = Vec::new();
        for (shared, bell) in shared.into_iter().zip(&bells) {
            let cpu = shared.home().map(|cpu| CpuId(cpu as u32));
            let policy = factory(&Settings { cpu, ..settings.clone() });
            let bell = MapHandle::try_from(bell).context("cannot duplicate the bell's descriptor")?;
            agents.push(Agent::start(name, policy, shared, commit_program(object)?, bell)?);
        }
        let bells = match model {
            Model::Global => None,
            Model::PerCpu => Some((handle(object, BELLS)?, bells)),
        };
        Ok(Agents { agents, bells, _waking: waking })
    }

    /// No other agents work on the shared memory any more: these take their place, and know of
    /// their tasks what those have `saved`.
    pub fn begin(&self, saved: Option<Saved>) -> Result<()> {
        if let Some((all, bells)) = &self.bells {
            for (agent, bell) in self.agents.iter().zip(bells) {
                let cpu = agent.shared().home().unwrap_or(0) as u32;
                let fd = bell.as_fd().as_raw_fd().to_ne_bytes();
                all.update(&cpu.to_ne_bytes(), &fd, MapFlags::ANY).context("giving an agent its bell")?;
            }
        }
        let saved = saved.map(Arc::new);
        self.agents.iter().for_each(|agent| agent.begin(saved.as_ref()));
        self.wait_for("the agent's thread does not come up", |agent| {
            agent.shared().tid().load(Ordering::Acquire) != 0
        })
    }

    /// Waits until all have decided for the first time since they were made present. Returns when that was,
    /// CLOCK_MONOTONIC ns.
    pub fn first_round(&self) -> Result<u64> {
        self.wait_for("the agent does not decide", |agent| agent.first_round() != 0)?;
        Ok(self.agents.iter().map(Agent::first_round).max().unwrap_or(0))
    }

    fn wait_for(&self, failure: &'static str, condition: impl Fn(&Agent) -> bool) -> Result<()> {
        let start = Instant::now();
        while !self.agents.iter().all(&condition) {
            ensure!(start.elapsed() < START_PATIENCE, failure);
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// Whether their policy is in force. While it is not, BPF asks nothing of them; when it comes into force again, they
    /// start over.
    pub fn set_present(&self, present: bool) {
        self.agents.iter().for_each(|agent| agent.set_present(present));
    }

    /// Ends them. Returns what their policy knows of its tasks.
    pub fn leave(mut self) -> Option<Saved> {
        self.agents.iter().for_each(Agent::end);
        std::mem::take(&mut self.agents).into_iter().map(Agent::leave).reduce(Saved::merge)
    }

    /// Tasks of which the agents before these had saved something.
    pub fn restored(&self) -> u64 {
        self.agents.iter().map(|agent| agent.meters().restored.load(Ordering::Relaxed)).sum()
    }

    /// What they have done so far.
    pub fn status(&self) -> AgentStatus {
        AgentStatus::read(
            &self.agents.iter().map(|agent| (agent.shared(), agent.meters())).collect::<Vec<_>>(),
        )
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // All at once: one waits for its thread as it goes.
        self.agents.iter().for_each(Agent::end);
    }
}

fn descriptors(object: &Object) -> Result<Descriptors> {
    Ok(Descriptors {
        msgs: map_fd(object, "delegate_msgs")?,
        cpus: map_fd(object, "delegate_cpus")?,
        tasks: map_fd(object, "delegate_tasks")?,
        txns: map_fd(object, "delegate_txns")?,
        agent: map_fd(object, "delegate_agent")?,
    })
}

/// What wakes each agent. The one for all CPUs has its own map; a ring buffer for each CPU cannot be declared in BPF,
/// which does not know how many there are.
fn bells(object: &Object, model: Model, agents: usize) -> Result<Vec<MapHandle>> {
    if model == Model::Global {
        return Ok(vec![handle(object, "delegate_bell")?]);
    }
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
        ..Default::default()
    };
    let bell = || MapHandle::create(MapType::RingBuf, Some("delegate_bell"), 0, 0, BELL_SIZE, &options);
    (0..agents).map(|_| bell().context("making the bell of an agent")).collect()
}

/// A page fault while it decides would make all tasks wait for it. Without the right to lock memory it does its best.
fn lock_memory() {
    // SAFETY: plain integers.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    // khugepaged takes even locked pages away while it makes a huge page of them.
    // SAFETY: plain integers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

fn attach(object: &Object, name: &str) -> Result<Link> {
    let program = object.progs_mut().find(|program| program.name() == name);
    let program = program.with_context(|| format!("the policy has no {name}"))?;
    program.attach().with_context(|| format!("attaching {name}"))
}

fn map<'o>(object: &'o Object, name: &str) -> Result<Map<'o>> {
    let map = object.maps().find(|map| map.name() == name);
    map.with_context(|| format!("the policy has no map {name}"))
}

fn handle(object: &Object, name: &str) -> Result<MapHandle> {
    let map = map(object, name)?;
    MapHandle::try_from(&map).with_context(|| format!("cannot duplicate the descriptor of {name}"))
}

fn map_fd(object: &Object, name: &str) -> Result<RawFd> {
    Ok(map(object, name)?.as_fd().as_raw_fd())
}

fn commit_program(object: &Object) -> Result<OwnedFd> {
    let program = object.progs().find(|program| program.name() == COMMIT);
    let program = program.with_context(|| format!("the policy has no {COMMIT}"))?;
    program.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
}
