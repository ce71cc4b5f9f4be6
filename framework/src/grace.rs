// SPDX-License-Identifier: GPL-2.0-only
//! Waiting until no CPU runs in a BPF program that was entered before.

use std::thread;

use anyhow::{Context as _, Result};
use rustix::thread::CpuSet;

use crate::affinity;

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits for an RCU grace period: every op that was running when this was called has returned.
///
/// `membarrier(2)` does exactly that in the kernel (`synchronize_rcu`), except on nohz_full kernels, which
/// refuse it. There a thread visits every CPU instead: a CPU that switches to it has left any op, since ops
/// run with preemption off. And a CPU without ticks has them again if the task that it goes back to has a slice that
/// ends: the kernel looks for that when it switches.
pub(crate) fn wait() -> Result<()> {
    // SAFETY: membarrier takes plain integers and touches no memory of ours.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret != 0 {
        // A thread of its own, to which nothing that is changed here has to be given back.
        thread::scope(|scope| scope.spawn(visit_all_cpus).join())
            .ok()
            .context("the visit to all CPUs failed")?;
    }
    Ok(())
}

fn visit_all_cpus() {
    // Under a policy whose slices do not end it would wait for ever otherwise.
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are valid for the call. Without the right to it the thread visits as it is.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &lowest) };
    for cpu in 0..CpuSet::MAX_CPU {
        // A CPU that is offline or absent runs no op: the error is the answer.
        let _ = affinity::keep_to(cpu);
    }
}
