// SPDX-License-Identifier: GPL-2.0-only
//! What a running scx_run prints, written by a thread of its own: whoever reads it may be slow or stopped, and
//! the agent must go on all the same.

use std::collections::VecDeque;
use std::io::{Write as _, stderr, stdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crossbeam::channel::Receiver;
use framework::latency::Sample;
use framework::report::{SwapReport, UpgradeReport};

use crate::render;

/// Texts that wait for a reader, at most. Later ones are dropped, and their number told when there is room.
const MAX_WAITING: usize = 64;
/// How long to go on trying when ending on an error.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// How often to look for a signal while waiting for the reader at the end.
const SIGNAL_PERIOD: Duration = Duration::from_millis(50);

enum Text {
    Out(String),
    Err(String),
}

/// Texts on their way to the thread that writes them.
///
/// Not a channel: crossbeam's and std's spin before they sleep, which takes seconds where virtual CPUs share one
/// real one, and disturbs what is measured.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    texts: VecDeque<Text>,
    dropped: u64,
    /// No more will come.
    closed: bool,
    /// The last has been written.
    written: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; if somebody did, the texts would still be texts.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, text: Text) {
        let mut state = self.lock();
        if state.texts.len() >= MAX_WAITING {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            let note = format!("scx_run: nobody was reading: {dropped} messages were dropped\n");
            state.texts.push_back(Text::Err(note));
        }
        state.texts.push_back(text);
        self.changed.notify_all();
    }

    fn close(&self, last: Option<Text>) {
        let mut state = self.lock();
        state.texts.extend(last);
        state.closed = true;
        self.changed.notify_all();
    }

    /// Waits until the last text has been written, or a while.
    fn wait_written(&self, patience: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |state| !state.written);
        waited.unwrap_or_else(PoisonError::into_inner).0.written
    }

    /// Writes what comes, to the end.
    fn write(&self) {
        loop {
            let waited =
                self.changed.wait_while(self.lock(), |state| state.texts.is_empty() && !state.closed);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(text) = state.texts.pop_front() else {
                state.written = true;
                self.changed.notify_all();
                return;
            };
            drop(state);
            // A reader that has gone is no reason to stop scheduling.
            let _ = match text {
                Text::Out(text) => stdout().write_all(text.as_bytes()),
                Text::Err(text) => stderr().write_all(text.as_bytes()),
            };
        }
    }
}

/// Where and how to say things: text on stdout, or JSON lines there and notes on stderr.
pub struct Output {
    json: bool,
    queue: Arc<Queue>,
}

impl Output {
    /// Starts the thread that writes.
    pub fn start(json: bool) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let writer = queue.clone();
        thread::Builder::new()
            .name("output".into())
            .spawn(move || writer.write())
            .context("starting a thread")?;
        Ok(Output { json, queue })
    }

    /// A line on stderr.
    pub fn note(&self, text: &str) {
        self.queue.push(Text::Err(format!("scx_run: {text}\n")));
    }

    /// The statistics of an interval.
    pub fn interval(&self, policy: &str, sample: &Sample) {
        self.queue.push(Text::Out(if self.json {
            format!("{}\n", serde_json::json!({ "interval": { "policy": policy, "latency": sample } }))
        } else {
            format!("{}\n", render::interval(policy, sample))
        }));
    }

    /// The report of a swap.
    pub fn swapped(&self, report: &SwapReport) {
        self.queue.push(Text::Out(if self.json {
            format!("{}\n", serde_json::json!({ "swap": report }))
        } else {
            render::swap(report)
        }));
    }

    /// The report of a hand-over.
    pub fn upgraded(&self, report: &UpgradeReport) {
        self.queue.push(Text::Out(if self.json {
            format!("{}\n", serde_json::json!({ "upgrade": report }))
        } else {
            render::upgrade(report)
        }));
    }

    /// Writes `last` on stdout after all that waits, and returns when it has been written or `signals` has
    /// something to say: nothing depends on us any more, so a slow reader is waited for.
    pub fn finish(self, last: String, signals: &Receiver<()>) {
        self.queue.close(Some(Text::Out(last)));
        while !self.queue.wait_written(SIGNAL_PERIOD) && signals.try_recv().is_err() {}
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.queue.close(None);
        self.queue.wait_written(LAST_CHANCE);
    }
}
