// SPDX-License-Identifier: GPL-2.0-only
//! What is said on the socket on which a program asks for itself: one JSON line, and one back.

use serde::{Deserialize, Serialize};

/// Name of the socket, in the directory of the running scx_run.
pub const SOCKET: &str = "hints.sock";

/// What a program asks. Who it is the socket says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRequest {
    /// Its thread, by the id that the program itself knows (`gettid`); if it is left out, all threads of the process
    /// and those that it starts later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<i32>,
    /// The hint, as [`crate::HOW`] has it; if it is left out, the one that was given is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnResponse {
    /// So many threads have the hint, or had the one that is gone.
    Threads(usize),
    /// It was not done: one line that says why.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_the_ones_of_the_documentation() {
        let request = OwnRequest { thread: Some(4711), hint: Some("class=latency".into()) };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"thread":4711,"hint":"class=latency"}"#);
        assert_eq!(serde_json::to_string(&OwnRequest::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<OwnRequest>(r#"{"hints":"class=latency"}"#).is_err());
        assert_eq!(serde_json::to_string(&OwnResponse::Threads(1)).unwrap(), r#"{"threads":1}"#);
        assert_eq!(serde_json::to_string(&OwnResponse::Error("no".into())).unwrap(), r#"{"error":"no"}"#);
    }
}
