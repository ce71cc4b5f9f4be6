// SPDX-License-Identifier: GPL-2.0-only
//! A framework for pluggable CPU schedulers on Linux's sched_ext.
//!
//! | module | what it is for |
//! |---|---|
//! | [`kernel`] | what the kernel says of itself: state, attached scheduler, event counters |
//! | [`doctor`] | whether this kernel can run us, and the one thing to change if not |
//! | [`policy`] | a policy's object file: description, parameters, loading |
//! | [`root`] | the root scheduler and its slots |
//! | [`direct`] | a policy attached by itself, without the root |
//! | [`agent`] | policies in Rust: messages, transactions, a simulated kernel |
//! | [`slow_path`] | halves in Rust of policies that schedule in BPF |
//! | [`llc`] | last-level caches, for policies that have a queue for each |
//! | [`pins`] | a scheduler that outlives its process: what is pinned in bpffs |
//! | [`swap`] | the swap protocol as a state machine, without a kernel |
//! | [`engine`] | runs policies: drives swaps, measures, watches for trouble |
//! | [`census`] | who waits, and for how long: finds lost tasks |
//! | [`hints`] | what users say of the needs of tasks |
//! | [`environ`] | hints in the environment of programs |
//! | [`latency`] | latency of scheduling, for any scheduler |
//! | [`exit`] | why the kernel threw a scheduler out, in plain words |
//! | [`affinity`] | the CPUs that a thread may run on |
//! | [`signals`] | being told to end |
//! | [`control`] | the control socket of a running `scx_run` |

pub mod affinity;
pub mod agent;
mod agent_section;
pub mod census;
pub mod control;
mod cores;
pub mod direct;
pub mod doctor;
pub mod engine;
pub mod environ;
pub mod exit;
mod globals;
mod grace;
pub mod hints;
pub mod kernel;
pub mod latency;
mod libbpf_log;
pub mod llc;
pub mod pins;
pub mod policy;
pub mod report;
pub mod root;
mod scheduler;
pub mod signals;
pub mod slow_path;
pub mod swap;

/// Version of this framework, and of everything in the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use libbpf_log::capture as capture_libbpf_log;

/// Types and constants shared with the BPF programs (`bpf/include/intf.h`).
#[allow(non_upper_case_globals, non_camel_case_types, missing_docs, clippy::all, dead_code)]
pub(crate) mod intf {
    include!(concat!(env!("OUT_DIR"), "/bpf_intf.rs"));
}
