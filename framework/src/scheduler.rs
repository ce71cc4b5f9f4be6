// SPDX-License-Identifier: GPL-2.0-only
//! Who is attached: the root with policies in its slots, or a policy by itself.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use anyhow::{Context, Result};

use crate::direct::Direct;
use crate::engine::Config;
use crate::exit::ExitInfo;
use crate::hints::Hints;
use crate::policy::{Catalogue, Image, OpenPolicy, PolicyInForce};
use crate::root::{NR_SLOTS, Root, RootOptions, ops_for};
use crate::swap::SlotId;

/// A scheduler, loaded and possibly attached.
pub(crate) enum Scheduler {
    Root(Box<Root>),
    Direct(Box<Direct>),
}

impl Scheduler {
    /// Loads a scheduler with the policy in it: everything is verified, nothing attached. It takes over the epochs
    /// and the hints of the one before it.
    pub fn load(
        config: &Config,
        policy: OpenPolicy,
        params: &[String],
        before: Option<&Scheduler>,
    ) -> Result<Self> {
        // One that takes no hints has none to hand on.
        let hints = before.and_then(|before| before.hints().ok());
        let hints = hints.as_ref().map(|hints| hints.as_fd());
        let first_epoch = before.map_or(1, Scheduler::next_epoch);
        if config.direct {
            let direct = Direct::load(policy, params, config.partial, config.timeout_ms, hints)?;
            return Ok(Scheduler::Direct(Box::new(direct)));
        }
        let mut ops = ops_for(&policy.info().ops)?;
        ops.extend(config.extra_ops.iter().cloned());
        ops.extend(catalogue_ops(config.catalogue)?);
        let options =
            RootOptions { ops, partial: config.partial, timeout_ms: config.timeout_ms, first_epoch };
        let mut root = Root::load(options, hints)?;
        root.install(policy, params)?;
        Ok(Scheduler::Root(Box::new(root)))
    }

    /// Attaches it, puts its policy in force and, with `keep`, pins it.
    pub fn activate(&mut self, keep: bool) -> Result<()> {
        match self {
            Scheduler::Direct(direct) => direct.attach(),
            Scheduler::Root(root) => {
                root.attach()?;
                let slot = (0..NR_SLOTS)
                    .map(SlotId::new)
                    .find(|slot| root.in_slot(*slot).is_some())
                    .context("no slot holds a policy")?;
                root.prepare(slot)?;
                root.flip(slot)?;
                if keep { root.keep(false) } else { Ok(()) }
            }
        }
    }

    /// Whether it can be attached again once it is detached.
    pub fn can_be_attached(&self) -> bool {
        match self {
            Scheduler::Root(root) => root.can_be_attached(),
            Scheduler::Direct(_) => true,
        }
    }

    /// Detaches it. Why it ended, as the kernel saw it.
    pub fn detach(&mut self) -> Result<ExitInfo> {
        match self {
            Scheduler::Root(root) => root.detach(),
            Scheduler::Direct(direct) => direct.detach(),
        }
    }

    /// Why the kernel ended it, if it did.
    pub fn ended(&self) -> Result<Option<ExitInfo>> {
        Ok(match self {
            Scheduler::Root(root) if root.has_ended() => Some(root.exit_info()?),
            Scheduler::Direct(direct) if direct.has_ended()? => Some(direct.exit_info()?),
            _ => None,
        })
    }

    /// The policy that decides.
    pub fn in_force(&self) -> Result<PolicyInForce> {
        match self {
            Scheduler::Direct(direct) => Some(direct.in_force()),
            Scheduler::Root(root) => root.active().and_then(|slot| root.in_slot(slot)),
        }
        .cloned()
        .context("no policy is in force")
    }

    /// The map of hints.
    pub fn hints(&self) -> Result<Hints> {
        match self {
            Scheduler::Root(root) => root.hints(),
            Scheduler::Direct(direct) => direct.hints(),
        }
    }

    /// Epoch that the next policy has to get.
    fn next_epoch(&self) -> u64 {
        match self {
            Scheduler::Root(root) => root.next_epoch(),
            Scheduler::Direct(_) => 1,
        }
    }
}

/// The ops that the built-in policies need, so that each can be swapped to.
fn catalogue_ops(catalogue: Catalogue) -> Result<BTreeSet<String>> {
    let mut ops = BTreeSet::new();
    for built_in in catalogue {
        ops.extend(ops_for(&Image::find(catalogue, built_in.name)?.open()?.info().ops)?);
    }
    Ok(ops)
}
