// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel says of its sched_ext: read from sysfs each time, never remembered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// State of sched_ext as the kernel reports it in `/sys/kernel/sched_ext`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelState {
    /// `enabled`, `disabled`, `enabling`, `disabling`; `absent` if the kernel has no sched_ext.
    pub state: String,
    /// Name of the attached scheduler, if one is.
    pub ops: Option<String>,
    /// How often a scheduler has been enabled since boot; `None` on kernels that do not count it.
    pub enable_seq: Option<u64>,
    /// Tasks that were refused by a scheduler (`disallow`).
    pub nr_rejected: Option<u64>,
    /// Whether all normal tasks are under the scheduler (false: only SCHED_EXT ones).
    pub switch_all: bool,
    /// The scheduler's event counters (kernels from 6.15).
    pub events: BTreeMap<String, u64>,
}

const SYSFS: &str = "/sys/kernel/sched_ext";

impl KernelState {
    /// Reads the present state.
    pub fn read() -> Self {
        Self::read_from(Path::new(SYSFS))
    }

    fn read_from(dir: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok().map(|s| s.trim().to_owned());
        let number = |name: &str| text(name)?.parse().ok();
        KernelState {
            state: text("state").unwrap_or_else(|| "absent".into()),
            ops: text("root/ops").filter(|name| !name.is_empty()),
            enable_seq: number("enable_seq"),
            nr_rejected: number("nr_rejected"),
            switch_all: number("switch_all") == Some(1),
            events: text("root/events").map(|t| parse_events(&t)).unwrap_or_default(),
        }
    }

    /// Whether the kernel has sched_ext at all.
    pub fn present(&self) -> bool {
        self.state != "absent"
    }

    /// Whether a scheduler is attached and in charge.
    pub fn enabled(&self) -> bool {
        self.state == "enabled"
    }
}

/// Whether a scheduler is attached and in charge, for those who ask often: reads that alone.
pub fn is_enabled() -> bool {
    fs::read(Path::new(SYSFS).join("state")).is_ok_and(|state| state.trim_ascii() == b"enabled")
}

/// Parses lines of `NAME VALUE`.
fn parse_events(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// CLOCK_MONOTONIC, ns: the time that processes of one machine share.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// A clock that every kernel has, ns.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is valid for writes. A clock that is not there would leave it 0.
    unsafe { libc::clock_gettime(clock, &mut at) };
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0)
}

/// Path of the kernel's own type information.
pub fn btf_path() -> PathBuf {
    "/sys/kernel/btf/vmlinux".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_sched_ext_is_absent() {
        let state = KernelState::read_from(Path::new("/nonexistent"));
        assert_eq!(state.state, "absent");
        assert!(!state.present() && !state.enabled() && state.ops.is_none());
    }

    #[test]
    fn events_are_name_value_lines() {
        let events = parse_events("SCX_EV_A 3\nSCX_EV_B 0\nnoise\n");
        assert_eq!(events, BTreeMap::from([("SCX_EV_A".into(), 3), ("SCX_EV_B".into(), 0)]));
    }
}
