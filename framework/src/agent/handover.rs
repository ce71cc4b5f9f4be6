// SPDX-License-Identifier: GPL-2.0-only
//! What a policy knows of its tasks, on its way to the process that takes over.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TaskId;

/// What a policy has [saved](super::Policy::save) of its tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Saved {
    /// The [version](super::Policy::state_version) of the states.
    version: u32,
    tasks: HashMap<u32, SavedTask>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedTask {
    /// The number of a task is another's when it has died.
    pid: i32,
    state: Value,
}

impl Saved {
    pub(super) fn new(version: u32) -> Self {
        Saved { version, tasks: HashMap::new() }
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn add(&mut self, TaskId(task): TaskId, pid: i32, state: Value) {
        self.tasks.insert(task, SavedTask { pid, state });
    }

    /// The state of a task, if it is still the same.
    pub(super) fn of(&self, TaskId(task): TaskId, pid: i32) -> Option<Value> {
        self.tasks.get(&task).filter(|saved| saved.pid == pid).map(|saved| saved.state.clone())
    }

    /// Adds what another agent of the same policy has saved.
    pub(super) fn merge(mut self, other: Saved) -> Self {
        self.tasks.extend(other.tasks);
        self
    }
}
