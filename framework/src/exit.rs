// SPDX-License-Identifier: GPL-2.0-only
//! Why a scheduler ended, in plain words.

use std::ffi::CStr;

use anyhow::{Context, Result};
use libbpf_rs::Object;
use scx_utils::UserExitInfo;

use crate::globals::{Globals, read_section};
use crate::intf::{uei_sizes_UEI_MSG_LEN, uei_sizes_UEI_REASON_LEN, user_exit_info};

/// Smallest `scx_exit_kind` that is an error.
const SCX_EXIT_ERROR: i32 = 1024;

/// What the kernel recorded when a scheduler ended.
pub struct ExitInfo {
    /// `scx_exit_kind`: 0 while the scheduler runs.
    pub kind: i32,
    /// The kernel's word for the kind, such as "runnable task stall".
    pub reason: String,
    /// The details.
    pub message: String,
    /// The kernel's debug dump, if there is one.
    pub dump: String,
    info: UserExitInfo,
}

impl ExitInfo {
    /// Reads the exit information of an object that has a `uei` (`UEI_DEFINE(uei)`).
    pub(crate) fn read(object: &Object, globals: &Globals) -> Result<Self> {
        let bytes = globals.read(object, "uei").context("reading why the scheduler ended")?;
        let mut dump = read_section(object, ".data.uei_dump").unwrap_or_default();
        dump.push(0);
        anyhow::ensure!(
            bytes.len() == size_of::<user_exit_info>(),
            "the object's exit information has another layout"
        );
        // SAFETY: the bytes are a user_exit_info, checked by size; it is plain data, valid for any contents.
        let mut raw: user_exit_info = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        // BPF always terminates them; a torn read while it writes need not be.
        raw.reason[uei_sizes_UEI_REASON_LEN as usize - 1] = 0;
        raw.msg[uei_sizes_UEI_MSG_LEN as usize - 1] = 0;
        let text = |chars: &[std::ffi::c_char]| {
            // SAFETY: the last character has just been set to 0.
            unsafe { CStr::from_ptr(chars.as_ptr()) }.to_string_lossy().into_owned()
        };
        let dump_text = CStr::from_bytes_until_nul(&dump).unwrap_or_default();
        let info = UserExitInfo::new(
            &raw.kind,
            &raw.exit_code,
            &raw.exit_cpu,
            raw.reason.as_ptr(),
            raw.msg.as_ptr(),
            std::ptr::null(),
        );
        Ok(ExitInfo {
            kind: raw.kind,
            reason: text(&raw.reason),
            message: text(&raw.msg),
            dump: dump_text.to_string_lossy().into_owned(),
            info,
        })
    }

    /// Whether an object's scheduler has ended: cheap enough to ask all the time.
    pub(crate) fn has_ended(object: &Object, globals: &Globals) -> Result<bool> {
        // `kind` comes first in the struct and is written last.
        Ok(globals.read(object, "uei")?.first_chunk::<4>().is_some_and(|kind| i32::from_ne_bytes(*kind) != 0))
    }

    /// Whether the scheduler has ended.
    pub fn ended(&self) -> bool {
        self.kind != 0
    }

    /// Whether it ended with an error, as opposed to being detached.
    pub fn is_error(&self) -> bool {
        self.kind >= SCX_EXIT_ERROR
    }

    /// Whether the kernel asks for the scheduler to be attached again (CPU hotplug).
    pub fn wants_restart(&self) -> bool {
        self.info.should_restart()
    }

    /// The reason in plain words, under the name of the policy that was active.
    pub fn explain(&self, policy: &str) -> String {
        let cpu = self.info.exit_cpu().map(|cpu| format!(" on CPU {cpu}")).unwrap_or_default();
        if let Some(stall) = Stall::parse(&self.message) {
            return format!(
                "policy {policy} was ended by the kernel: task {} (pid {}) was ready to run for {} s and policy \
                 {policy} did not run it{}; EXIT: {} ({})",
                stall.comm,
                stall.pid,
                stall.seconds,
                stall.cpu.map(|cpu| format!(" (last on CPU {cpu})")).unwrap_or(cpu),
                self.reason,
                self.message
            );
        }
        let who = if self.is_error() { "was ended by the kernel" } else { "ended" };
        let details = if self.message.is_empty() { String::new() } else { format!(" ({})", self.message) };
        format!("policy {policy} {who}{cpu}; EXIT: {}{details}", self.reason)
    }
}

/// The kernel's message about a task that was not run: `COMM[PID] failed to run for 5.123s`.
#[derive(Debug, PartialEq)]
struct Stall<'a> {
    comm: &'a str,
    pid: u32,
    seconds: &'a str,
    cpu: Option<u32>,
}

impl<'a> Stall<'a> {
    fn parse(message: &'a str) -> Option<Self> {
        let (task, rest) = message.split_once(" failed to run for ")?;
        let (comm, pid) = task.rsplit_once('[')?;
        let seconds = rest.split('s').next()?;
        let cpu = rest
            .split_once("CPU")
            .and_then(|(_, cpu)| cpu.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        Some(Stall { comm, pid: pid.strip_suffix(']')?.parse().ok()?, seconds, cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_taken_apart() {
        let stall = Stall::parse("stress-ng [x][4711] failed to run for 5.120s");
        assert_eq!(stall, Some(Stall { comm: "stress-ng [x]", pid: 4711, seconds: "5.120", cpu: None }));
        let newer = Stall::parse("victim[12] failed to run for 2.004s on CPU 3").unwrap();
        assert_eq!(newer.cpu, Some(3));
        assert_eq!(Stall::parse("DSQ 0x1 does not exist"), None);
    }
}
