// SPDX-License-Identifier: GPL-2.0-only
//! Shows how far it is: a bar with the time left on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::job::Event;

/// Between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(30);
/// A bar steps on its own this often: its clock goes on while nothing is told.
const TICK: Duration = Duration::from_millis(500);

/// How far it is.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    told: Instant,
    began: Instant,
}

impl Progress {
    /// For so many cells (and swaps).
    pub fn start(cells: u64) -> Self {
        let terminal = stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(cells),
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} gone  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Progress { bar, terminal, told: Instant::now(), began: Instant::now() }
    }

    /// Takes note of what was told.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Begin { who, what, round } => {
                let left = self.left();
                self.bar.set_message(format!("{left}{who} under {what}, round {}", round + 1));
                self.line(who, what);
            }
            Event::Cell(_) | Event::Swap(_) => self.bar.inc(1),
            Event::Failed(failure) => {
                let workload = failure.workload.as_deref();
                let who: Vec<_> = [Some(failure.contender.as_str()).filter(|who| !who.is_empty()), workload]
                    .into_iter()
                    .flatten()
                    .collect();
                self.note(&format!("{}: {}", who.join(" under "), failure.message));
            }
            Event::Machine(_) | Event::Done => {}
        }
    }

    fn line(&mut self, who: &str, what: &str) {
        if self.terminal || self.told.elapsed() < LINE_PERIOD {
            return;
        }
        self.told = Instant::now();
        let (at, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        eprintln!("scx_bench: {at} of {all} done, {}now {who} under {what}", self.left());
    }

    /// How long it may still take, if what is done takes as long as what is left.
    fn left(&self) -> String {
        let (at, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        if at == 0 {
            return String::new();
        }
        let left = self.began.elapsed().as_secs_f64() * all.saturating_sub(at) as f64 / at as f64;
        format!("about {} left; ", HumanDuration(Duration::from_secs(left as u64)))
    }

    /// A line beside the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("scx_bench: {text}"));
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
