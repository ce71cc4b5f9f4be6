// SPDX-License-Identifier: GPL-2.0-only
//! A policy that the kernel holds: what can be asked of it, and its half in this process.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::{Link, Object, ProgramInput, ProgramMut};

use super::object::dsq_base;
use super::params::ParamSpec;
use super::{Half, PolicyInForce, StructOps};
use crate::agent::{Agents, Saved, Settings};
use crate::globals::Globals;
use crate::slow_path::{Runner, SlowPathStatus};

/// The program that creates a policy's queues when it goes into a slot.
pub(crate) const PREPARE: &str = "policy_prepare";
/// The tracepoint programs of a policy, of which it need have none: who leaves a CPU and who gets it; that a CPU is
/// about to go, and that it stays after all.
const TRACEPOINTS: [&str; 3] = ["policy_switch", "policy_cpu_goes", "policy_cpu_stays"];
/// The programs that tell a policy that it is about to come into force, and that it is not any more.
const CATCH_UP: &str = "policy_catch_up";
const LEAVE: &str = "policy_leave";

/// A policy whose programs the kernel has verified and holds.
pub struct LoadedPolicy {
    pub(super) object: Object,
    pub(super) globals: Globals,
    pub(super) ops: StructOps,
    /// What is in force.
    pub in_force: PolicyInForce,
    /// Its parameters, as declared.
    pub params: Vec<ParamSpec>,
    /// How long loading took, most of which is verifying.
    pub verify: Duration,
    /// How its memory is laid out, see [`layout`](crate::pins::layout).
    pub layout: String,
    /// Names of its counters.
    pub(super) counters: Vec<String>,
    pub(super) half: Option<Half>,
    /// Keep its tracepoint programs attached, from when it is prepared, with their names.
    pub(super) links: Vec<(String, Link)>,
    /// Its half in this process, from when it is prepared: one of the two.
    pub(super) agent: Option<Agents>,
    pub(super) slow_path: Option<Runner>,
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

    /// Tells the policy that it is about to come into force. What has happened while it was not, it sees for itself.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.tell(CATCH_UP)
    }

    /// Tells the policy that it is not in force any more.
    pub(crate) fn leave(&self) -> Result<()> {
        self.tell(LEAVE)
    }

    fn tell(&self, program: &str) -> Result<()> {
        // An object of an older SDK has none.
        let Some(told) = self.program(program) else { return Ok(()) };
        let run = told.test_run(ProgramInput::default());
        run.map(drop).with_context(|| format!("running {program} of {}", self.in_force.name))
    }

    /// Starts what is at work beside the ops: tracepoint programs and the half in this process, if it has them.
    /// That does nothing before the policy is in force.
    pub(crate) fn start_half(&mut self) -> Result<()> {
        self.end_half();
        for name in TRACEPOINTS {
            let Some(program) = self.program(name) else { continue };
            let link = program.attach().with_context(|| format!("attaching {name}"))?;
            self.links.push((name.to_owned(), link));
        }
        self.start_agent()?;
        if let Some(agent) = &self.agent {
            agent.begin(None).with_context(|| format!("starting the agent of {}", self.in_force.name))?;
        }
        self.start_slow_path()
    }

    /// Like `start_half`, beside a process that may still be at work. `links` are those that it has made: with two of
    /// each everything would count twice. The agent touches nothing before it is told to [begin](Agents::begin).
    pub(crate) fn start_half_beside(&mut self, links: Vec<(String, Link)>) -> Result<()> {
        self.links = links;
        self.start_agent()?;
        self.start_slow_path()
    }

    fn start_agent(&mut self) -> Result<()> {
        let Some(Half::Agent(factory)) = self.half else { return Ok(()) };
        let PolicyInForce { name, params, .. } = &self.in_force;
        let agent = Agents::start(&self.object, factory, name, params)
            .with_context(|| format!("starting the agent of {name}"))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// The links that keep the tracepoint programs attached, with their names.
    pub(crate) fn links(&self) -> &[(String, Link)] {
        &self.links
    }

    fn start_slow_path(&mut self) -> Result<()> {
        let Some(Half::SlowPath(factory)) = self.half else { return Ok(()) };
        let PolicyInForce { name, params, .. } = &self.in_force;
        let half = factory(&Settings::of(params));
        let runner = Runner::start(&self.object, &self.globals, name, half)
            .with_context(|| format!("starting the slow path of {name}"))?;
        self.slow_path = Some(runner);
        Ok(())
    }

    /// Tells the policy's half in this process, if there is one, whether the policy is in force.
    pub(crate) fn set_in_force(&self, in_force: bool) {
        if let Some(agent) = &self.agent {
            agent.set_present(in_force);
        }
        if let Some(slow_path) = &self.slow_path {
            slow_path.set_in_force(in_force);
        }
    }

    /// Ends the policy's half in this process: BPF alone decides.
    pub(crate) fn end_half(&mut self) {
        self.links.clear();
        self.agent = None;
        self.slow_path = None;
    }

    /// The same, for a process that takes over. Returns what the agents know of their tasks, if there are any.
    pub(crate) fn leave_half(&mut self) -> Option<Saved> {
        self.links.clear();
        self.slow_path = None;
        self.agent.take()?.leave()
    }

    /// What the policy's slow path has done, if it has one.
    pub(crate) fn slow_path_status(&self) -> Option<SlowPathStatus> {
        self.slow_path.as_ref().map(Runner::status)
    }

    /// What the policy has counted since it was loaded.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let count = |name: &String| Some((name.clone(), self.globals.read_u64(&self.object, name).ok()?));
        self.counters.iter().filter_map(count).collect()
    }

    /// The policy's half in this process, if that decides.
    pub(crate) fn agent(&self) -> Option<&Agents> {
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
