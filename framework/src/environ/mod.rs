// SPDX-License-Identifier: GPL-2.0-only
//! Hints in the environment of programs: `SCX_HINT="class=latency deadline=5ms"`.
//!
//! A BPF program (`bpf/environ.bpf.c`) sees what is executed and hints it at once if it knows what the value says. It
//! cannot read one: a thread of this module does, once for each different value, and then looks through /proc for all
//! that have this value already, the process that brought it and its children. So does it at the start, for all values.

mod process;
#[allow(missing_docs, unused_must_use, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/environ_skel.rs"));
}

use std::fs;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use crossbeam::channel::Sender;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, RingBufferBuilder};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use scx_hint::{Hint, VARIABLE};
use serde::{Deserialize, Serialize};

use crate::hints::{Hints, Scope, numbers, of_bytes, threads_of, to_bytes};
use crate::intf::{self, environ_event, environ_known};
use process::{Key, look, text_of};

/// How often a process is looked at again that executes one program after the other.
const MAX_LOOKS: u32 = 8;
/// Values that are kept, and how many there may be already when another user than root brings one.
const VALUES: usize = intf::environ_consts_ENVIRON_TEXTS as usize;
const USERS_VALUES: usize = VALUES / 2;

/// What has come of hints in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironStatus {
    /// Whether those of other users than root count.
    pub user_hints: bool,
    /// Processes that were given one.
    pub given: u64,
    /// Processes whose value does not count, for whose they are.
    pub refused: u64,
    /// Processes whose value makes no sense.
    pub malformed: u64,
    /// Processes of which we were not told in time, and which have none.
    pub lost: u64,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub enum Begin<'a> {
    /// With all processes that there are.
    Processes,
    /// With these values, which another process has seen to until now.
    Values(&'a [String]),
}

/// Sees to hints in the environment until it is dropped.
pub struct Environ {
    skel: skel::EnvironSkel<'static>,
    reader: Arc<Reader>,
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Environ {
    /// Begins. What a user should hear of goes to `notes`.
    pub fn start(hints: Hints, user_hints: bool, begin: Begin<'_>, notes: Sender<String>) -> Result<Self> {
        // The skeleton borrows the place of its object: leaked, a few bytes let it be moved about.
        let place = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = skel::EnvironSkelBuilder::default().open(place).context("opening environ.bpf.c")?;
        open.maps.policy_hints.reuse_fd(hints.as_fd()).context("sharing the map of hints")?;
        open.maps.rodata_data.as_deref_mut().context("environ.bpf.c lacks .rodata")?.user_hints =
            u32::from(user_hints);
        let mut skel = open.load().context("loading environ.bpf.c")?;
        let texts = MapHandle::try_from(&skel.maps.environ_texts)?;
        let (values, told_full, told_refused, status) = Default::default();
        let reader =
            Arc::new(Reader { hints, texts, user_hints, notes, values, told_full, told_refused, status });
        if let Begin::Values(values) = begin {
            for value in values {
                let mut environ = format!("{VARIABLE}={value}").into_bytes();
                environ.push(0);
                // What is wrong with them has been told.
                process::value_in(&environ).map(|key| reader.learn(&key));
            }
        }
        skel.attach().context("attaching environ.bpf.c")?;

        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("creating an eventfd")?);
        let events = MapHandle::try_from(&skel.maps.environ_events)?;
        let all = matches!(begin, Begin::Processes);
        let of_thread = (reader.clone(), end.clone());
        let body = move || {
            let (reader, end) = of_thread;
            if all {
                reader.scan(None);
            }
            if let Err(error) = reader.serve(&events, end.as_fd()) {
                reader.note(format!("{VARIABLE} is not seen to any more: {error:#}"));
            }
        };
        let thread = std::thread::Builder::new().name("environ".into()).spawn(body)?;
        Ok(Environ { skel, reader, end, thread: Some(thread) })
    }

    /// What has come of it so far.
    pub fn status(&self) -> EnvironStatus {
        let counts = &self.reader.status;
        let mut status = EnvironStatus {
            user_hints: self.reader.user_hints,
            given: counts.given.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            malformed: counts.malformed.load(Ordering::Relaxed),
            lost: 0,
        };
        if let Some(bss) = self.skel.maps.bss_data.as_deref() {
            status.given += bss.nr_given;
            status.refused += bss.nr_refused;
            status.malformed += bss.nr_malformed;
            status.lost += bss.nr_lost;
        }
        status
    }

    /// The values that are known, for the process that takes over.
    pub fn values(&self) -> Vec<String> {
        let keys = self.reader.texts.keys().filter_map(|key| Key::try_from(key).ok());
        keys.filter_map(|key| text_of(&key).ok().map(str::to_owned)).collect()
    }
}

impl Drop for Environ {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from full.
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // One that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

#[derive(Default)]
struct Counts {
    given: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// What the thread works with.
struct Reader {
    hints: Hints,
    /// What values say, by value.
    texts: MapHandle,
    user_hints: bool,
    notes: Sender<String>,
    /// Number of values that were read.
    values: AtomicUsize,
    told_full: AtomicBool,
    told_refused: AtomicBool,
    status: Counts,
}

impl Reader {
    fn note(&self, text: String) {
        // Nobody listens if scx_run is ending.
        let _ = self.notes.send(text);
    }

    /// Serves what the BPF program tells of, until it is to end.
    fn serve(&self, events: &MapHandle, end: BorrowedFd<'_>) -> Result<()> {
        let (sender, received) = mpsc::channel();
        let mut builder = RingBufferBuilder::new();
        builder.add(events, move |bytes| {
            let _ = sender.send(bytes.to_vec());
            0
        })?;
        let ring = builder.build()?;
        // SAFETY: the descriptor belongs to `ring`, which outlives it.
        let bell = unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) };
        loop {
            let mut fds =
                [PollFd::from_borrowed_fd(bell, PollFlags::IN), PollFd::from_borrowed_fd(end, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for events"),
            }
            if !fds[1].revents().is_empty() {
                return Ok(());
            }
            ring.consume()?;
            received
                .try_iter()
                .filter_map(|bytes| Event::of_bytes(&bytes))
                .for_each(|event| self.told(&event));
        }
    }

    /// A process has executed a program with a value that nobody has read yet, or that does not count.
    fn told(&self, event: &Event) {
        if event.refused {
            self.tell_refused(event.pid);
            return;
        }
        let hint = match self.known(&event.value) {
            // Somebody came with it just before, and both have been found.
            Some(Some(_)) => return,
            Some(None) => None,
            None => self.read_anew(&event.value, event.uid == 0, event.pid),
        };
        if hint.is_some() {
            self.scan(Some(&event.value));
        } else {
            count(&self.status.malformed);
            self.give(event.pid, None);
        }
    }

    /// Says so once: a user has to know what to do about it, not how often it happens.
    fn tell_refused(&self, pid: i32) {
        if self.told_refused.swap(true, Ordering::Relaxed) {
            return;
        }
        self.note(format!(
            "{VARIABLE} of {} does not count: it is not root's, or setuid; --user-hints lets that of all users count",
            name(pid)
        ));
    }

    /// Reads a value for whoever has it, and remembers what it says.
    fn learn(&self, value: &Key) -> Result<Hint, String> {
        let read = text_of(value).and_then(|text| text.parse::<Hint>().map_err(|error| error.to_string()));
        let mut known = [0; size_of::<environ_known>()];
        // A value that is not remembered is read each time that it comes.
        if self.hints.announce().is_err() {
            return read;
        }
        if let Ok(hint) = read {
            let bytes = to_bytes(hint, Scope::Environment);
            known[offset_of!(environ_known, hint)..][..bytes.len()].copy_from_slice(&bytes);
            known[offset_of!(environ_known, valid)..][..4].copy_from_slice(&1u32.to_ne_bytes());
        }
        self.values.fetch_add(1, Ordering::Relaxed);
        // Without memory for it, it is not remembered either.
        let _ = self.texts.update(value, &known, MapFlags::ANY);
        read
    }

    /// Reads a value that nobody has read yet, and says once what is wrong with it.
    fn read_anew(&self, value: &Key, root: bool, process: i32) -> Option<Hint> {
        let most = if root { VALUES } else { USERS_VALUES };
        if self.values.load(Ordering::Relaxed) >= most {
            if !self.told_full.swap(true, Ordering::Relaxed) {
                self.note(format!("{VARIABLE} of {} does not count: {most} others are known", name(process)));
            }
            return None;
        }
        let why = match self.learn(value) {
            Ok(hint) => return Some(hint),
            Err(why) => why,
        };
        let shown = value[..value.len() - 1].split(|byte| *byte == 0).next().unwrap_or_default();
        let shown = String::from_utf8_lossy(shown);
        self.note(format!("{VARIABLE}={shown:?} of {} is no hint: {why}", name(process)));
        None
    }

    /// What a value is known to say: perhaps nothing.
    fn known(&self, value: &Key) -> Option<Option<Hint>> {
        let bytes = self.texts.lookup(value, MapFlags::ANY).ok()??;
        let valid = bytes.get(offset_of!(environ_known, valid)..)?.first_chunk()? != &[0; 4];
        let (hint, _) = of_bytes(bytes.get(offset_of!(environ_known, hint)..)?)?;
        Some(valid.then_some(hint))
    }

    /// Hints the processes that have this value, or any.
    fn scan(&self, only: Option<&Key>) {
        let me = std::process::id() as i32;
        for process in numbers("/proc").into_iter().filter(|process| *process != me) {
            self.settle(process, only);
        }
    }

    /// Gives a process what its environment says, and looks again: it may have executed another program meanwhile.
    fn settle(&self, process: i32, only: Option<&Key>) {
        let mut done = None;
        for _ in 0..MAX_LOOKS {
            let found = look(process, self.user_hints);
            let first = done.is_none();
            if done == Some(found) {
                return;
            }
            match found {
                Some(found) if first && only.is_some_and(|only| *only != found.value) => return,
                None if first => return,
                Some(found) if found.counts => {
                    let known = self.known(&found.value);
                    let hint = known.unwrap_or_else(|| self.read_anew(&found.value, found.root, process));
                    self.give(process, hint);
                    count(if hint.is_some() { &self.status.given } else { &self.status.malformed });
                }
                Some(_) if first => {
                    // Those that execute a program from now on are counted there.
                    if only.is_none() {
                        count(&self.status.refused);
                        self.tell_refused(process);
                    }
                    return;
                }
                _ => self.give(process, None),
            }
            done = Some(found);
        }
    }

    /// Gives the threads of a process a hint, or takes away the one that they have from their environment. A hint that
    /// somebody gave them by hand stays.
    fn give(&self, process: i32, hint: Option<Hint>) {
        for thread in threads_of(process) {
            let has = self.hints.get(&thread);
            if has.is_some_and(|(_, scope)| scope != Scope::Environment) {
                continue;
            }
            match hint {
                // Who is dead meanwhile needs none.
                Some(hint) => drop(self.hints.set(&thread, (hint, Scope::Environment))),
                None => drop(self.hints.clear(&thread)),
            }
        }
    }
}

/// A process as a user knows it.
fn name(process: i32) -> String {
    let comm = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    format!("pid {process} ({})", comm.trim_end())
}

/// `struct environ_event`.
struct Event {
    pid: i32,
    uid: u32,
    refused: bool,
    value: Key,
}

impl Event {
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Event {
            pid: word(offset_of!(environ_event, pid))?.cast_signed(),
            uid: word(offset_of!(environ_event, uid))?,
            refused: word(offset_of!(environ_event, refused))? != 0,
            value: *bytes.get(offset_of!(environ_event, value)..)?.first_chunk()?,
        })
    }
}
