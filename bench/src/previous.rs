// SPDX-License-Identifier: GPL-2.0-only
//! The scheduler that was attached before us: it is ended, and started again when we are through.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use framework::kernel::{KernelState, is_enabled};

use crate::attach::wait_until;

const PATIENCE: Duration = Duration::from_secs(30);

/// Who has attached the present scheduler, and how to bring it back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    /// A service of systemd's.
    Service(String),
    /// A program that somebody started.
    Program { pid: i32, command: Vec<String> },
}

/// The scheduler that was there before us. Dropping it brings it back.
pub struct Previous {
    ops: String,
    owner: Owner,
}

impl Previous {
    /// Ends the attached scheduler, if there is one.
    pub fn end() -> Result<Option<Self>> {
        let state = KernelState::read();
        if !state.enabled() {
            return Ok(None);
        }
        let ops = state.ops.unwrap_or_else(|| "unknown".into());
        let Some(owner) = find_owner() else {
            bail!(
                "scheduler {ops} is attached, and no process owns it that could be restarted later; detach it first"
            );
        };
        eprintln!("scx_bench: scheduler {ops} is attached; it is ended now and started again afterwards");
        owner.end().with_context(|| format!("cannot end scheduler {ops}"))?;
        wait_for(false).with_context(|| format!("scheduler {ops} does not end"))?;
        Ok(Some(Previous { ops, owner }))
    }
}

impl Drop for Previous {
    fn drop(&mut self) {
        let back = wait_for(false).and_then(|()| self.owner.start()).and_then(|()| wait_for(true));
        match back {
            Ok(()) => eprintln!("scx_bench: scheduler {} is back", self.ops),
            Err(error) => {
                eprintln!("scx_bench: scheduler {} could not be started again: {error:#}", self.ops)
            }
        }
    }
}

impl Owner {
    fn end(&self) -> Result<()> {
        match self {
            Owner::Service(unit) => systemctl("stop", unit),
            Owner::Program { pid, .. } => {
                // SAFETY: kill takes plain integers.
                if unsafe { libc::kill(*pid, libc::SIGINT) } != 0 {
                    return Err(std::io::Error::last_os_error()).context("SIGINT");
                }
                Ok(())
            }
        }
    }

    fn start(&self) -> Result<()> {
        match self {
            Owner::Service(unit) => systemctl("start", unit),
            Owner::Program { command, .. } => Command::new(&command[0])
                .args(&command[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .map(drop)
                .with_context(|| format!("cannot run {}", command.join(" "))),
        }
    }
}

fn systemctl(verb: &str, unit: &str) -> Result<()> {
    let status = Command::new("systemctl").args([verb, unit]).status().context("cannot run systemctl")?;
    if !status.success() {
        bail!("systemctl {verb} {unit}: {status}");
    }
    Ok(())
}

fn wait_for(enabled: bool) -> Result<()> {
    if !wait_until(PATIENCE, || is_enabled() == enabled) {
        bail!("the state is still {} after {PATIENCE:?}", KernelState::read().state);
    }
    Ok(())
}

/// The process that holds a struct_ops link or map of the attached scheduler.
fn find_owner() -> Option<Owner> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| holds_struct_ops(&Path::new("/proc").join(pid.to_string()))).find_map(owner)
}

/// Whether a descriptor of a process is a struct_ops link, as `/proc/PID/fdinfo` has it.
fn holds_struct_ops(process: &Path) -> bool {
    let Ok(entries) = fs::read_dir(process.join("fdinfo")) else { return false };
    entries.flatten().any(|entry| {
        fs::read_to_string(entry.path()).is_ok_and(|info| {
            info.lines()
                .any(|line| line.strip_prefix("link_type:").is_some_and(|kind| kind.trim() == "struct_ops"))
        })
    })
}

fn owner(pid: i32) -> Option<Owner> {
    let process = Path::new("/proc").join(pid.to_string());
    let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    if let Some(unit) = service(&cgroup) {
        return Some(Owner::Service(unit));
    }
    let cmdline = fs::read(process.join("cmdline")).ok()?;
    let mut command: Vec<_> = cmdline
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    // What was found in PATH, or relative to a folder, is found again wherever we are.
    if let (Some(program), Ok(exe)) = (command.first_mut(), fs::read_link(process.join("exe"))) {
        *program = exe.display().to_string();
    }
    (!command.is_empty()).then_some(Owner::Program { pid, command })
}

/// The systemd service in a `/proc/PID/cgroup`, such as `0::/system.slice/scx.service`.
fn service(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.strip_prefix("/system.slice/")?.split('/').next()?;
    unit.ends_with(".service").then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_cgroup() {
        assert_eq!(service("0::/system.slice/scx.service\n").as_deref(), Some("scx.service"));
        assert_eq!(service("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(service("0::/\n"), None);
    }
}
