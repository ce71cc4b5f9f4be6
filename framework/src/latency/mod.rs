// SPDX-License-Identifier: GPL-2.0-only
//! Measures scheduling latency on the whole machine, whatever scheduler runs it.
//!
//! A [`LatencyMeter`] is a set of BPF programs on the scheduler's tracepoints (`bpf/latency.bpf.c`). They are
//! attached while it lives and cost nothing before and after. What they see is divided into windows, each a
//! [`Sample`]: a policy swap ends one with [`LatencyMeter::switch`], so either side has its own distributions.

mod cgroup;
mod hist;
mod report;
mod sample;
#[allow(missing_docs, unused_must_use, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/latency_skel.rs"));
}

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags};

use crate::{grace, intf};

pub use hist::{Histogram, Summary, bucket_of, bucket_range};
pub use report::{duration, grouped, worst_lines};
pub use sample::{Per, PerEntry, Sample, Waits};

/// Windows that were read early, at most, and wait for their owner to collect them.
const MAX_EARLY: usize = 8;

/// Measures from [`start`](Self::start) until it is dropped.
pub struct LatencyMeter {
    skel: skel::LatencySkel<'static>,
    per: Option<Per>,
    /// Number of the window being measured, and when it began.
    window: u32,
    began: Instant,
    /// The window before, while its buffer has not been read.
    ended: Option<Ended>,
    /// Windows read before their owner asked, since their buffer was needed.
    early: Vec<(u32, Result<Sample>)>,
    /// `per_overflow` of the kernel side at the last collect.
    missed: u64,
}

// SAFETY: what keeps the skeleton from being Send are raw pointers to the libbpf object and to its mapped
// variables. Both belong to the skeleton alone and neither depends on the thread (libbpf-rs declares its Object
// Send for the same reason).
unsafe impl Send for LatencyMeter {}

/// A window that has ended and is to be [collected](LatencyMeter::collect).
#[derive(Debug)]
#[must_use = "collect it"]
pub struct Pending(u32);

struct Ended {
    window: u32,
    duration: Duration,
}

fn buffer_of(window: u32) -> u32 {
    window % intf::lat_consts_LAT_BUFFERS
}

impl LatencyMeter {
    /// Loads and attaches the probes; `per` adds a breakdown of the waits.
    pub fn start(per: Option<Per>) -> Result<Self> {
        // The skeleton borrows the place of its object. Leaked, these few bytes let the meter be moved about;
        // the object in them is freed with the skeleton.
        let place = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open =
            skel::LatencySkelBuilder::default().open(place).context("cannot open the latency probes")?;
        let rodata = open.maps.rodata_data.as_deref_mut().context("the latency probes lack .rodata")?;
        rodata.per = match per {
            None => intf::lat_per_LAT_PER_NONE,
            Some(Per::Comm) => intf::lat_per_LAT_PER_COMM,
            Some(Per::Cgroup) => intf::lat_per_LAT_PER_CGROUP,
            Some(Per::Tgid) => intf::lat_per_LAT_PER_TGID,
        };
        if per.is_none() {
            open.maps.per_entries.set_max_entries(1).context("cannot shrink an unused map")?;
        }
        let mut skel = open.load().context(
            "cannot load the latency probes; that needs root (CAP_BPF, CAP_PERFMON) and a kernel with BTF",
        )?;
        skel.attach().context("cannot attach the latency probes to the scheduler's tracepoints")?;
        let began = Instant::now();
        let mut meter = Self { skel, per, window: 0, began, ended: None, early: Vec::new(), missed: 0 };
        // Changes nothing, but spares the first switch the page fault.
        meter.publish_window();
        Ok(meter)
    }

    /// The current window so far. It goes on, and every CPU is read at a slightly different moment.
    pub fn snapshot(&mut self) -> Result<Sample> {
        let missed = self.per_overflow()?.load(Ordering::Relaxed) - self.missed;
        self.read(self.window, self.began.elapsed(), missed)
    }

    /// Ends the current window, begins the next and returns what was measured.
    pub fn rotate(&mut self) -> Result<Sample> {
        let pending = self.switch();
        self.collect(pending)
    }

    /// Ends the current window and begins the next, which is one store. What was measured can be
    /// [collected](Self::collect) later.
    ///
    /// If the window before has not been collected yet, it is read first, which takes as long as collecting it.
    pub fn switch(&mut self) -> Pending {
        if let Some(ended) = self.ended.take() {
            let sample = self.read_and_clear(&ended);
            if self.early.len() == MAX_EARLY {
                // Nobody has asked for it in all that time.
                drop(self.early.remove(0));
            }
            self.early.push((ended.window, sample));
        }
        let now = Instant::now();
        let window = self.window;
        self.window = window.wrapping_add(1);
        self.publish_window();
        self.ended = Some(Ended { window, duration: now - self.began });
        self.began = now;
        Pending(window)
    }

    /// What was measured in a window that has ended. Takes an RCU grace period, some 10 ms.
    pub fn collect(&mut self, pending: Pending) -> Result<Sample> {
        if let Some(ended) = self.ended.take_if(|ended| ended.window == pending.0) {
            return self.read_and_clear(&ended);
        }
        match self.early.iter().position(|(window, _)| *window == pending.0) {
            Some(i) => self.early.swap_remove(i).1,
            None => bail!(
                "measuring window {} was collected too late, {MAX_EARLY} others came after it",
                pending.0
            ),
        }
    }

    /// Tells the probes which window they measure.
    fn publish_window(&mut self) {
        if let Some(bss) = self.skel.maps.bss_data.as_deref_mut() {
            // SAFETY: the reference is to a live, aligned u32 that only atomic accesses touch on this side;
            // the kernel only reads it.
            let shared = unsafe { AtomicU32::from_ptr(&raw mut bss.window) };
            shared.store(self.window, Ordering::Release);
        }
    }

    fn per_overflow(&mut self) -> Result<&AtomicU64> {
        let bss = self.skel.maps.bss_data.as_deref_mut().context("the latency probes lack .bss")?;
        // SAFETY: the reference is to a live, aligned u64 that is accessed atomically on both sides.
        Ok(unsafe { AtomicU64::from_ptr(&raw mut bss.per_overflow) })
    }

    /// Reads the buffer of a window that has ended and leaves it empty for the next but one.
    fn read_and_clear(&mut self, ended: &Ended) -> Result<Sample> {
        // Programs that began before the switch may still write to the old buffer.
        grace::wait()?;
        let overflow = self.per_overflow()?.load(Ordering::Relaxed);
        let missed = overflow - self.missed;
        self.missed = overflow;
        let sample = self.read(ended.window, ended.duration, missed)?;

        let buffer = buffer_of(ended.window);
        let empty = vec![vec![0; size_of::<intf::lat_window>()]; libbpf_rs::num_possible_cpus()?];
        let windows = &self.skel.maps.windows;
        windows
            .update_percpu(&buffer.to_ne_bytes(), &empty, MapFlags::ANY)
            .context("cannot clear a window")?;
        if self.per.is_some() {
            let entries = &self.skel.maps.per_entries;
            // Collected first: a hash that is walked and shrunk at once starts over again and again.
            for key in entries.keys().collect::<Vec<_>>() {
                if parse::<intf::lat_per_key>(&key)?.buffer == buffer {
                    entries.delete(&key).context("cannot clear the breakdown of a window")?;
                }
            }
        }
        Ok(sample)
    }

    fn read(&self, window: u32, duration: Duration, per_missed: u64) -> Result<Sample> {
        let cpus = (self.skel.maps.windows)
            .lookup_percpu(&buffer_of(window).to_ne_bytes(), MapFlags::ANY)
            .context("cannot read a window")?
            .context("a measuring window is missing")?;
        let mut sample = Sample {
            duration_ns: duration.as_nanos().try_into().unwrap_or(u64::MAX),
            per: self.read_per(window)?,
            per_missed,
            ..Sample::default()
        };
        for cpu in &cpus {
            sample.add_kernel(&parse(cpu)?);
        }
        Ok(sample)
    }

    /// The breakdown of a window, worst first.
    fn read_per(&self, window: u32) -> Result<Vec<PerEntry>> {
        let Some(per) = self.per else { return Ok(Vec::new()) };
        let map = &self.skel.maps.per_entries;
        let mut entries = Vec::new();
        for bytes in map.keys() {
            let key: intf::lat_per_key = parse(&bytes)?;
            if key.buffer != buffer_of(window) {
                continue;
            }
            if let Some(entry) = map.lookup(&bytes, MapFlags::ANY).context("cannot read the breakdown")? {
                entries.push(PerEntry::new(per, &key, &parse(&entry)?));
            }
        }
        if per == Per::Cgroup {
            let paths = cgroup::paths();
            for entry in &mut entries {
                if let Some(path) = paths.get(&entry.id) {
                    entry.name.clone_from(path);
                }
            }
        }
        sample::worst_first(&mut entries);
        Ok(entries)
    }
}

/// The plain-integer structs that maps hold; all bit patterns are values of theirs.
trait Plain: Copy {}
impl Plain for intf::lat_window {}
impl Plain for intf::lat_per_key {}
impl Plain for intf::lat_per_entry {}

fn parse<T: Plain>(bytes: &[u8]) -> Result<T> {
    if bytes.len() < size_of::<T>() {
        bail!("a map of the latency probes holds {} bytes where {} belong", bytes.len(), size_of::<T>());
    }
    // SAFETY: the bytes are there, the read needs no alignment, and any bytes are a T.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two windows around some context switches. Needs root and no sched_ext: runs where tracing BPF does.
    #[test]
    #[ignore = "needs root"]
    fn measures_context_switches() {
        let mut meter = LatencyMeter::start(Some(Per::Comm)).unwrap();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = meter.snapshot().unwrap();
        let first = meter.switch();
        let second = meter.switch();
        let sample = meter.collect(first).unwrap();
        for sample in [&before, &sample] {
            assert!(sample.wakeup.count() >= 99 && sample.wait.count() >= sample.wakeup.count());
            assert!(sample.slice.count() >= 99 && sample.switches >= 198);
            assert!(sample.duration_ns >= 100_000_000 && sample.wakeup.max() < sample.duration_ns);
            assert!(sample.wait.max() == sample.per[0].wait.max_ns);
        }
        assert!(sample.wakeup.count() >= before.wakeup.count());
        // The second window holds only what happened while the first one was read.
        assert!(meter.collect(second).unwrap().wakeup.count() < sample.wakeup.count());
        assert!(meter.collect(Pending(0)).is_err());
    }
}
