// SPDX-License-Identifier: GPL-2.0-only
//! Can this kernel run us, and if not, what is the one thing to change?

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::kernel::{self, KernelState};

/// Outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is as it has to be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do about it, if it is not ok.
    pub cure: Option<String>,
}

impl Check {
    fn new(name: &'static str, ok: bool, found: impl Into<String>, cure: &str) -> Self {
        Check { name, ok, found: found.into(), cure: (!ok).then(|| cure.to_owned()) }
    }
}

/// Everything that is checked, in the order in which to mend it.
pub fn examine() -> Vec<Check> {
    let mut checks = vec![sched_ext(&KernelState::read())];
    if checks[0].ok {
        checks.extend([btf(), jit(&sysctl("net/core/bpf_jit_enable")), tracer()]);
        checks.extend([isolcpus(&read("/proc/cmdline")), attached(&KernelState::read())]);
    }
    checks.extend([root(), memlock()]);
    checks
}

/// The first failed check as one line: what is wrong and what to do.
pub fn first_trouble() -> Option<String> {
    trouble(examine())
}

/// The same for loading a policy without attaching it: another scheduler may be attached.
pub fn first_trouble_for_loading() -> Option<String> {
    trouble(examine().into_iter().filter(|check| check.name != "scheduler").collect())
}

fn trouble(checks: Vec<Check>) -> Option<String> {
    let bad = checks.into_iter().find(|check| !check.ok)?;
    Some(format!("{}; {}", bad.found, bad.cure.unwrap_or_default()))
}

fn sched_ext(state: &KernelState) -> Check {
    let found = if state.present() {
        format!("kernel {} has sched_ext", kernel::release())
    } else {
        format!("kernel {} has no sched_ext", kernel::release())
    };
    Check::new(
        "sched_ext",
        state.present(),
        found,
        "boot a kernel built with CONFIG_SCHED_CLASS_EXT=y (6.12 or later; Debian's from 6.16), or use \
         ./scripts/scx_run, which runs one in a VM",
    )
}

fn btf() -> Check {
    let path = kernel::btf_path();
    if !path.exists() {
        return Check::new(
            "BTF",
            false,
            "the kernel has no BTF",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
    let malformed = scx_utils::compat::malformed_scx_kfuncs();
    let found = if malformed.is_empty() {
        "the kernel's BTF is present and well-formed".to_owned()
    } else {
        format!("the kernel's BTF describes {} wrongly", malformed.join(", "))
    };
    Check::new(
        "BTF",
        malformed.is_empty(),
        found,
        "boot another kernel: this one was built with pahole < 1.26",
    )
}

fn jit(value: &str) -> Check {
    // Without CONFIG_BPF_JIT_ALWAYS_ON the file says 0 when it is off; where it is always on it says 1.
    let on = value != "0";
    let found = if on { "the BPF JIT is on" } else { "the BPF JIT is off (attaching fails with ENOTSUPP)" };
    Check::new("JIT", on, found, "run: sysctl net.core.bpf_jit_enable=1")
}

fn tracer() -> Check {
    let ok = scx_utils::compat::function_tracer_available();
    let found = if ok { "the kernel has function tracing" } else { "the kernel has no function tracing" };
    Check::new("ftrace", ok, found, "boot a kernel built with CONFIG_FUNCTION_TRACER=y")
}

fn isolcpus(cmdline: &str) -> Check {
    let isolated = cmdline.split_whitespace().find(|arg| arg.starts_with("isolcpus="));
    // isolcpus with only nohz or managed_irq leaves the scheduling domains alone.
    let domain = isolated.is_some_and(|arg| {
        let flags: Vec<_> = arg["isolcpus=".len()..].split(',').collect();
        let named = flags.iter().any(|f| ["nohz", "managed_irq", "domain"].contains(f));
        !named || flags.contains(&"domain")
    });
    let found = match isolated {
        Some(arg) if domain => format!("the kernel was booted with {arg} (attaching fails with EINVAL)"),
        _ => "no CPUs are isolated".into(),
    };
    Check::new(
        "isolcpus",
        !domain,
        found,
        "remove it from the kernel command line; cpusets can isolate CPUs instead",
    )
}

fn attached(state: &KernelState) -> Check {
    let ops = state.ops.as_deref().unwrap_or("of unknown name");
    let ours = state.ops.as_deref().is_some_and(|ops| ops.starts_with("scx_run"));
    match (state.state.as_str(), ours) {
        ("disabled", _) => Check::new("scheduler", true, "no sched_ext scheduler is attached", ""),
        (_, true) => Check::new("scheduler", true, format!("scx_run is attached ({ops})"), ""),
        (how, false) => Check::new(
            "scheduler",
            false,
            format!("another scheduler is attached: {ops} ({how})"),
            "stop it first: only one sched_ext scheduler can be attached",
        ),
    }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

fn root() -> Check {
    let ok = is_root();
    let found = if ok { "running as root" } else { "not running as root" };
    Check::new("root", ok, found, "run it with sudo")
}

fn memlock() -> Check {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    // BPF memory is charged to the cgroup since 5.11; only locking our own pages counts here.
    let ok = !known || limit.rlim_max >= 8 << 20 || is_root();
    let found = if ok {
        "memory can be locked".to_owned()
    } else {
        format!("memlock limit is {} bytes", limit.rlim_max)
    };
    Check::new("memlock", ok, found, "run: ulimit -l unlimited")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn sysctl(name: &str) -> String {
    read(&Path::new("/proc/sys").join(name).display().to_string()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn state(state: &str, ops: Option<&str>) -> KernelState {
        KernelState {
            state: state.into(),
            ops: ops.map(Into::into),
            enable_seq: None,
            nr_rejected: None,
            switch_all: false,
            events: BTreeMap::new(),
        }
    }

    #[test]
    fn a_kernel_without_sched_ext() {
        let check = sched_ext(&state("absent", None));
        assert!(!check.ok && check.cure.unwrap().contains("CONFIG_SCHED_CLASS_EXT"));
    }

    #[test]
    fn another_scheduler_is_named() {
        let check = attached(&state("enabled", Some("bpfland")));
        assert!(!check.ok && check.found.contains("bpfland"));
        assert!(attached(&state("enabled", Some("scx_run_0.1.0"))).ok);
        assert!(attached(&state("disabled", None)).ok);
    }

    #[test]
    fn only_domain_isolation_is_trouble() {
        assert!(!isolcpus("quiet isolcpus=2-3 rw").ok);
        assert!(!isolcpus("isolcpus=domain,nohz,2-3").ok);
        assert!(isolcpus("isolcpus=nohz,2-3").ok);
        assert!(isolcpus("quiet").ok);
    }

    #[test]
    fn jit_off_is_trouble() {
        assert!(!jit("0").ok && jit("1").ok && jit("").ok);
    }
}
