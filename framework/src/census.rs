// SPDX-License-Identifier: GPL-2.0-only
//! The census: which tasks are runnable, not running, and for how long.
//!
//! It answers two questions the latency probes cannot, since those see a wait only when it ends: who is
//! waiting now, and has a swap lost anybody? A task is lost if it is runnable and no queue holds it, so that
//! nobody will ever run it, or if a queue holds it that nobody serves any more. A task on its way from one
//! queue to another looks like that for an instant; a lost one looks so twice with no run in between.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::{Iter, Link};

use crate::intf::census_entry;

/// A task that waits for a CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its thread id.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// The CPU whose run queue it is on.
    pub cpu: i32,
    /// The DSQ it is on; `None` if it is on none.
    pub dsq: Option<u64>,
    /// How long it has been waiting, to the kernel's tick.
    pub waited: Duration,
    /// Does not change while it waits.
    runnable_at: u64,
}

/// Time between the two looks. Longer than any task is between queues.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// Everybody who waits now.
pub fn take(iterator: &Link) -> Result<Vec<Waiting>> {
    let mut bytes = Vec::new();
    Iter::new(iterator)
        .context("starting the census")?
        .read_to_end(&mut bytes)
        .context("reading the census")?;
    Ok(bytes.chunks_exact(size_of::<census_entry>()).map(parse).collect())
}

/// Those who are lost: seen twice as `is_orphaned` without having run in between.
///
/// Takes no second look, and no time, if the first finds nobody.
pub fn lost(iterator: &Link, is_orphaned: impl Fn(&Waiting) -> bool) -> Result<Vec<Waiting>> {
    let look = || -> Result<Vec<Waiting>> { Ok(take(iterator)?.into_iter().filter(&is_orphaned).collect()) };
    let mut suspects = look()?;
    // Two more looks: a task can be caught between queues twice by chance, hardly three times.
    for _ in 0..2 {
        if suspects.is_empty() {
            break;
        }
        thread::sleep(SECOND_LOOK);
        suspects = still_there(&suspects, look()?);
    }
    Ok(suspects)
}

fn still_there(before: &[Waiting], now: Vec<Waiting>) -> Vec<Waiting> {
    let before: BTreeSet<_> = before.iter().map(|task| (task.pid, task.runnable_at)).collect();
    now.into_iter().filter(|task| before.contains(&(task.pid, task.runnable_at))).collect()
}

fn parse(bytes: &[u8]) -> Waiting {
    // SAFETY: the chunk has the size of the entry, which is plain data and valid for any contents.
    let entry: census_entry = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    let comm: Vec<u8> = entry.comm.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    Waiting {
        pid: entry.pid,
        comm: String::from_utf8_lossy(&comm).into_owned(),
        cpu: entry.cpu,
        dsq: (entry.dsq_id != 0).then_some(entry.dsq_id),
        waited: tick().saturating_mul(u32::try_from(entry.waited_ticks).unwrap_or(u32::MAX)),
        runnable_at: entry.runnable_at,
    }
}

/// Length of the kernel's tick: what the coarse clock resolves.
fn tick() -> Duration {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `resolution` is valid for writes.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) };
    Duration::from_nanos(u64::try_from(resolution.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(pid: i32, runnable_at: u64) -> Waiting {
        Waiting { pid, comm: "t".into(), cpu: 0, dsq: None, waited: Duration::ZERO, runnable_at }
    }

    #[test]
    fn a_tick_is_one_to_ten_milliseconds() {
        assert!((Duration::from_millis(1)..=Duration::from_millis(10)).contains(&tick()), "{:?}", tick());
    }

    #[test]
    fn a_task_that_ran_in_between_is_not_lost() {
        let before = [task(1, 10), task(2, 10), task(3, 10)];
        let now = vec![task(1, 10), task(2, 11), task(4, 10)];
        assert_eq!(still_there(&before, now), vec![task(1, 10)]);
    }
}
