// SPDX-License-Identifier: GPL-2.0-only
//! The thread that decides: it sleeps until BPF rings, takes the news to the policy, has its decisions carried out.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{Link, MapCore as _, MapHandle, Object, OpenObject, RingBufferBuilder, libbpf_sys};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::driver::{Driver, Progress};
use super::shared::{Descriptors, MAX_TASKS, MAX_TXNS, Shared};
use super::status::Meters;
use super::{AgentStatus, Factory, Settings};
use crate::globals::Globals;
use crate::kernel::monotonic_ns;
use crate::policy::ParamValue;

/// The program that tells of blocked and dead tasks and of idle CPUs.
const SWITCH: &str = "delegate_switch";
/// The program that carries out transactions.
const COMMIT: &str = "delegate_commit";
/// Longest sleep, so that a bell that was lost is made up for.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// A timer closer than this is waited for awake.
const SHORTEST_SLEEP: u64 = 20_000;
/// How long to wait for the thread to come up.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Whether an object is the BPF half of a delegated policy.
pub(crate) fn is_delegated(object: &OpenObject) -> bool {
    object.maps().any(|map| map.name() == "delegate_agent")
}

/// Gives the maps that a delegated policy shares with its agent their sizes.
pub(crate) fn size_maps(object: &mut OpenObject, globals: &Globals, params: &[ParamValue]) -> Result<()> {
    if !is_delegated(object) {
        return Ok(());
    }
    let cpus = nr_cpus();
    let ring = ring_of(params);
    globals.set(object, "delegate_ring_mask", u64::from(ring) - 1)?;
    for mut map in object.maps_mut() {
        let entries = match map.name().to_str() {
            Some("delegate_msgs") => cpus * ring,
            Some("delegate_cpus") => cpus,
            Some("delegate_tasks") => MAX_TASKS as u32,
            Some("delegate_txns") => MAX_TXNS as u32,
            _ => continue,
        };
        map.set_max_entries(entries).context("sizing the memory shared with the agent")?;
    }
    Ok(())
}

fn nr_cpus() -> u32 {
    u32::try_from(*scx_utils::NR_CPU_IDS).unwrap_or(1)
}

/// Messages of a CPU's ring: the parameter `ring`, rounded down to a power of two.
fn ring_of(params: &[ParamValue]) -> u32 {
    let wanted = params.iter().find(|param| param.name == "ring").map_or(1, |param| param.value);
    1 << u32::try_from(wanted).unwrap_or(u32::MAX).max(1).ilog2()
}

/// The agent of a delegated policy that is loaded. Dropping it ends it; BPF schedules alone then.
pub(crate) struct Agent {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    control: Arc<Control>,
    meters: Arc<Meters>,
    /// Keeps the tracepoint program attached.
    _switch: Link,
}

/// What others tell the thread.
struct Control {
    end: AtomicBool,
    /// Ends its sleep.
    wake: OwnedFd,
    /// Its thread id, once it is up.
    tid: AtomicI32,
}

impl Agent {
    /// Starts the agent. It decides nothing before it is [made present](Self::set_present).
    pub fn start(object: &Object, factory: Factory, name: &str, params: &[ParamValue]) -> Result<Self> {
        let cpus = nr_cpus();
        let fds = Descriptors {
            msgs: map_fd(object, "delegate_msgs")?,
            cpus: map_fd(object, "delegate_cpus")?,
            tasks: map_fd(object, "delegate_tasks")?,
            txns: map_fd(object, "delegate_txns")?,
            agent: map_fd(object, "delegate_agent")?,
        };
        let shared = Arc::new(Shared::map(fds, cpus as usize, ring_of(params) as usize)?);
        let switch = object
            .progs_mut()
            .find(|program| program.name() == SWITCH)
            .with_context(|| format!("the policy has no {SWITCH}"))?;
        let switch = switch.attach().with_context(|| format!("attaching {SWITCH}"))?;
        let settings =
            Settings { params: params.iter().map(|param| (param.name.clone(), param.value)).collect(), cpus };
        let meters: Arc<Meters> = Arc::default();
        let control = Arc::new(Control {
            end: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .context("cannot make an eventfd")?,
            tid: AtomicI32::new(0),
        });
        let mut worker = Worker {
            driver: Driver::new(shared.clone(), factory(&settings), meters.clone()),
            shared: shared.clone(),
            meters: meters.clone(),
            control: control.clone(),
            commit: commit_program(object)?,
            bell: bell(object)?,
        };
        lock_memory();
        let thread = std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || worker.run())
            .context("cannot start the agent's thread")?;
        let agent = Agent { shared, thread: Some(thread), control, meters, _switch: switch };
        agent.wait_up()?;
        Ok(agent)
    }

    fn wait_up(&self) -> Result<()> {
        let start = Instant::now();
        while self.control.tid.load(Ordering::Acquire) == 0 {
            ensure!(start.elapsed() < START_PATIENCE, "the agent's thread does not come up");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether its policy is in force. While it is not, BPF asks nothing of it; when it comes into force again, it
    /// starts over.
    pub fn set_present(&self, present: bool) {
        if present {
            self.shared.silent_since().store(0, Ordering::Relaxed);
            self.shared.silent().store(1, Ordering::SeqCst);
        }
        self.shared.present().store(present.into(), Ordering::SeqCst);
        self.control.wake();
    }

    /// What it has done so far.
    pub fn status(&self) -> AgentStatus {
        AgentStatus::read(&self.shared, &self.meters)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.present().store(0, Ordering::SeqCst);
        self.control.end.store(true, Ordering::SeqCst);
        self.control.wake();
        if let Some(thread) = self.thread.take() {
            // A policy that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

impl Control {
    fn wake(&self) {
        // It fails only when it is full, and then it wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

struct Worker {
    driver: Driver,
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    control: Arc<Control>,
    commit: OwnedFd,
    bell: MapHandle,
}

impl Worker {
    fn run(&mut self) {
        // SAFETY: gettid takes no arguments.
        let tid = unsafe { libc::gettid() };
        self.shared.tid().store(tid, Ordering::SeqCst);
        self.control.tid.store(tid, Ordering::Release);
        let mut builder = RingBufferBuilder::new();
        // What it rings with does not matter.
        let added = builder.add(&self.bell, |_| 0).is_ok();
        let Some(bell) = builder.build().ok().filter(|_| added) else {
            // Out of memory as it starts: BPF schedules alone.
            return;
        };
        while !self.control.end.load(Ordering::Acquire) {
            if self.shared.present().load(Ordering::Acquire) == 0 {
                self.sleep(bell.epoll_fd(), None);
                // The bells of the time in which it was in force.
                let _ = bell.consume();
                continue;
            }
            let progress = self.work();
            if progress == Progress::default() && self.prepare_to_sleep() {
                self.sleep(bell.epoll_fd(), self.driver.timer());
                // First that it is alive: awake and silent for long would be taken for stuck.
                self.shared.beat().store(monotonic_ns(), Ordering::SeqCst);
                self.shared.sleeping().store(0, Ordering::SeqCst);
                let _ = bell.consume();
            }
        }
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
        self.shared.sleeping().store(1, Ordering::SeqCst);
        if self.driver.has_news() {
            self.shared.sleeping().store(0, Ordering::SeqCst);
            return false;
        }
        true
    }

    fn sleep(&self, bell: RawFd, timer: Option<u64>) {
        // SAFETY: the bell outlives this call.
        let bell = unsafe { BorrowedFd::borrow_raw(bell) };
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&self.control.wake, PollFlags::IN)];
        let limit = timer.map_or(LONGEST_SLEEP, |at| {
            Duration::from_nanos(at.saturating_sub(monotonic_ns())).min(LONGEST_SLEEP)
        });
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // A signal ends it early, which does no harm.
        let _ = poll(&mut fds, Some(&limit));
        let mut count = [0; 8];
        // Empty most of the time.
        let _ = rustix::io::read(&self.control.wake, &mut count);
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

/// A page fault while it decides would make all tasks wait for it. Without the right to lock memory it does its best.
fn lock_memory() {
    // SAFETY: plain integers.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    // khugepaged takes even locked pages away while it makes a huge page of them.
    // SAFETY: plain integers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

fn map_fd(object: &Object, name: &str) -> Result<RawFd> {
    let map = object.maps().find(|map| map.name() == name);
    Ok(map.with_context(|| format!("the policy has no map {name}"))?.as_fd().as_raw_fd())
}

fn bell(object: &Object) -> Result<MapHandle> {
    let map = object.maps().find(|map| map.name() == "delegate_bell");
    let map = map.context("the policy has no map delegate_bell")?;
    MapHandle::try_from(&map).context("cannot duplicate the bell's descriptor")
}

fn commit_program(object: &Object) -> Result<OwnedFd> {
    let program = object.progs().find(|program| program.name() == COMMIT);
    let program = program.with_context(|| format!("the policy has no {COMMIT}"))?;
    program.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
}
