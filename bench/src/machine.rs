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

/// In a deterministic machine a microsecond is a thousand instructions, and an iteration of the loop is four.
pub const DETERMINISTIC_SPINS_PER_US: u64 = 250;

/// Looks at this machine. `spins_per_us` is measured if it is not given.
pub fn look(workloads: &[&dyn Workload], spins_per_us: Option<u64>) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let cpus = thread::available_parallelism().context("cannot count the CPUs")?.get();
    let programs = workloads.iter().flat_map(|workload| workload.programs()).map(|name| (*name).to_owned());
    Ok(Machine {
        kernel: kernel::release(),
        cpu: model.unwrap_or("unknown").to_owned(),
        cpus: u32::try_from(cpus)?,
        memory_mib: kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) / 1024,
        cmdline: read("/proc/cmdline").trim().to_owned(),
        spins_per_us: spins_per_us.unwrap_or_else(calibrate),
        programs: programs.filter_map(|name| Some((name.clone(), version(&name)?))).collect::<BTreeMap<_, _>>(),
    })
}

/// The first line of what `program --version` prints.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().find(|line| !line.trim().is_empty())?.trim().to_owned())
}

/// Iterations of the loop a microsecond: the fastest of many short tries, which nothing has disturbed.
fn calibrate() -> u64 {
    const ITERATIONS: u64 = 100_000;
    const TRIES: usize = 50;
    let fastest = (0..TRIES)
        .map(|_| {
            let start = Instant::now();
            spin(ITERATIONS);
            start.elapsed()
        })
        .min()
        .unwrap_or(Duration::from_secs(1));
    (ITERATIONS * 1000 / u64::try_from(fastest.as_nanos()).unwrap_or(u64::MAX).max(1)).max(1)
}
