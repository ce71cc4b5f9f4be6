// SPDX-License-Identifier: GPL-2.0-only
//! A thread that decides: it sleeps until BPF rings, takes the news to the policy, has its decisions carried out.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, RingBufferBuilder, libbpf_sys};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Policy;
use super::driver::{Driver, Progress};
use super::handover::Saved;
use super::shared::Shared;
use super::status::Meters;
use crate::affinity;
use crate::intf;
use crate::kernel::monotonic_ns;

/// Longest sleep, so that a bell that was lost is made up for.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// A timer closer than this is waited for awake.
const SHORTEST_SLEEP: u64 = 20_000;
/// Stack of a thread. All of it is locked in memory, and there may be one for each CPU.
const STACK: usize = 512 << 10;

/// An agent: a thread that decides, for all CPUs or for its own. Dropping it ends it; BPF schedules alone then.
pub(super) struct Agent {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Driver>>,
    control: Arc<Control>,
    meters: Arc<Meters>,
}

/// What others tell the thread.
struct Control {
    end: AtomicBool,
    /// It is alone on the shared memory: no other agent works on it any more.
    begin: AtomicBool,
    /// What the agent before it has saved: there before it begins, if at all.
    saved: OnceLock<Arc<Saved>>,
    /// Its policy is in force.
    in_force: AtomicBool,
    /// When it had its first round of decisions behind it, CLOCK_MONOTONIC ns.
    first_round: AtomicU64,
    /// Ends its sleep.
    wake: OwnedFd,
}

impl Agent {
    /// Starts the thread. It touches nothing before [`begin`](Self::begin).
    pub fn start(
        name: &str,
        policy: Box<dyn Policy>,
        shared: Arc<Shared>,
        commit: OwnedFd,
        bell: MapHandle,
    ) -> Result<Self> {
        let meters: Arc<Meters> = Arc::default();
        let control = Arc::new(Control {
            end: AtomicBool::new(false),
            begin: AtomicBool::new(false),
            saved: OnceLock::new(),
            in_force: AtomicBool::new(false),
            first_round: AtomicU64::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .context("cannot make an eventfd")?,
        });
        let mut worker = Worker {
            driver: Driver::new(shared.clone(), policy, meters.clone()),
            shared: shared.clone(),
            meters: meters.clone(),
            control: control.clone(),
            commit,
            bell,
            at_home: false,
        };
        let suffix = shared.home().map_or(String::new(), |cpu| format!("/{cpu}"));
        // What the kernel keeps of a thread's name.
        let name: String = name.chars().take(15 - suffix.len()).chain(suffix.chars()).collect();
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK)
            .spawn(move || {
                worker.run();
                worker.driver
            })
            .context("cannot start the agent's thread")?;
        Ok(Agent { shared, thread: Some(thread), control, meters })
    }

    /// No other agent works on the shared memory any more: this one takes its place. Its thread has come up when there is
    /// its id. `saved`: what that one has saved of its tasks.
    pub fn begin(&self, saved: Option<&Arc<Saved>>) {
        if let Some(saved) = saved {
            // It begins once.
            let _ = self.control.saved.set(saved.clone());
        }
        // There is one of the agent before it.
        self.shared.tid().store(0, Ordering::SeqCst);
        self.control.begin.store(true, Ordering::Release);
        self.control.wake();
    }

    /// When it had decided for the first time since it was made present, CLOCK_MONOTONIC ns. 0: not yet.
    pub fn first_round(&self) -> u64 {
        self.control.first_round.load(Ordering::Acquire)
    }

    /// Whether its policy is in force. While it is not, BPF asks nothing of it; when it comes into force again, it
    /// starts over.
    pub fn set_present(&self, present: bool) {
        if present {
            self.shared.silent_since().store(0, Ordering::Relaxed);
            self.shared.silent().store(1, Ordering::SeqCst);
            // BPF tells a policy that is not in force of no CPU. The thread finds out whether its own is there.
            self.shared.offline().store(0, Ordering::SeqCst);
        }
        self.control.in_force.store(present, Ordering::SeqCst);
        self.shared.present().store(present.into(), Ordering::SeqCst);
        self.control.wake();
    }

    /// Tells the thread to end.
    pub fn end(&self) {
        // One that has not begun must not speak for the other that is at work.
        if self.control.begin.load(Ordering::Acquire) {
            self.control.in_force.store(false, Ordering::SeqCst);
            self.shared.present().store(0, Ordering::SeqCst);
        }
        self.control.end.store(true, Ordering::SeqCst);
        self.control.wake();
    }

    /// Ends it. Returns what its policy knows of its tasks, for the agent that takes its place.
    pub fn leave(mut self) -> Saved {
        self.end();
        let driver = self.thread.take().and_then(|thread| thread.join().ok());
        driver.map(|mut driver| driver.save()).unwrap_or_default()
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn meters(&self) -> &Meters {
        &self.meters
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A policy that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
        // The thread may have said that it is there a moment after it was told to end.
        if self.control.begin.load(Ordering::Acquire) {
            self.shared.present().store(0, Ordering::SeqCst);
        }
    }
}

impl Control {
    fn wake(&self) {
        // It fails only when it is full, and then it wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Waits until it is woken.
    fn wait(&self) {
        // A signal ends it early, which does no harm.
        let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], None);
        self.take();
    }

    /// From here on it can be woken anew.
    fn take(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }
}

struct Worker {
    driver: Driver,
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    control: Arc<Control>,
    commit: OwnedFd,
    bell: MapHandle,
    /// It is kept to the one CPU that it decides for.
    at_home: bool,
}

impl Worker {
    fn run(&mut self) {
        let mut builder = RingBufferBuilder::new();
        // What it rings with does not matter.
        let added = builder.add(&self.bell, |_| 0).is_ok();
        let Some(bell) = builder.build().ok().filter(|_| added) else {
            // Out of memory as it starts: BPF schedules alone.
            return;
        };
        while !self.control.begin.load(Ordering::Acquire) {
            if self.control.end.load(Ordering::Acquire) {
                return;
            }
            // The bell is still another's.
            self.control.wait();
        }
        self.driver.rebase();
        if let Some(saved) = self.control.saved.get() {
            self.driver.restore(saved);
        }
        // SAFETY: gettid takes no arguments.
        let tid = unsafe { libc::gettid() };
        self.shared.tid().store(tid, Ordering::SeqCst);
        // The default of 50 us would be long for a timer that ends a slice.
        // SAFETY: plain integers.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        while !self.control.end.load(Ordering::Acquire) {
            if !self.is_here() {
                self.sleep(None);
                // The bells of the time in which it was in force.
                let _ = bell.consume();
                continue;
            }
            let progress = self.work();
            self.note_first_round();
            if progress == Progress::default() && self.prepare_to_sleep() {
                self.sleep(self.driver.timer());
                // First that it is alive: awake and silent for long would be taken for stuck.
                self.shared.beat().store(monotonic_ns(), Ordering::SeqCst);
                self.shared.sleeping().store(intf::delegate_sleep_DELEGATE_AWAKE, Ordering::SeqCst);
                let _ = bell.consume();
            }
        }
    }

    fn note_first_round(&self) {
        if self.control.first_round.load(Ordering::Relaxed) == 0 {
            self.control.first_round.store(monotonic_ns(), Ordering::Release);
        }
    }

    /// Whether it is to decide: its policy is in force, and it is on the CPU that it decides for, if that is one. An agent
    /// whose CPU is offline is absent, and BPF schedules there.
    fn is_here(&mut self) -> bool {
        let Some(home) = self.shared.home() else {
            return self.shared.present().load(Ordering::Acquire) != 0;
        };
        let in_force = self.control.in_force.load(Ordering::Acquire);
        if !in_force || self.shared.offline().load(Ordering::SeqCst) != 0 {
            self.at_home = false;
        } else if !self.at_home {
            // The kernel has moved it elsewhere if its CPU was offline, and refuses this while it is.
            self.at_home = affinity::keep_to(home).is_ok();
            // BPF asks nothing before the silence is over: this agent starts over.
            self.shared.silent_since().store(0, Ordering::Relaxed);
            self.shared.silent().store(1, Ordering::SeqCst);
            self.shared.present().store(self.at_home.into(), Ordering::SeqCst);
            if !self.at_home {
                // There is nothing to wait for.
                self.note_first_round();
            }
        }
        if !in_force {
            // It may have been told so just before the line above.
            self.shared.present().store(0, Ordering::SeqCst);
        }
        self.at_home
    }

    /// One round: news to the policy, its decisions to BPF, what became of them back.
    fn work(&mut self) -> Progress {
        let start = monotonic_ns();
        let progress = self.driver.step(start);
        if progress.transactions {
            carry_out(&self.commit);
            self.meters.decision.record(monotonic_ns() - start);
        }
        progress
    }

    /// Says that it will sleep, unless there is news.
    fn prepare_to_sleep(&self) -> bool {
        if self.driver.timer().is_some_and(|at| at < monotonic_ns() + SHORTEST_SLEEP) {
            return false;
        }
        // BPF publishes a message and then looks whether we sleep; we say so and then look for messages. One of
        // the two sees the other.
        let sleep = match self.driver.dozes() {
            true => intf::delegate_sleep_DELEGATE_DOZES,
            false => intf::delegate_sleep_DELEGATE_SLEEPS,
        };
        self.shared.gathered().store(0, Ordering::SeqCst);
        self.shared.sleeping().store(sleep, Ordering::SeqCst);
        if self.driver.has_news() {
            self.shared.sleeping().store(intf::delegate_sleep_DELEGATE_AWAKE, Ordering::SeqCst);
            return false;
        }
        true
    }

    fn sleep(&self, timer: Option<u64>) {
        let bell = self.bell.as_fd();
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.control.wake, PollFlags::IN)];
        let limit = timer.map_or(LONGEST_SLEEP, |at| {
            Duration::from_nanos(at.saturating_sub(monotonic_ns())).min(LONGEST_SLEEP)
        });
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // A signal ends it early, which does no harm.
        let _ = poll(&mut fds, Some(&limit));
        if !fds[1].revents().is_empty() {
            self.control.take();
        }
    }
}

/// Has BPF carry out the transactions that are pending, in this thread.
fn carry_out(program: &OwnedFd) {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        ..Default::default()
    };
    // SAFETY: `options` is valid and has no buffers. If it fails, the transactions are carried out by the next CPU
    // that dispatches.
    unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
}
