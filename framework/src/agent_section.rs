// SPDX-License-Identifier: GPL-2.0-only
//! What scx_run tells all policies at once: the section of `policy_agent`, which they share.

use std::mem::offset_of;

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore, MapFlags};

use crate::intf::policy_agent;

/// The only key of a section.
const KEY: [u8; 4] = [0; 4];

impl policy_agent {
    /// As it lies in memory.
    pub(crate) fn to_bytes(self) -> [u8; size_of::<policy_agent>()] {
        let mut bytes = [0; size_of::<policy_agent>()];
        bytes[offset_of!(policy_agent, tgid)..][..4].copy_from_slice(&self.tgid.to_ne_bytes());
        bytes[offset_of!(policy_agent, hinted)..][..4].copy_from_slice(&self.hinted.to_ne_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at| bytes.get(at..)?.first_chunk();
        Some(policy_agent {
            tgid: i32::from_ne_bytes(*word(offset_of!(policy_agent, tgid))?),
            hinted: u32::from_ne_bytes(*word(offset_of!(policy_agent, hinted))?),
        })
    }

    /// Changes what `section` says. Only the process in charge does so: `tgid` once, before it gives
    /// any hint, and `hinted` from any thread, always to 1.
    pub(crate) fn change(section: &impl MapCore, how: impl FnOnce(&mut policy_agent)) -> Result<()> {
        let bytes = section.lookup(&KEY, MapFlags::ANY)?.context("the section is empty")?;
        let mut agent = policy_agent::of_bytes(&bytes).context("the section is of another layout")?;
        how(&mut agent);
        Ok(section.update(&KEY, &agent.to_bytes(), MapFlags::ANY)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_laid_out_as_bpf_reads_it() {
        let bytes = policy_agent { tgid: -2, hinted: 1 }.to_bytes();
        assert_eq!(bytes, [(-2i32).to_ne_bytes(), 1u32.to_ne_bytes()].concat()[..]);
        let agent = policy_agent::of_bytes(&bytes).unwrap();
        assert_eq!((agent.tgid, agent.hinted), (-2, 1));
        assert!(policy_agent::of_bytes(&bytes[..7]).is_none());
    }
}
