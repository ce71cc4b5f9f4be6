// SPDX-License-Identifier: GPL-2.0-only
//! Puts a contender in charge of the machine, makes sure that it stays, and takes it off again.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use framework::kernel::{KernelState, is_enabled};

use crate::job::NamedCommand;
use crate::programs::{self, end_with_us, last_lines};

/// How long a scheduler may take to attach: verifying a large one takes many seconds in emulation.
const ATTACH_PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take to end after SIGINT, before it is killed: loading and unloading take long in emulation.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long one that is not attached any more may take to end.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
/// Lines of a failed scheduler's output that are reported: scx_run says what went wrong, then the latencies.
const LAST_LINES: usize = 10;

/// A contender in charge. Dropping it takes it off.
pub struct Attached {
    /// `None` for the kernel's default.
    scheduler: Option<Program>,
}

struct Program {
    name: String,
    child: Child,
    output: PathBuf,
    /// As it was once attached: another value is another attachment.
    state: Option<(Option<String>, Option<u64>)>,
}

impl Attached {
    /// Starts the contender and waits until it is in charge. Its output goes to a file in `scratch`.
    pub fn start(contender: &NamedCommand, scratch: &Path) -> Result<Self> {
        let state = KernelState::read();
        if state.enabled() {
            bail!("another scheduler is attached: {}", state.ops.as_deref().unwrap_or("unknown"));
        }
        let Some(command) = &contender.command else { return Ok(Attached { scheduler: None }) };
        let mut program = Program::start(&contender.label, command, scratch)?;
        program.wait_attached(state.enable_seq, ATTACH_PATIENCE)?;
        Ok(Attached { scheduler: Some(program) })
    }

    /// Fails if it is not in charge any more, or not all the time since it was started.
    pub fn check(&mut self) -> Result<()> {
        match &mut self.scheduler {
            Some(program) => program.check(),
            None if is_enabled() => bail!("something attached itself meanwhile"),
            None => Ok(()),
        }
    }

    /// Takes it off and waits until the kernel's default is in charge.
    pub fn stop(mut self) -> Result<()> {
        let Some(mut program) = self.scheduler.take() else { return Ok(()) };
        program.end()
    }
}

impl Program {
    fn start(name: &str, command: &[String], scratch: &Path) -> Result<Self> {
        let output = scratch.join("scheduler.log");
        let log = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        let mut starting = Command::new(&command[0]);
        starting
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot duplicate a descriptor")?)
            .stderr(log)
            .process_group(0);
        end_with_us(&mut starting, libc::SIGINT);
        let child = starting.spawn().with_context(|| format!("cannot run {}", command[0]))?;
        Ok(Program { name: name.into(), child, output, state: None })
    }

    fn wait_attached(&mut self, seq_before: Option<u64>, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the scheduler")? {
                bail!("{} ended with {status} before it attached{}", self.name, self.last_words());
            }
            let state = KernelState::read();
            // The kernel counts the enabling a moment after it is done.
            if state.enabled() && (seq_before.is_none() || state.enable_seq != seq_before) {
                self.state = Some((state.ops, state.enable_seq));
                return Ok(());
            }
            if start.elapsed() > patience {
                let state = state.state;
                bail!("{} has not attached in {patience:?}: state {state}{}", self.name, self.last_words());
            }
            thread::sleep(POLL);
        }
    }

    fn check(&mut self) -> Result<()> {
        let state = KernelState::read();
        if !state.enabled() {
            // As a rule it is about to end then, and says why.
            wait_until(LAST_WORDS_PATIENCE, || self.child.try_wait().is_ok_and(|status| status.is_some()));
        }
        if let Some(status) = self.child.try_wait().context("cannot wait for the scheduler")? {
            bail!("{} ended with {status}{}", self.name, self.last_words());
        }
        if !state.enabled() {
            bail!("{} is not in charge any more: state {}{}", self.name, state.state, self.last_words());
        }
        let now = Some((state.ops, state.enable_seq));
        if now != self.state {
            bail!("{} was detached and attached again{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Ends it by SIGINT, or SIGKILL if need be.
    fn end(&mut self) -> Result<()> {
        let mut stuck = None;
        if self.child.try_wait().ok().flatten().is_none() {
            signal(&self.child, libc::SIGINT);
            if !wait_until(STOP_PATIENCE, || self.child.try_wait().is_ok_and(|status| status.is_some())) {
                stuck = Some(programs::what_threads_wait_for(self.child.id()));
                signal(&self.child, libc::SIGKILL);
                let _ = self.child.wait();
            }
        }
        if !wait_until(STOP_PATIENCE, || !is_enabled()) {
            bail!("{} is gone, and its scheduler is still attached; is it pinned?", self.name);
        }
        if let Some(threads) = stuck {
            bail!(
                "{} did not end within {STOP_PATIENCE:?} of SIGINT and was killed; its threads then: {threads}{}",
                self.name,
                self.last_words()
            );
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let last = last_lines(&text, LAST_LINES);
        if last.is_empty() {
            "; it printed nothing".into()
        } else {
            format!("; it printed:\n  {}", last.join("\n  "))
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Whoever wanted to know has called stop().
        let _ = self.end();
    }
}

/// Waits until a condition holds. Whether it came to that in time.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > patience {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

fn signal(child: &Child, signal: i32) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    // SAFETY: kill takes plain integers. The child has not been waited for, so the number is its own.
    unsafe { libc::kill(pid, signal) };
}
