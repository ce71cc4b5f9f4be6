// SPDX-License-Identifier: GPL-2.0-only
//! Control groups of different weights, with always-running processes in them.

use std::fs;
use std::io::{PipeReader, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::model::{Measured, WorkloadSpec};
use crate::workload::command::Group;
use crate::workload::threads::{Body, run_threads};
use crate::workload::{Context, PhaseCell, Workload};

/// Where cgroup v2 is mounted by everyone.
const ROOT: &str = "/sys/fs/cgroup";
/// `cpu.weight` of the groups.
const WEIGHTS: [u32; 2] = [100, 300];
/// Processes a CPU in each group, so that neither runs out of them on any CPU.
const PROCESSES: u32 = 2;
/// How often the phase is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Two control groups that always want all CPUs.
pub struct FairGroups;

impl Workload for FairGroups {
    fn spec(&self) -> WorkloadSpec {
        WorkloadSpec {
            name: "fairness-cgroup".into(),
            family: "fairness".into(),
            description: format!(
                "two cgroups with cpu.weight {WEIGHTS:?}, {PROCESSES} always-running processes a CPU in each: CPU \
                 time against the weights (Jain's index, largest relative error)"
            ),
            command: None,
            metrics: super::metrics(),
        }
    }

    fn missing(&self) -> Option<String> {
        let has_cpu = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))
            .is_ok_and(|controllers| controllers.split_whitespace().any(|one| one == "cpu"));
        if !has_cpu {
            return Some(format!(
                "{ROOT} is no cgroup v2 with the cpu controller; mount it (systemd.unified_cgroup_hierarchy=1)"
            ));
        }
        // SAFETY: the path ends with a NUL.
        let writable =
            unsafe { libc::access(c"/sys/fs/cgroup/cgroup.subtree_control".as_ptr(), libc::W_OK) } == 0;
        (!writable).then(|| format!("{ROOT} cannot be written to; run as root, with it mounted read-write"))
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let _controller = CpuController::enable()?;
        let mut groups = BusyGroups(Vec::new());
        // The processes wait until the other end is closed: with some of them busy, it would take long to start
        // the others under a contender that lets new ones wait.
        let (gate, keeper) = pipe().context("cannot make a pipe")?;
        for weight in WEIGHTS {
            let mut group = BusyGroup::new(weight)?;
            let started = (0..PROCESSES * context.cpus).try_for_each(|_| group.start_process(&gate));
            groups.0.push(group);
            started?;
        }
        drop((gate, keeper));
        let sampler = Body::new("sampler", |phase| sample(phase, &groups.0));
        let (times, took) = run_threads(context, vec![sampler])?;
        let times = times.into_iter().collect::<Result<Vec<_>>>()?.concat();
        let cap = took.as_micros() as f64 * f64::from(context.cpus);
        Ok(super::results(&times, &WEIGHTS.map(f64::from), cap)?.measured())
    }
}

/// Returns the CPU time that each group got while it was measured, us. If this thread is late, it is late for
/// all groups alike.
fn sample(phase: &PhaseCell, groups: &[BusyGroup]) -> Result<Vec<f64>> {
    let usage = || groups.iter().map(BusyGroup::usage).collect::<Result<Vec<u64>>>();
    while !phase.measuring() && !phase.over() {
        thread::sleep(LOOK);
    }
    let before = usage()?;
    while !phase.over() {
        thread::sleep(LOOK);
    }
    Ok(usage()?.iter().zip(before).map(|(after, before)| (after - before) as f64).collect())
}

/// Sees to it that children of the root have `cpu.weight`, and that all is as before when it is dropped.
struct CpuController {
    was_off: bool,
}

impl CpuController {
    fn enable() -> Result<Self> {
        let file = Path::new(ROOT).join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let was_off = !enabled.split_whitespace().any(|one| one == "cpu");
        if was_off {
            write(&file, "+cpu")?;
        }
        Ok(CpuController { was_off })
    }
}

impl Drop for CpuController {
    fn drop(&mut self) {
        if self.was_off {
            // Somebody else may have begun to use it; then it stays.
            let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "-cpu");
        }
    }
}

/// Groups that end together.
struct BusyGroups(Vec<BusyGroup>);

impl Drop for BusyGroups {
    fn drop(&mut self) {
        // All are killed before any is waited for: it takes CPU time to die, and the others leave none.
        self.0.iter().flat_map(|group| &group.processes).for_each(Group::kill);
    }
}

/// A control group and its processes; both are gone when it is dropped.
struct BusyGroup {
    path: PathBuf,
    processes: Vec<Group>,
}

impl BusyGroup {
    fn new(weight: u32) -> Result<Self> {
        let path = Path::new(ROOT).join(format!("scx_bench-{}-{weight}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let group = BusyGroup { path, processes: Vec::new() };
        write(&group.path.join("cpu.weight"), &weight.to_string())?;
        Ok(group)
    }

    fn start_process(&mut self, gate: &PipeReader) -> Result<()> {
        let gate = gate.try_clone().context("cannot duplicate a descriptor")?;
        let mut busy = Command::new("sh");
        busy.args(["-c", "read line; while :; do :; done"]).stdin(gate).stdout(Stdio::null());
        let process = Group::start(&mut busy).context("cannot start sh")?;
        let moved = write(&self.path.join("cgroup.procs"), &process.id().to_string());
        self.processes.push(process);
        moved
    }

    fn usage(&self) -> Result<u64> {
        let file = self.path.join("cpu.stat");
        let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        usage_us(&stat).with_context(|| format!("{} has no usage_usec", file.display()))
    }
}

impl Drop for BusyGroup {
    fn drop(&mut self) {
        self.processes.clear();
        // The kernel may still be busy with the last of them.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {text} to {}", file.display()))
}

fn usage_us(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usage() {
        assert_eq!(usage_us("usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n"), Some(1234));
        assert_eq!(usage_us("user_usec 1000\n"), None);
    }
}
