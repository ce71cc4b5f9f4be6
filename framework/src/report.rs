// SPDX-License-Identifier: GPL-2.0-only
//! What is told to the user: reports of swaps, status. All of it serialises to JSON as documented here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::AgentStatus;
use crate::environ::EnvironStatus;
use crate::kernel::KernelState;
use crate::policy::PolicyInForce;
use crate::slow_path::SlowPathStatus;
use crate::swap::Via;

/// What a swap did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwapReport {
    /// The policy that was replaced.
    pub from: String,
    /// The policy that replaced it.
    pub to: String,
    /// How.
    pub via: Via,
    /// Loading and verifying the new policy, ms; 0 if it was still loaded. The old one was running meanwhile.
    pub verify_ms: f64,
    /// When the flip (for reload, the detach) began: CLOCK_MONOTONIC, ns.
    pub flipped_at_ns: u64,
    /// The flip itself, ns: one store for slots; detach and attach for reload.
    pub flip_ns: u64,
    /// From the flip until nothing was queued by the old policy any more, ms.
    pub drain_ms: f64,
    /// Tasks queued by the old policy at the flip, which the new one's dispatch drained.
    pub carried: u32,
    /// Tasks that were lost: 0 unless there is a bug.
    pub lost: u32,
    /// Length of each of the two measuring windows, ms.
    pub window_ms: f64,
    /// Longest run-queue wait that ended in the window before the flip, ns. `None` if nothing was measured.
    pub worst_before_ns: Option<u64>,
    /// Longest run-queue wait in the window across the flip, ns, waits that went on at its end included.
    pub worst_across_ns: Option<u64>,
    /// Time without a sched_ext scheduler, ns: 0 if the kernel counts no further enabling.
    pub outside_ns: u64,
    /// Why the swap was undone, if it was.
    pub undone: Option<String>,
}

impl SwapReport {
    /// Of a swap that is about to begin: nothing is measured yet.
    pub fn new(from: String, to: String, via: Via) -> Self {
        SwapReport {
            from,
            to,
            via,
            verify_ms: 0.0,
            flipped_at_ns: 0,
            flip_ns: 0,
            drain_ms: 0.0,
            carried: 0,
            lost: 0,
            window_ms: 0.0,
            worst_before_ns: None,
            worst_across_ns: None,
            outside_ns: 0,
            undone: None,
        }
    }
}

/// What a hand-over to another process did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpgradeReport {
    /// The process that has let go; `None` if there was none any more.
    pub from_pid: Option<u32>,
    /// The process that has taken over.
    pub to_pid: u32,
    /// Version of the one.
    pub from_version: String,
    /// Version of the other.
    pub to_version: String,
    /// The policy in force, before as after.
    pub policy: String,
    /// Loading everything anew, ms. The old process was at work meanwhile.
    pub load_ms: f64,
    /// From when the old process let go until the new one was in charge, ns. `None` if there was no old one.
    pub without_process_ns: Option<u64>,
    /// From the last moment at which the old agent decided until the new one did, ns. BPF alone decided meanwhile.
    /// `None` if the policy has no agent, or if there was no old one.
    pub without_agent_ns: Option<u64>,
    /// Tasks of which the new agent was given what the old one knew; it was told of all others as of new ones.
    #[serde(default)]
    pub restored: u64,
    /// Tasks that were lost: 0 unless there is a bug.
    pub lost: u32,
    /// Length of each of the two measuring windows, ms.
    pub window_ms: f64,
    /// Longest run-queue wait that ended in the window before, ns. `None` if nothing was measured.
    pub worst_before_ns: Option<u64>,
    /// Longest run-queue wait in the window across the hand-over, ns, waits that went on at its end included.
    pub worst_across_ns: Option<u64>,
    /// Time without a sched_ext scheduler, ns: 0 if the kernel counts no further enabling.
    pub outside_ns: u64,
}

/// A slot and what is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Number of the slot.
    pub slot: usize,
    /// `active`, `draining`, `held`, `loaded`.
    pub role: String,
    /// The policy.
    pub policy: PolicyInForce,
    /// What its agent has done, if a process decides for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// What its slow path has done, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_path: Option<SlowPathStatus>,
    /// What it has counted, by the names in its source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
}

/// What a running scx_run says of itself and of the kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The kernel's own account, read when asked.
    pub kernel: KernelState,
    /// Process id of scx_run.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// `slots` or `direct`.
    pub mode: String,
    /// Where a swap stands; `steady` if there is none.
    pub phase: String,
    /// Whether the scheduler stays attached when scx_run ends.
    #[serde(default)]
    pub keep: bool,
    /// What has come of hints in the environment, if anybody sees to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environ: Option<EnvironStatus>,
    /// Policies that are loaded.
    pub slots: Vec<SlotStatus>,
    /// Swaps so far, oldest first; the last [`KEEP_SWAPS`] at most.
    pub swaps: Vec<SwapReport>,
    /// Number of all swaps so far.
    pub nr_swaps: u64,
}

/// Swaps that are remembered with their figures.
pub const KEEP_SWAPS: usize = 100;
