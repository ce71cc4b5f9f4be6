// SPDX-License-Identifier: GPL-2.0-only
//! A policy attached by itself: the way to measure what the root costs, and to run what fits no slot.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore as _, MapHandle};
use scx_utils::compat;

use crate::agent::{AgentStatus, Agents};
use crate::exit::ExitInfo;
use crate::hints::Hints;
use crate::policy::{AGENT, HINTS, LoadedPolicy, OpenPolicy, PolicyInForce};
use crate::slow_path::SlowPathStatus;

/// A policy that is its own root scheduler.
pub struct Direct {
    policy: LoadedPolicy,
    link: Option<Link>,
}

impl Direct {
    /// Verifies the policy. Nothing is attached yet. `hints` is the map with the hints that there are already.
    pub fn load(
        policy: OpenPolicy,
        assignments: &[String],
        partial: bool,
        timeout_ms: u32,
        hints: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let flags = if partial { *compat::SCX_OPS_SWITCH_PARTIAL } else { 0 };
        Ok(Direct { policy: policy.load_direct(assignments, flags, timeout_ms, hints)?, link: None })
    }

    /// Attaches the policy.
    pub fn attach(&mut self) -> Result<()> {
        let name = self.policy.ops_map().to_owned();
        let mut map = self
            .policy
            .object_mut()
            .maps_mut()
            .find(|map| map.name() == name.as_str())
            .context("the policy's sched_ext_ops are gone")?;
        let link = map.attach_struct_ops().with_context(|| format!("attaching {name}"))?;
        self.link = Some(link);
        self.policy.start_half()?;
        self.policy.set_in_force(true);
        Ok(())
    }

    /// Detaches the policy. Why it ended, as the kernel saw it.
    pub fn detach(&mut self) -> Result<ExitInfo> {
        self.link = None;
        self.policy.set_in_force(false);
        self.exit_info()
    }

    /// Whether the kernel has ended the policy.
    pub fn has_ended(&self) -> Result<bool> {
        ExitInfo::has_ended(self.policy.object(), self.policy.globals())
    }

    /// Why the kernel ended the policy; `ExitInfo::ended` tells whether it did.
    pub fn exit_info(&self) -> Result<ExitInfo> {
        ExitInfo::read(self.policy.object(), self.policy.globals())
    }

    /// What the policy's agent has done, if it has one.
    pub fn agent_status(&self) -> Option<AgentStatus> {
        self.policy.agent().map(Agents::status)
    }

    /// What the policy's slow path has done, if it has one.
    pub fn slow_path_status(&self) -> Option<SlowPathStatus> {
        self.policy.slow_path_status()
    }

    /// What the policy has counted.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.policy.counts()
    }

    /// The policy's map of hints. Whatever is not built on policy.bpf.h has none.
    pub fn hints(&self) -> Result<Hints> {
        let map = |name| self.policy.object().maps().find(|map| map.name() == name);
        let (hints, agent) = map(HINTS).zip(map(AGENT)).with_context(|| {
            let name = &self.in_force().name;
            format!("{name} takes no hints: it is not built on policy.bpf.h, or on an older one")
        })?;
        Hints::of(MapHandle::try_from(&hints), MapHandle::try_from(&agent))
    }

    /// What is in force.
    pub fn in_force(&self) -> &PolicyInForce {
        &self.policy.in_force
    }
}
