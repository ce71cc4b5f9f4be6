// SPDX-License-Identifier: GPL-2.0-only
//! What the process that measures is told, and what it tells: one JSON line an event on its stdout.
//!
//! The command that the user gave may run on another machine than the measuring (a virtual one), so the two talk
//! through this alone.

use serde::{Deserialize, Serialize};

use crate::model::{Cell, Failure, Machine, SwapCell};

/// Work for the process that measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What to do.
    pub task: Task,
    /// Rounds.
    pub rounds: u32,
    /// A short run of each workload before the first round that does not count: caches fill, pages are touched.
    pub warm_up_round: bool,
    /// Seed of the first round.
    pub seed: u64,
    /// Seconds to measure in a round; a family shares them.
    pub seconds: f64,
    /// Attach the latency probes.
    pub probes: bool,
    /// Iterations of the generators' loop a microsecond; measured if `None`.
    pub spins_per_us: Option<u64>,
}

/// What to do in each round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Each contender under each workload.
    Cells {
        /// The baseline first.
        contenders: Vec<NamedCommand>,
        /// Families, each a list of workloads that are run in one go.
        families: Vec<Vec<String>>,
    },
    /// Each way to swap, there and back.
    Swaps {
        /// Ways.
        vias: Vec<SwapVia>,
        /// Swaps of each in a round.
        swaps: u32,
    },
}

/// A contender that has been looked up: its label and the command that runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCommand {
    /// Name in reports.
    pub label: String,
    /// `None`: the kernel's default.
    pub command: Option<Vec<String>>,
}

/// A way to replace one scheduler by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapVia {
    /// Name in reports.
    pub label: String,
    /// How.
    pub how: SwapHow,
}

/// How one scheduler is replaced by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwapHow {
    /// A running scx_run is asked.
    Ask {
        /// The command that starts it with the first of the policies.
        start: Vec<String>,
        /// The policies.
        policies: [String; 2],
        /// By reload instead of slots.
        reload: bool,
    },
    /// One program is ended, the other started.
    Restart {
        /// What reports call them.
        names: [String; 2],
        /// To start with and to come back to, and the other one.
        commands: [Vec<String>; 2],
    },
}

/// What the process that measures tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Where it runs.
    Machine(Machine),
    /// What it does from here.
    Begin {
        /// Contender or way to swap.
        who: String,
        /// Workload.
        what: String,
        /// Counted from 0.
        round: u32,
    },
    /// A cell is complete.
    Cell(Cell),
    /// A swap is complete.
    Swap(SwapCell),
    /// Something did not work.
    Failed(Failure),
    /// All is done.
    Done,
}

impl Event {
    /// Names the contender, for a job that was not told its name.
    pub fn set_contender(&mut self, label: &str) {
        let name = match self {
            Event::Begin { who, .. } => who,
            Event::Cell(cell) => &mut cell.contender,
            // Without one it is about the workload.
            Event::Failed(failure) if !failure.contender.is_empty() => &mut failure.contender,
            _ => return,
        };
        *name = label.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_contenders_gets_its_name() {
        let failed = |contender: &str| {
            let (contender, message) = (contender.to_owned(), String::new());
            Event::Failed(Failure { contender, workload: None, round: 0, message })
        };
        let named = |mut event: Event| {
            event.set_contender("fifo");
            event
        };
        assert_eq!(named(failed("the contender")), failed("fifo"));
        assert_eq!(named(failed("")), failed(""), "a missing workload is nobody's");
    }
}
