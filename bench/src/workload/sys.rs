// SPDX-License-Identifier: GPL-2.0-only
//! The system calls that generators need and std does not have: clocks, futexes, scheduling parameters.

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use framework::kernel;

/// How long a thread of a load blocks before it looks at the phase again, whoever has forgotten to wake it.
pub const LOOK_AGAIN: Duration = Duration::from_millis(200);

const NS_PER_S: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC, ns.
pub fn now() -> u64 {
    kernel::monotonic_ns()
}

/// CPU time that the calling thread has used, ns.
pub fn thread_cpu_time() -> u64 {
    kernel::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Sleeps until [`now`] is `at`.
pub fn sleep_until(at: u64) {
    let until =
        libc::timespec { tv_sec: (at / NS_PER_S) as libc::time_t, tv_nsec: (at % NS_PER_S) as libc::c_long };
    // SAFETY: `until` is valid for reads; with TIMER_ABSTIME nothing is written.
    while unsafe {
        libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, std::ptr::null_mut())
    } == libc::EINTR
    {}
}

/// Timers of the calling thread fire when they are due, not up to 50 us later together with others.
pub fn exact_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a plain integer (ns; 0 would mean the default).
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Blocks while `word` is `expected`, until it is [woken](futex_wake), at most [`LOOK_AGAIN`]. May return early.
pub fn futex_wait(word: &AtomicU32, expected: u32) {
    let limit = libc::timespec {
        tv_sec: LOOK_AGAIN.as_secs() as libc::time_t,
        tv_nsec: LOOK_AGAIN.subsec_nanos() as libc::c_long,
    };
    // SAFETY: `word` and `limit` live through the call. Why it returned is found out by who looks at the word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &limit,
        )
    };
}

/// Wakes up to `n` threads that wait for `word`, first come, first served.
pub fn futex_wake(word: &AtomicU32, n: i32) {
    // SAFETY: `word` lives through the call; FUTEX_WAKE only uses its address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, n) };
}

/// The CPU that the calling thread is on.
pub fn this_cpu() -> usize {
    // SAFETY: no arguments. -1 is not documented to occur on Linux with this C library; CPU 0 serves then.
    unsafe { libc::sched_getcpu() }.try_into().unwrap_or(0)
}

/// Lets this process have `files` open at once, if it may not yet.
pub fn allow_open_files(files: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 && limit.rlim_cur >= files {
        return Ok(());
    }
    limit.rlim_cur = files;
    limit.rlim_max = limit.rlim_max.max(files);
    // SAFETY: `limit` is valid for reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("{files} open files are needed; raise the limit (ulimit -n)"));
    }
    Ok(())
}

/// Sets the nice value of the calling thread.
pub fn set_nice(nice: i32) -> Result<()> {
    // SAFETY: plain integers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot set a nice value");
    }
    Ok(())
}

/// Puts the calling thread above all contenders: SCHED_FIFO, lowest real-time priority. Threads and processes
/// that it starts are ordinary again.
pub fn set_fifo() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` is valid for reads; 0 is the calling thread.
    let failed =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) };
    if failed != 0 {
        bail!(
            "cannot become a SCHED_FIFO thread ({}); that needs root (CAP_SYS_NICE) and, with \
             CONFIG_RT_GROUP_SCHED, real-time bandwidth for its cgroup",
            io::Error::last_os_error()
        );
    }
    Ok(())
}
