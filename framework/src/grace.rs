// SPDX-License-Identifier: GPL-2.0-only
//! Waiting until no CPU runs in a BPF program that was entered before.

use std::thread;

use anyhow::{Context as _, Result};

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
    if ret == 0 { Ok(()) } else { visit_all_cpus() }
}

fn visit_all_cpus() -> Result<()> {
    for cpu in 0..*scx_utils::NR_CPU_IDS {
        thread::Builder::new()
            .spawn(move || visit(cpu))
            .and_then(|visitor| visitor.join().map_err(|_| std::io::Error::other("it panicked")))
            .with_context(|| format!("a visit to CPU {cpu}"))?;
    }
    Ok(())
}

/// Goes to that CPU and ends there. A CPU that is offline or absent runs no op: there the error is the answer.
fn visit(cpu: usize) {
    // Under a policy whose slices do not end it would wait for ever otherwise.
    become_class(libc::SCHED_FIFO, 1);
    if affinity::keep_to(cpu).is_ok() {
        // Before v7.0 a task that takes over from one of a higher class is left without ticks, whatever its slice.
        become_class(libc::SCHED_OTHER, 0);
    }
}

fn become_class(policy: libc::c_int, priority: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are valid for the call. Without the right to it the thread visits as it is.
    unsafe { libc::sched_setscheduler(0, policy, &parameters) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visiting_all_cpus_leaves_the_caller_where_it_was() {
        let before = affinity::get().unwrap();
        visit_all_cpus().unwrap();
        assert_eq!(before, affinity::get().unwrap());
    }
}
