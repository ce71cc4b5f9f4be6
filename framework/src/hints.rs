// SPDX-License-Identifier: GPL-2.0-only
//! Hints: what somebody who knows a task says of its needs, for policies to act on.
//!
//! They lie in a task storage map, `policy_hints`, that belongs to the root and that all policies may read
//! (`policy_hint()` in `bpf/include/policy.bpf.h`). So they outlive a policy and die with the task. Whether what the task
//! starts gets them is their [`Scope`]; `bpf/environ.bpf.c` hands them on. The map's key is a pidfd: it names one task
//! for good, however often its number is used again.
//!
//! What a hint is, and how a program asks for itself, is in the crate `scx_hint`, which needs no BPF.

use std::collections::BTreeSet;
use std::fs;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use libbpf_rs::{ErrorKind, MapCore as _, MapFlags, MapHandle};
use serde::{Deserialize, Serialize};

pub use scx_hint::{Class, HOW, Hint, ParseError, duration};

use crate::intf::{self, policy_agent, policy_hint};

/// Bytes of a task's name that the kernel keeps.
const COMM_LEN: usize = 15;
/// Where cgroups are mounted, which is not part of a cgroup's name.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl Raw for Class {
    fn raw(self) -> u32 {
        match self {
            Class::Normal => intf::policy_class_POLICY_NORMAL,
            Class::Latency => intf::policy_class_POLICY_LATENCY,
            Class::Batch => intf::policy_class_POLICY_BATCH,
        }
    }

    fn of_raw(raw: u32) -> Self {
        match raw {
            intf::policy_class_POLICY_LATENCY => Class::Latency,
            intf::policy_class_POLICY_BATCH => Class::Batch,
            _ => Class::Normal,
        }
    }
}

/// Who gets a hint from the task that has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Nobody.
    #[default]
    Thread,
    /// Threads that it starts.
    Process,
    /// Threads and processes that it starts, until one executes a program that the environment says nothing to.
    Environment,
}

impl Raw for Scope {
    fn raw(self) -> u32 {
        match self {
            Scope::Thread => intf::hint_scope_HINT_TASK,
            Scope::Process => intf::hint_scope_HINT_PROCESS,
            Scope::Environment => intf::hint_scope_HINT_ENVIRON,
        }
    }

    fn of_raw(raw: u32) -> Self {
        match raw {
            intf::hint_scope_HINT_PROCESS => Scope::Process,
            intf::hint_scope_HINT_ENVIRON => Scope::Environment,
            _ => Scope::Thread,
        }
    }
}

/// As the BPF side has it.
pub(crate) trait Raw {
    fn raw(self) -> u32;
    fn of_raw(raw: u32) -> Self;
}

/// As `policy_hint(p)->class` is in BPF, for a policy that compares the two.
pub fn raw_class(class: Class) -> u32 {
    class.raw()
}

/// A hint, and who else gets it, as `struct policy_hint` lies in memory.
pub(crate) fn to_bytes(hint: Hint, scope: Scope) -> [u8; size_of::<policy_hint>()] {
    let mut bytes = [0; size_of::<policy_hint>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(policy_hint, deadline_ns), &hint.deadline_ns.unwrap_or(0).to_ne_bytes());
    put(offset_of!(policy_hint, slice_ns), &hint.slice_ns.unwrap_or(0).to_ne_bytes());
    put(offset_of!(policy_hint, class), &hint.class.raw().to_ne_bytes());
    put(offset_of!(policy_hint, scope), &scope.raw().to_ne_bytes());
    bytes
}

pub(crate) fn of_bytes(bytes: &[u8]) -> Option<(Hint, Scope)> {
    let long = |at| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let word = |at| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let said = |value| (value != 0).then_some(value);
    let hint = Hint {
        deadline_ns: said(long(offset_of!(policy_hint, deadline_ns))?),
        slice_ns: said(long(offset_of!(policy_hint, slice_ns))?),
        class: Class::of_raw(word(offset_of!(policy_hint, class))?),
    };
    Some((hint, Scope::of_raw(word(offset_of!(policy_hint, scope))?)))
}

/// Whose hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The thread with this id.
    Pid(i32),
    /// All threads of this process, and those that it starts later.
    Process(i32),
    /// Threads of this name.
    Comm(String),
    /// Threads in this cgroup and those below it.
    Cgroup(String),
    /// All.
    All,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Give this hint, in place of the one it has.
    Set(Hint),
    /// Take the hint away.
    Clear,
    /// Only look.
    List,
}

/// What `scx_run hint` asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintRequest {
    /// Whose.
    pub target: Target,
    /// What.
    pub action: Action,
}

/// A thread with a hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hinted {
    /// Thread id.
    pub pid: i32,
    /// Process id.
    pub tgid: i32,
    /// Its name.
    pub comm: String,
    /// Its hint; after [`Action::Clear`] the one that it had.
    #[serde(flatten)]
    pub hint: Hint,
    /// Who gets it from the thread.
    #[serde(default)]
    pub scope: Scope,
}

/// A live thread, held fast.
pub(crate) struct Thread {
    fd: OwnedFd,
    pid: i32,
    tgid: i32,
    comm: String,
}

impl Thread {
    /// `None` if there is none.
    pub fn open(pid: i32) -> Option<Self> {
        // SAFETY: plain integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_THREAD) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // What is read from here on may be of another thread with the same number, but then this one is dead, and
        // whatever is done with its descriptor fails.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end_matches('\n').to_owned();
        Some(Thread { fd, pid, tgid, comm })
    }

    /// Its key in a map of tasks.
    fn key(&self) -> [u8; 4] {
        self.fd.as_raw_fd().to_ne_bytes()
    }

    fn is(&self, target: &Target) -> bool {
        match target {
            Target::Pid(pid) => self.pid == *pid,
            Target::Process(tgid) => self.tgid == *tgid,
            Target::Comm(name) => {
                let name = name.as_bytes();
                self.comm.as_bytes() == &name[..name.len().min(COMM_LEN)]
            }
            Target::Cgroup(wanted) => {
                let path = format!("/proc/{}/cgroup", self.pid);
                fs::read_to_string(path).is_ok_and(|text| in_cgroup(&text, wanted))
            }
            Target::All => true,
        }
    }

    fn with(self, (hint, scope): (Hint, Scope)) -> Hinted {
        Hinted { pid: self.pid, tgid: self.tgid, comm: self.comm, hint, scope }
    }
}

/// Whether /proc/PID/cgroup says that a task is in a cgroup or below it.
fn in_cgroup(text: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix(CGROUP_ROOT).unwrap_or(wanted);
    let wanted = Path::new("/").join(wanted.trim_start_matches('/'));
    text.lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|cgroup| Path::new(cgroup).starts_with(&wanted))
}

/// Numbers in the names of a directory's entries.
pub(crate) fn numbers(dir: &str) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The threads of a process, and then those that these have started before they were passed on: each that is started later
/// is so by one that has been.
pub(crate) fn threads_of(process: i32) -> impl Iterator<Item = Thread> {
    let dir = format!("/proc/{process}/task");
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    std::iter::from_fn(move || {
        if found.is_empty() {
            found = numbers(&dir);
            found.retain(|pid| seen.insert(*pid));
        }
        found.pop()
    })
    .filter_map(Thread::open)
    .filter(move |thread| thread.tgid == process)
}

impl Target {
    /// The live threads that this means, each opened when it is asked for.
    fn threads(&self) -> Box<dyn Iterator<Item = Thread> + '_> {
        match self {
            Target::Pid(pid) => Box::new(Thread::open(*pid).into_iter()),
            Target::Process(pid) => Box::new(threads_of(*pid)),
            _ => {
                let all = numbers("/proc").into_iter();
                let all = all.flat_map(|process| numbers(&format!("/proc/{process}/task")));
                Box::new(all.filter_map(Thread::open).filter(|thread| thread.is(self)))
            }
        }
    }

    /// Who gets a hint that is given to these.
    fn scope(&self) -> Scope {
        match self {
            Target::Process(_) => Scope::Process,
            _ => Scope::Thread,
        }
    }

    /// Fails if it means nobody.
    pub fn check(&self) -> Result<()> {
        if self.threads().next().is_some() { Ok(()) } else { bail!(self.nobody()) }
    }

    /// What to say if it means nobody.
    fn nobody(&self) -> String {
        match self {
            Target::Pid(pid) => format!("there is no task with the id {pid}; `ps -eLf` lists them (LWP)"),
            Target::Process(pid) => {
                format!("there is no process with the id {pid}; `ps -e` lists them (PID)")
            }
            Target::Comm(name) => {
                format!("no thread is called {name:?}; `ps -eLo lwp,comm` lists the names of threads")
            }
            Target::Cgroup(path) => {
                format!("no thread is in a cgroup {path:?}; /proc/PID/cgroup has the cgroup of a task")
            }
            Target::All => "there are no tasks".into(),
        }
    }
}

/// The hints that there are: the map `policy_hints`.
pub struct Hints {
    map: MapHandle,
    /// The section of `policy_agent`.
    agent: MapHandle,
    announced: AtomicBool,
}

impl Hints {
    pub(crate) fn of(map: libbpf_rs::Result<MapHandle>, agent: libbpf_rs::Result<MapHandle>) -> Result<Self> {
        const FAILED: &str = "cannot duplicate the descriptor of the hints";
        Ok(Hints {
            map: map.context(FAILED)?,
            agent: agent.context(FAILED)?,
            announced: AtomicBool::new(false),
        })
    }

    /// Has policies look for hints. Before the first one is given.
    pub(crate) fn announce(&self) -> Result<()> {
        if !self.announced.load(Ordering::Relaxed) {
            policy_agent::change(&self.agent, |agent| agent.hinted = 1).context("announcing hints")?;
            self.announced.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does what is asked. Returns the threads that have, or had, a hint.
    ///
    /// Opens every thread of the machine unless it is asked for one: not for a thread that has to be quick.
    pub fn serve(&self, request: &HintRequest) -> Result<Vec<Hinted>> {
        let mut hinted = Vec::new();
        for thread in request.target.threads() {
            let hint = match request.action {
                Action::Set(hint) => self.set(&thread, (hint, request.target.scope()))?,
                Action::Clear => self.clear(&thread),
                Action::List => self.get(&thread),
            };
            hinted.extend(hint.map(|hint| thread.with(hint)));
        }
        if hinted.is_empty() && matches!(request.action, Action::Set(_)) {
            bail!(request.target.nobody());
        }
        Ok(hinted)
    }

    /// `None` if the thread has died meanwhile.
    pub(crate) fn set(&self, thread: &Thread, (hint, scope): (Hint, Scope)) -> Result<Option<(Hint, Scope)>> {
        self.announce()?;
        match self.map.update(&thread.key(), &to_bytes(hint, scope), MapFlags::ANY) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            outcome => {
                outcome.with_context(|| format!("the kernel takes no hint for task {}", thread.pid))?;
                Ok(Some((hint, scope)))
            }
        }
    }

    /// The hint that it had. Whoever is dead meanwhile has none.
    pub(crate) fn clear(&self, thread: &Thread) -> Option<(Hint, Scope)> {
        self.get(thread).filter(|_| self.map.delete(&thread.key()).is_ok())
    }

    pub(crate) fn get(&self, thread: &Thread) -> Option<(Hint, Scope)> {
        of_bytes(&self.map.lookup(&thread.key(), MapFlags::ANY).ok()??)
    }
}

impl AsFd for Hints {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_laid_out_as_bpf_reads_them() {
        let hint = Hint { deadline_ns: Some(5_000_000), slice_ns: None, class: Class::Latency };
        for scope in [Scope::Thread, Scope::Process, Scope::Environment] {
            let bytes = to_bytes(hint, scope);
            assert_eq!(bytes[..8], 5_000_000u64.to_ne_bytes());
            assert_eq!((bytes.len(), of_bytes(&bytes)), (24, Some((hint, scope))));
            assert_eq!(of_bytes(&bytes[..23]), None);
        }
    }

    #[test]
    fn cgroups_match_with_all_below_them() {
        let text = "1:net_cls:/\n0::/system.slice/ssh.service\n";
        for cgroup in [
            "/",
            "/system.slice",
            "system.slice/ssh.service",
            "/sys/fs/cgroup/system.slice/",
            "/sys/fs/cgroup",
        ] {
            assert!(in_cgroup(text, cgroup), "{cgroup}");
        }
        for cgroup in ["/system", "/system.slice/ssh", "/user.slice"] {
            assert!(!in_cgroup(text, cgroup), "{cgroup}");
        }
    }

    #[test]
    fn threads_are_found_by_id_and_name() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let name = "a-rather-long-name";
        let rest = move || {
            begun.send(()).unwrap();
            receiver.recv()
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(rest).unwrap();
        // It gives itself its name.
        has_begun.recv().unwrap();
        Target::Comm(name.into()).check().unwrap();
        let me = std::process::id() as i32;
        Target::Pid(me).check().unwrap();
        let mine: Vec<_> = threads_of(me).map(|thread| thread.pid).collect();
        assert!(mine.len() > 1 && mine.contains(&me), "{mine:?}");
        drop(sender);
        thread.join().unwrap().unwrap_err();
        for nobody in [
            Target::Comm("nobody-at-all".into()),
            Target::Pid(0),
            Target::Process(0),
            Target::Cgroup("/no/such".into()),
        ] {
            assert!(nobody.check().is_err(), "{nobody:?}");
        }
    }
}
