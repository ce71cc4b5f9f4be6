// SPDX-License-Identifier: GPL-2.0-only
//! Waiting until no CPU runs in a BPF program that was entered before.

use std::io;

use anyhow::{Result, bail};

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits for an RCU grace period: every op that was running when this was called has returned.
///
/// `membarrier(2)` does exactly that in the kernel (`synchronize_rcu`), except on nohz_full kernels, which
/// refuse it. There this thread visits every CPU instead: a CPU that switches to it has left any op, since ops
/// run with preemption off.
pub(crate) fn wait() -> Result<()> {
    // SAFETY: membarrier takes plain integers and touches no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret == 0 { Ok(()) } else { visit_all_cpus() }
}

fn visit_all_cpus() -> Result<()> {
    let before = affinity()?;
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: all-zeroes is a valid, empty cpu_set_t.
        let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cpu` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut one) };
        // A CPU that is offline or absent runs no op: the error is the answer.
        let _ = set_affinity(&one);
    }
    set_affinity(&before)
}

fn affinity() -> Result<libc::cpu_set_t> {
    // SAFETY: all-zeroes is a valid, empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes of the size passed.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        bail!("reading this thread's affinity: {}", io::Error::last_os_error());
    }
    Ok(set)
}

fn set_affinity(set: &libc::cpu_set_t) -> Result<()> {
    // SAFETY: `set` is valid for reads of the size passed.
    if unsafe { libc::sched_setaffinity(0, size_of_val(set), set) } != 0 {
        bail!("setting this thread's affinity: {}", io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visiting_all_cpus_restores_the_affinity() {
        let before = affinity().unwrap();
        visit_all_cpus().unwrap();
        // SAFETY: both sets are initialised.
        assert!(unsafe { libc::CPU_EQUAL(&before, &affinity().unwrap()) });
    }
}
