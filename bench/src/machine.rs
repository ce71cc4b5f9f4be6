// SPDX-License-Identifier: GPL-2.0-only
//! The machine that is measured on: what it is, and how fast.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use framework::kernel;

use crate::model::Machine;
use crate::workload::{Workload, spin};

/// Iterations a microsecond in a deterministic machine: there it is a thousand instructions, which all CPUs share,
/// and an iteration is four.
pub fn deterministic_spins_per_us(cpus: u32) -> u64 {
    (250 / u64::from(cpus.max(1))).max(1)
}

/// Looks at this machine. `spins_per_us` is measured if it is not given.
pub fn look(workloads: &[&dyn Workload], spins_per_us: Option<u64>) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let cpus = u32::try_from(thread::available_parallelism().context("cannot count the CPUs")?.get())?;
    let programs = workloads.iter().flat_map(|workload| workload.programs()).map(|name| (*name).to_owned());
    Ok(Machine {
        kernel: kernel::release(),
        cpu: model.unwrap_or("unknown").to_owned(),
        accelerator: std::env::var("SCX_VM_ACCELERATOR").ok(),
        cpus,
        memory_mib: kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) / 1024,
        cmdline: read("/proc/cmdline").trim().to_owned(),
        spins_per_us: spins_per_us.unwrap_or_else(|| calibrate(cpus)),
        programs: programs
            .filter_map(|name| Some((name.clone(), version(&name)?)))
            .collect::<BTreeMap<_, _>>(),
    })
}

/// The first line of what `program --version` prints.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().find(|line| !line.trim().is_empty())?.trim().to_owned())
}

/// Iterations of the loop a microsecond, with all CPUs busy: emulated ones share a real one, and real ones share
/// power and heat. The fastest of several tries, which least has disturbed.
pub fn calibrate(cpus: u32) -> u64 {
    const ITERATIONS: u64 = 2_000_000;
    const TRIES: usize = 5;
    let fastest = (0..TRIES).map(|_| all_spin(cpus, ITERATIONS)).min().unwrap_or(Duration::from_secs(1));
    (ITERATIONS * 1000 / u64::try_from(fastest.as_nanos()).unwrap_or(u64::MAX).max(1)).max(1)
}

fn all_spin(cpus: u32, iterations: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| spin(iterations));
        }
    });
    start.elapsed()
}
