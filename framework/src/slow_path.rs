// SPDX-License-Identifier: GPL-2.0-only
//! Slow paths: a half in this process of a policy that schedules in BPF. It is called from time to time, looks, and
//! makes wishes; BPF never waits for it.
//!
//! The file `slow_path.rs` in a policy's folder has a function `new`, a [`Factory`]. (The other kind of half, which
//! decides about every task, is [`crate::agent`].) Its thread starts with the policy's slot and ends with it; in
//! between it is called only while the policy is in force. When another scx_run takes over, a new one starts there:
//! what has to last, keep in the policy's maps.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{Iter, Link, Object, OpenProgramMut, ProgramType, libbpf_sys};
use serde::{Deserialize, Serialize};

pub use crate::agent::Settings;
use crate::globals::Globals;
pub use crate::llc::Llcs;
use crate::policy::PREPARE;

/// Where a program that lists things says so.
const ITERATOR: &str = "iter/";

/// The half in this process of a policy that schedules in BPF.
pub trait SlowPath: Send {
    /// Time from one round to the next.
    fn period(&self) -> Duration;

    /// A round. An error is shown by `scx_run status`, and the next round comes all the same.
    fn round(&mut self, bpf: &Bpf) -> Result<()>;
}

/// Makes one.
pub type Factory = fn(&Settings) -> Box<dyn SlowPath>;

/// The policy's other half, in BPF.
pub struct Bpf {
    iterators: BTreeMap<String, Link>,
    programs: BTreeMap<String, OwnedFd>,
    llcs: Llcs,
}

impl Bpf {
    fn of(object: &Object, globals: &Globals) -> Result<Self> {
        let mut bpf =
            Bpf { iterators: BTreeMap::new(), programs: BTreeMap::new(), llcs: Llcs::told(object, globals)? };
        for program in object.progs_mut().filter(|program| program.autoload()) {
            let name = program.name().to_string_lossy().into_owned();
            if program.section().to_string_lossy().starts_with(ITERATOR) {
                let link = program.attach().with_context(|| format!("attaching {name}"))?;
                bpf.iterators.insert(name, link);
            } else if program.prog_type() == ProgramType::Syscall {
                let fd = program.as_fd().try_clone_to_owned().context("duplicating a descriptor")?;
                bpf.programs.insert(name, fd);
            }
        }
        Ok(bpf)
    }

    /// Runs a program `SEC("iter/...")`: the records that it writes, each of `N` words of 64 bits.
    pub fn records<const N: usize>(&self, iterator: &str) -> Result<Vec<[u64; N]>> {
        let link =
            self.iterators.get(iterator).with_context(|| format!("the policy has no iterator {iterator}"))?;
        let mut bytes = Vec::new();
        Iter::new(link)
            .and_then(|mut records| Ok(records.read_to_end(&mut bytes)?))
            .with_context(|| format!("reading {iterator}"))?;
        ensure!(bytes.len().is_multiple_of(N * 8), "the records of {iterator} are not of {N} words");
        Ok(bytes.chunks_exact(N * 8).map(words).collect())
    }

    /// Runs a program `SEC("syscall")`, which gets these words and may change them. Returns what it returns.
    pub fn call<const N: usize>(&self, program: &str, words: &mut [u64; N]) -> Result<i32> {
        let fd =
            self.programs.get(program).with_context(|| format!("the policy has no program {program}"))?;
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            ctx_in: words.as_mut_ptr().cast_const().cast(),
            ctx_size_in: size_of_val(words) as u32,
            ..Default::default()
        };
        // SAFETY: `options` is valid; its buffer, which the kernel writes back to, is `words`: it is of the size given,
        // borrowed mutably, and outlives the call.
        let ret = unsafe { libbpf_sys::bpf_prog_test_run_opts(fd.as_raw_fd(), &mut options) };
        if ret < 0 {
            bail!("running {program}: {}", std::io::Error::from_raw_os_error(-ret));
        }
        Ok(options.retval as i32)
    }

    /// The LLCs, for a policy built on `llc.bpf.h`.
    pub fn llcs(&self) -> &Llcs {
        &self.llcs
    }
}

fn words<const N: usize>(record: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(record.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    words
}

/// Whether a slow path or an agent may call this program, so that it is loaded even if the ops are in the kernel.
pub(crate) fn is_callable(program: &OpenProgramMut<'_>) -> bool {
    let iterates = program.section().to_string_lossy().starts_with(ITERATOR);
    iterates || program.prog_type() == ProgramType::Syscall && program.name() != PREPARE
}

/// What a slow path has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPathStatus {
    /// Rounds that it was called for.
    pub rounds: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// Why the last of these did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// What the thread is told.
#[derive(Default)]
struct Orders {
    in_force: bool,
    end: bool,
}

/// What the thread and others share. No channel: a receiver would spin before it sleeps, and the thread is put before
/// all others.
#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    news: Condvar,
    status: Mutex<SlowPathStatus>,
}

impl Shared {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.orders));
        self.news.notify_one();
    }

    /// Waits until the policy has been in force for so long. Returns whether there is to be a round, or the end.
    fn wait(&self, period: Duration) -> bool {
        let mut orders = lock(&self.orders);
        let mut due = Instant::now() + period;
        while !orders.end {
            let left = due.saturating_duration_since(Instant::now());
            if !orders.in_force {
                orders = self.news.wait(orders).unwrap_or_else(PoisonError::into_inner);
                due = Instant::now() + period;
            } else if left.is_zero() {
                return true;
            } else {
                orders = self.news.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        false
    }

    fn note(&self, outcome: Result<()>) {
        let mut status = lock(&self.status);
        status.rounds += 1;
        if let Err(error) = outcome {
            status.failures += 1;
            status.last_failure = Some(format!("{error:#}"));
        }
    }
}

/// Whoever panicked with it locked has left it whole.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread of a slow path. Dropping it ends it.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts the thread. It calls nothing before its policy is [in force](Self::set_in_force).
    pub fn start(object: &Object, globals: &Globals, name: &str, half: Box<dyn SlowPath>) -> Result<Self> {
        Self::spawn(Bpf::of(object, globals)?, name, half)
    }

    fn spawn(bpf: Bpf, name: &str, mut half: Box<dyn SlowPath>) -> Result<Self> {
        let shared: Arc<Shared> = Arc::default();
        let of_thread = shared.clone();
        let rounds = move || {
            while of_thread.wait(half.period()) {
                of_thread.note(half.round(&bpf));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(rounds)
            .context("cannot start the thread of the slow path")?;
        Ok(Runner { shared, thread: Some(thread) })
    }

    /// Whether its policy is in force: it is called only then. Does not wait for a round that is under way.
    pub fn set_in_force(&self, in_force: bool) {
        self.shared.order(|orders| orders.in_force = in_force);
    }

    pub fn status(&self) -> SlowPathStatus {
        lock(&self.shared.status).clone()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.end = true);
        if let Some(thread) = self.thread.take() {
            // One that panicked has been reported by the panic itself; BPF schedules on.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Sender, unbounded};

    use super::*;

    struct Counts(Sender<()>);

    impl SlowPath for Counts {
        fn period(&self) -> Duration {
            Duration::from_millis(1)
        }

        fn round(&mut self, bpf: &Bpf) -> Result<()> {
            self.0.send(())?;
            bpf.records::<1>("nothing").map(drop)
        }
    }

    fn runner(half: Counts) -> Runner {
        let bpf = Bpf { iterators: BTreeMap::new(), programs: BTreeMap::new(), llcs: Llcs::default() };
        Runner::spawn(bpf, "counts", Box::new(half)).unwrap()
    }

    #[test]
    fn it_is_called_only_while_the_policy_is_in_force() {
        let (sender, rounds) = unbounded();
        let runner = runner(Counts(sender));
        assert!(rounds.recv_timeout(Duration::from_millis(20)).is_err());
        assert_eq!(runner.status(), SlowPathStatus::default());
        for _ in 0..2 {
            runner.set_in_force(true);
            rounds.recv().unwrap();
            rounds.recv().unwrap();
            runner.set_in_force(false);
            // The round that is under way, and then none.
            while rounds.recv_timeout(Duration::from_millis(100)).is_ok() {}
        }
        runner.set_in_force(true);
        drop(runner);
        while rounds.recv().is_ok() {}
    }

    #[test]
    fn a_round_that_fails_is_told_of_and_the_next_one_comes() {
        let (sender, rounds) = unbounded();
        let runner = runner(Counts(sender));
        runner.set_in_force(true);
        rounds.recv().unwrap();
        rounds.recv().unwrap();
        let status = runner.status();
        assert!(status.failures > 0 && status.rounds >= status.failures, "{status:?}");
        assert_eq!(status.last_failure.as_deref(), Some("the policy has no iterator nothing"));
    }

    #[test]
    fn records_are_words() {
        let bytes: Vec<u8> = [7_u64, u64::MAX].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(words::<2>(&bytes), [7, u64::MAX]);
    }
}
