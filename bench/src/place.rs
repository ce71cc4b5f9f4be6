// SPDX-License-Identifier: GPL-2.0-only
//! Where to measure: on this machine, or in virtual machines that `scripts/vm` starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use framework::doctor::is_root;
use framework::kernel::KernelState;

use crate::job::Job;
use crate::model::Mode;
use crate::programs::scx_run;

/// A virtual machine to measure in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    script: PathBuf,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Kernel series or image, as `scripts/vm --kernel` takes it.
    pub kernel: Option<String>,
    /// Guest time is the instruction count.
    pub deterministic: bool,
    /// Files that the guest needs.
    pub files: Vec<PathBuf>,
}

/// Where to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Host,
    /// In a virtual machine.
    Vm(Vm),
}

/// What the user wants of the place.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Kernel series or image of the virtual machine.
    pub kernel: Option<String>,
    /// A virtual machine even where this one would do.
    pub vm: bool,
    /// Guest time is the instruction count.
    pub deterministic: bool,
    /// Files that a guest needs.
    pub files: Vec<PathBuf>,
}

/// Virtual CPUs unless something else is asked for.
const DEFAULT_CPUS: u32 = 4;

impl Place {
    /// Chooses, and says why in a few words.
    pub fn choose(wishes: Wishes) -> Result<(Place, String)> {
        let why = if wishes.deterministic {
            "deterministic mode"
        } else if wishes.vm {
            "--vm"
        } else if !KernelState::read().present() {
            "this kernel has no sched_ext"
        } else if !is_root() {
            "not root"
        } else if let Some(cpus) = wishes.cpus {
            bail!("--cpus {cpus} is for virtual machines; add --vm or --deterministic, or leave it out");
        } else {
            return Ok((Place::Host, "on this machine".into()));
        };
        let script = script().with_context(|| format!("{why}, and there is no virtual machine either"))?;
        let mode = if wishes.deterministic { "virtual machines" } else { "a virtual machine" };
        let vm = Vm {
            script,
            cpus: wishes.cpus.unwrap_or(DEFAULT_CPUS),
            kernel: wishes.kernel,
            deterministic: wishes.deterministic,
            files: wishes.files,
        };
        Ok((Place::Vm(vm), format!("in {mode} ({why})")))
    }

    /// The mode that a report names.
    pub fn mode(&self) -> Mode {
        match self {
            Place::Host => Mode::Host,
            Place::Vm(vm) if vm.deterministic => Mode::Deterministic,
            Place::Vm(_) => Mode::Vm,
        }
    }

    /// Virtual CPUs; 1 for the host, where nobody asks.
    pub fn cpus(&self) -> u32 {
        match self {
            Place::Host => 1,
            Place::Vm(vm) => vm.cpus,
        }
    }

    /// The same place with another number of CPUs.
    pub fn with_cpus(&self, cpus: u32) -> Place {
        match self {
            Place::Host => Place::Host,
            Place::Vm(vm) => Place::Vm(Vm { cpus, ..vm.clone() }),
        }
    }

    /// The command that does a job there. A later attempt boots a little differently: a deterministic machine that
    /// died would do so again.
    pub fn command(&self, job: &Job, attempt: u32) -> Result<Command> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let job_text = serde_json::to_string(job)?;
        let mut command = match self {
            Place::Host => Command::new(&program),
            Place::Vm(vm) => {
                let mut command = Command::new(&vm.script);
                command.args([
                    "--timeout",
                    "0",
                    "--memory",
                    &memory(vm.cpus),
                    "--cpus",
                    &vm.cpus.to_string(),
                ]);
                if let Some(kernel) = &vm.kernel {
                    command.args(["--kernel", kernel]);
                }
                if vm.deterministic {
                    command.args(["--deterministic", "--seed", &job.seed.to_string()]);
                }
                if attempt > 0 {
                    command.args(["--append", &format!("scx_bench.attempt={attempt}")]);
                }
                for file in vm.files.iter().chain([&scx_run()?]) {
                    command.arg("--with").arg(file);
                }
                command.arg("--").arg(&program);
                command
            }
        };
        command.args(["measure", &job_text]);
        Ok(command)
    }
}

/// Guests get more memory with more CPUs: per-CPU data, and threads. In whole GiB, which kernels map best.
fn memory(cpus: u32) -> String {
    format!("{}G", 2 + cpus.div_ceil(16))
}

/// `scripts/vm` of the tree that this program was built in, or what `SCX_VM_SCRIPT` names.
fn script() -> Result<PathBuf> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm");
    let script = std::env::var_os("SCX_VM_SCRIPT").map_or(built_in, PathBuf::from);
    if !script.is_file() {
        bail!("there is no {}; set SCX_VM_SCRIPT to the project's scripts/vm", script.display());
    }
    script.canonicalize().with_context(|| format!("cannot find {}", script.display()))
}
