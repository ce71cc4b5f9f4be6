// SPDX-License-Identifier: GPL-2.0-only
//! What a running scx_run prints, written by a thread of its own: whoever reads it may be slow or stopped, and
//! the agent must go on all the same.

use std::cell::Cell;
use std::io::{Write as _, stderr, stdout};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crossbeam::channel::{Receiver, Sender, bounded, select};
use framework::latency::Sample;
use framework::report::SwapReport;

use crate::render;

/// Texts that wait for a reader, at most. Later ones are dropped, and their number told when there is room.
const MAX_WAITING: usize = 64;
/// How long to go on trying when ending on an error.
const LAST_CHANCE: Duration = Duration::from_secs(1);

enum Text {
    Out(String),
    Err(String),
}

/// Where and how to say things: text on stdout, or JSON lines there and notes on stderr.
pub struct Output {
    json: bool,
    texts: Option<Sender<Text>>,
    /// Closed when the last text has been written.
    written: Receiver<()>,
    dropped: Cell<u64>,
}

impl Output {
    /// Starts the thread that writes.
    pub fn start(json: bool) -> Result<Self> {
        let (texts, waiting) = bounded(MAX_WAITING);
        let (done, written) = bounded(0);
        let write = move || {
            for text in waiting {
                // A reader that has gone is no reason to stop scheduling.
                let _ = match text {
                    Text::Out(text) => stdout().write_all(text.as_bytes()),
                    Text::Err(text) => stderr().write_all(text.as_bytes()),
                };
            }
            drop(done);
        };
        thread::Builder::new().name("output".into()).spawn(write).context("starting a thread")?;
        Ok(Output { json, texts: Some(texts), written, dropped: Cell::new(0) })
    }

    /// A line on stderr.
    pub fn note(&self, text: &str) {
        self.offer(Text::Err(format!("scx_run: {text}\n")));
    }

    /// The statistics of an interval.
    pub fn interval(&self, policy: &str, sample: &Sample) {
        self.offer(Text::Out(if self.json {
            format!("{}\n", serde_json::json!({ "interval": { "policy": policy, "latency": sample } }))
        } else {
            format!("{}\n", render::interval(policy, sample))
        }));
    }

    /// The report of a swap.
    pub fn swapped(&self, report: &SwapReport) {
        self.offer(Text::Out(if self.json {
            format!("{}\n", serde_json::json!({ "swap": report }))
        } else {
            render::swap(report)
        }));
    }

    fn offer(&self, text: Text) {
        let Some(texts) = &self.texts else { return };
        let dropped = self.dropped.get();
        if dropped > 0 {
            let note = format!("scx_run: nobody was reading: {dropped} messages were dropped\n");
            if texts.try_send(Text::Err(note)).is_ok() {
                self.dropped.set(0);
            }
        }
        if texts.try_send(text).is_err() {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Writes `last` on stdout after all that waits, and returns when it has been written or `signals` has
    /// something to say: nothing depends on us any more, so a slow reader is waited for.
    pub fn finish(mut self, last: String, signals: &Receiver<()>) {
        let Some(texts) = self.texts.take() else { return };
        select! {
            send(texts, Text::Out(last)) -> _ => {}
            recv(signals) -> _ => return,
        }
        drop(texts);
        select! {
            recv(self.written) -> _ => {}
            recv(signals) -> _ => {}
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.texts.take().is_some() {
            // Closed or timed out: either way we are done.
            let _ = self.written.recv_timeout(LAST_CHANCE);
        }
    }
}
