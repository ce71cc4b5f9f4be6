// SPDX-License-Identifier: GPL-2.0-only
//! What a program says of its own needs, to the `scx_run` that schedules it:
//!
//! ```no_run
//! let hint = "class=latency deadline=5ms".parse()?;
//! // No scx_run, or one that takes none from this user: the program runs as it would anyway.
//! let _ = scx_hint::hint_process(&hint);
//! # Ok::<(), scx_hint::ParseError>(())
//! ```
//!
//! It asks on a socket (docs/writing-a-policy.md has the protocol), links no BPF, and never waits for longer than
//! [`PATIENCE`]. Without any code the environment variable [`VARIABLE`] says the same.

mod client;
mod own;
mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use client::{Error, PATIENCE, clear_process, clear_thread, hint_process, hint_thread, run_dir};
pub use own::{OwnRequest, OwnResponse, SOCKET};
pub use parse::{HOW, ParseError, duration};

/// The environment variable in which a program finds its hint, and scx_run too.
pub const VARIABLE: &str = "SCX_HINT";

/// What matters most to a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing in particular.
    #[default]
    Normal,
    /// To run soon after it wakes up.
    Latency,
    /// To get much done: it can wait.
    Batch,
}

/// A hint. What is not said is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// It should have run this long after it woke up, ns.
    pub deadline_ns: Option<u64>,
    /// How long it wants to run at a time, ns.
    pub slice_ns: Option<u64>,
    /// What matters most to it.
    pub class: Class,
}

/// As it is parsed.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Normal => "normal",
            Class::Latency => "latency",
            Class::Batch => "batch",
        };
        write!(f, "class={class}")?;
        for (key, ns) in [("deadline", self.deadline_ns), ("slice", self.slice_ns)] {
            if let Some(ns) = ns {
                write!(f, " {key}={ns}ns")?;
            }
        }
        Ok(())
    }
}
