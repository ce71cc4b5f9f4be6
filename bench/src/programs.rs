// SPDX-License-Identifier: GPL-2.0-only
//! Other programs: where they are, that they end with us, what they said last.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The path of a program: `name` itself if it has a slash, else the first in PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return is_program(Path::new(name)).then(|| name.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// scx_run: the one beside this program, else the one in PATH.
pub fn scx_run() -> Result<PathBuf> {
    let beside = std::env::current_exe().context("cannot find this program")?.with_file_name("scx_run");
    if is_program(&beside) {
        return Ok(beside);
    }
    find_program("scx_run").with_context(|| {
        format!("there is no {} and none in PATH; build it with `cargo build --release`", beside.display())
    })
}

/// Names of the built-in policies, as scx_run lists them.
pub fn built_in_policies() -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Policy {
        name: String,
    }
    let scx_run = scx_run()?;
    let output = Command::new(&scx_run)
        .args(["list", "--json"])
        .output()
        .with_context(|| format!("cannot run {}", scx_run.display()))?;
    if !output.status.success() {
        bail!("{} list: {}", scx_run.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let policies: Vec<Policy> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} is of another version", scx_run.display()))?;
    Ok(policies.into_iter().map(|policy| policy.name).collect())
}

/// Has the kernel send `signal` to the command when this process dies, however it dies.
///
/// The command must be spawned by the main thread: the signal is sent when the thread that spawned it ends.
pub fn end_with_us(command: &mut Command, signal: i32) {
    let ask = move || {
        // SAFETY: prctl with these arguments takes plain integers and is async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure only makes a system call.
    unsafe { command.pre_exec(ask) };
}

/// The last lines of what a program has written, blank ones left out.
pub fn last_lines(text: &str, most: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(most)..].to_vec()
}

/// What each thread of a process waits for, as the kernel tells it: to say where one that does not end is stuck.
pub fn what_threads_wait_for(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads = tasks.map(|task| {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
        let stack = read("stack");
        let calls = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).take(6);
        let calls: Vec<_> = calls.map(|call| call.split('+').next().unwrap_or(call)).collect();
        format!("{} {state} {}", read("comm").trim(), calls.join(" < "))
    });
    threads.collect::<Vec<_>>().join("; ")
}
