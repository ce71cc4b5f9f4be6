// SPDX-License-Identifier: GPL-2.0-only
//! Waiting until no CPU runs in a BPF program that was entered before.

use anyhow::Result;
use rustix::thread::CpuSet;

use crate::affinity;

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
    let before = affinity::get()?;
    for cpu in 0..CpuSet::MAX_CPU {
        // A CPU that is offline or absent runs no op: the error is the answer.
        let _ = affinity::keep_to(cpu);
    }
    affinity::set(&before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visiting_all_cpus_restores_the_affinity() {
        let before = affinity::get().unwrap();
        visit_all_cpus().unwrap();
        assert_eq!(before, affinity::get().unwrap());
    }
}
