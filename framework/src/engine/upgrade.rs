// SPDX-License-Identifier: GPL-2.0-only
//! Handing a running scheduler to another process, and taking one over. docs/upgrading.md
//!
//! ```text
//! old process                                new process
//!   offer: pin                  <-----------   asks for it
//!   works on                                   adopt: loads everything over the pinned maps, measures
//!   let_go: its agent ends      <-----------   asks for it
//!   (BPF alone)                                take_over: its agent begins
//!   ends without detaching                     removes the pins, unless they are to stay
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Config, Engine};
use crate::agent::Saved;
use crate::environ::{Begin, Environ};
use crate::kernel::{KernelState, monotonic_ns};
use crate::latency::{LatencyMeter, Pending, Per};
use crate::pins::{Kept, Pins};
use crate::report::UpgradeReport;
use crate::root::Root;
use crate::scheduler::Scheduler;

/// What a process says as it lets go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LetGo {
    /// Its id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When the last decision of its agent was made: CLOCK_MONOTONIC, ns.
    pub at_ns: u64,
    /// What its agent knew of its tasks, if it had one.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// The values of SCX_HINT that it has read.
    #[serde(default)]
    pub environ: Vec<String>,
}

/// A scheduler that runs under another process or none, loaded over its own memory. Nothing has changed for it yet.
pub struct Adopted {
    config: Config,
    root: Box<Root>,
    kept: Kept,
    took: Duration,
}

impl Engine {
    /// Loads the scheduler that is pinned over its own memory. Of `config`, what was fixed when it was attached is
    /// taken from there.
    pub fn adopt(mut config: Config) -> Result<Adopted> {
        let start = Instant::now();
        let pins = Pins::open()?
            .context("there is no scheduler to take over; start one with: scx_run --policy NAME")?;
        let kept = pins.read()?;
        if !kept.attached() {
            bail!(
                "the scheduler that was kept is not attached any more; remove what is left with: scx_run stop"
            );
        }
        config.partial = kept.options.partial;
        config.timeout_ms = kept.options.timeout_ms;
        config.extra_ops = kept.options.ops.clone();
        let root = Root::adopt(pins, &kept, config.catalogue).context("cannot take over the scheduler")?;
        Ok(Adopted { config, root: Box::new(root), kept, took: start.elapsed() })
    }

    /// Says why it cannot be handed over at present, if it cannot.
    pub fn check_can_hand_over(&self) -> Result<()> {
        if self.config.direct {
            bail!(
                "a policy that was attached with --direct cannot be handed over; end it and leave out --direct"
            );
        }
        self.machine.check_idle()?;
        self.check_not_offered()
    }

    /// Makes ready for another process to take over, and goes on until [`let_go`](Self::let_go).
    pub fn offer(&mut self) -> Result<()> {
        self.check_can_hand_over()?;
        self.make_way()?;
        self.root()?.keep(true)?;
        self.offered = true;
        Ok(())
    }

    /// The other process will not take over after all.
    pub fn withdraw(&mut self) -> Result<()> {
        self.offered = false;
        let keep = self.config.keep;
        let root = self.root()?;
        if keep { root.keep(false) } else { root.unkeep() }
    }

    /// Lets go of the scheduler that was offered: it stays attached and this engine is done with it.
    pub fn let_go(&mut self) -> Result<LetGo> {
        if !self.offered {
            bail!("what was offered is not there any more");
        }
        self.end_window()?;
        let (at_ns, saved) = self.root()?.let_go()?;
        let environ = self.environ.as_ref().map(Environ::values).unwrap_or_default();
        Ok(LetGo { pid: std::process::id(), version: crate::VERSION.into(), at_ns, saved, environ })
    }

    /// Detaches it although it was to be kept.
    pub fn do_not_keep(&mut self) {
        self.config.keep = false;
    }

    /// Ends without detaching: whoever comes next takes it over.
    pub fn leave(&mut self) -> Result<()> {
        self.make_way()?;
        self.end_window().map(drop)
    }

    /// Whether the scheduler stays attached when this process ends.
    pub fn is_kept(&self) -> bool {
        self.config.keep && matches!(&self.scheduler, Scheduler::Root(root) if root.is_kept())
    }

    pub(super) fn check_not_offered(&self) -> Result<()> {
        if self.offered {
            bail!("another scx_run is taking over; try again when it has");
        }
        Ok(())
    }
}

impl Adopted {
    /// What was found.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes over, between two measuring windows. `let_go` asks the process that is in charge to let go, if there is
    /// one; `in_charge` is called when that is done.
    pub fn take_over(
        self,
        window: Duration,
        let_go: impl FnOnce() -> Result<Option<LetGo>>,
        in_charge: impl FnOnce(&str),
    ) -> Result<(Engine, UpgradeReport)> {
        let Adopted { config, mut root, kept, took } = self;
        let mut windows = Windows::before(config.measure.then_some(config.per), window)?;

        let mut old = let_go()?;
        let outcome = root.take_over(old.as_mut().and_then(|old| old.saved.take()));
        let in_charge_at = monotonic_ns();
        // What has failed now leaves it attached, pinned, and under BPF alone.
        let taken = outcome.context("taking over; the scheduler stays attached, under BPF alone")?;
        let policy = root.active().and_then(|slot| root.in_slot(slot)).map(|policy| policy.name.clone());
        let policy = policy.unwrap_or_default();
        in_charge(&policy);
        root.clean_up(&kept)?;
        windows.across()?;
        let since = |old: &LetGo, now: u64| now.saturating_sub(old.at_ns);
        let mut report = UpgradeReport {
            from_pid: old.as_ref().map(|old| old.pid),
            to_pid: std::process::id(),
            from_version: old.as_ref().map_or(&kept.version, |old| &old.version).clone(),
            to_version: crate::VERSION.into(),
            policy,
            load_ms: took.as_secs_f64() * 1e3,
            without_process_ns: old.as_ref().map(|old| since(old, in_charge_at)),
            without_agent_ns: old.as_ref().zip(taken.decides_at_ns).map(|(old, at)| since(old, at)),
            restored: taken.restored,
            lost: 0,
            window_ms: if config.measure { window.as_secs_f64() * 1e3 } else { 0.0 },
            worst_before_ns: windows.worst_before_ns,
            worst_across_ns: windows.worst_across_ns,
            outside_ns: 0,
        };

        if !config.keep {
            root.unkeep()?;
        }
        let draining = root.retired();
        let mut engine = Engine::new(config, Scheduler::Root(root), windows.meter)?;
        if let Some(slot) = draining {
            engine.machine.resume_drain(slot);
        }
        // What the old process has not seen to, this one does: that one ends when it is told of the report. Hints that
        // were taken away by hand while it lived do not come back.
        let seen = old.as_ref().map(|old| old.environ.as_slice());
        engine.watch_environ(seen.map_or(Begin::Processes, Begin::Values));
        engine.discard_window()?;
        engine.open_run()?;
        report.lost = u32::try_from(engine.lost()?.len()).unwrap_or(u32::MAX);
        // A wait that began before the hand-over and has not ended is in no window.
        let waits = engine.longest_wait()?;
        if waits > window {
            report.worst_across_ns = report.worst_across_ns.map(|ns| ns.max(nanos(waits)));
        }
        let kernel = KernelState::read();
        if !kernel.enabled() || (kept.enable_seq.is_some() && kernel.enable_seq != kept.enable_seq) {
            bail!("sched_ext was left during the hand-over (state {}): this is a bug", kernel.state);
        }
        Ok((engine, report))
    }
}

/// Two measuring windows of the same length: one that ends as the other process is asked to let go, and one from there.
struct Windows {
    meter: Option<LatencyMeter>,
    length: Duration,
    /// The one before, until it has been read, which takes a while.
    before: Option<Pending>,
    across_from: Instant,
    worst_before_ns: Option<u64>,
    worst_across_ns: Option<u64>,
}

impl Windows {
    /// Measures the first window. Without `per` nothing is measured.
    fn before(per: Option<Option<Per>>, length: Duration) -> Result<Self> {
        let mut meter = per.map(LatencyMeter::start).transpose()?;
        let mut before = None;
        if let Some(meter) = &mut meter {
            // It does not know of waits that began before it did: they end in a window that does not count.
            thread::sleep(length);
            let unknown = meter.switch();
            let from = Instant::now();
            meter.collect(unknown)?;
            thread::sleep(length.saturating_sub(from.elapsed()));
            before = Some(meter.switch());
        }
        let across_from = Instant::now();
        Ok(Windows { meter, length, before, across_from, worst_before_ns: None, worst_across_ns: None })
    }

    /// Measures the second one to its end.
    fn across(&mut self) -> Result<()> {
        let (Some(meter), Some(before)) = (&mut self.meter, self.before.take()) else { return Ok(()) };
        self.worst_before_ns = Some(meter.collect(before)?.wait.max());
        thread::sleep(self.length.saturating_sub(self.across_from.elapsed()));
        self.worst_across_ns = Some(meter.rotate()?.wait.max());
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
