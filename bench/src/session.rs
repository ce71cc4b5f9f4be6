// SPDX-License-Identifier: GPL-2.0-only
//! A command that measures, from its jobs to the report.

use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use anyhow::{Result, bail};
use framework::signals;

use crate::analysis::Document;
use crate::cli::Common;
use crate::collect::{self, Collected, Placed};
use crate::job::Event;
use crate::model::{Cell, Failure, Kind, Mode, Report, SCHEMA, Settings, WorkloadSpec};
use crate::place::Place;
use crate::previous::Previous;
use crate::progress::Progress;
use crate::report;

/// Exit code when a part was not measured; the report has the rest.
const INCOMPLETE: u8 = 3;
/// Exit code when the user stopped it.
pub const INTERRUPTED: u8 = 130;

/// A command that measures.
pub struct Session<'a> {
    /// Which.
    pub kind: Kind,
    /// Its options.
    pub common: &'a Common,
    /// Where it measures.
    pub place: &'a Place,
    /// Why there, in a few words.
    pub why: &'a str,
    /// Names of the contenders, the baseline first.
    pub contenders: Vec<String>,
    /// The workloads.
    pub workloads: Vec<WorkloadSpec>,
    /// Rounds or seeds.
    pub runs: u32,
    /// Seconds a workload.
    pub seconds: f64,
    /// What progress counts.
    pub cells: u64,
}

impl Session<'_> {
    /// Does the jobs, writes the report, prints the summary.
    pub fn run(&self, mut jobs: Vec<Placed>) -> Result<ExitCode> {
        report::writable(&self.common.out)?;
        let mut report = self.blank();
        let signals = signals::listen()?;
        eprintln!("scx_bench: measuring {}", self.why);
        let deterministic = self.place.mode() == Mode::Deterministic;
        // The first is done twice: if two runs with one seed differ, nothing that follows can be believed.
        let repeat = deterministic && jobs.len() > 1;
        if repeat {
            jobs.push(jobs[0].clone());
        }
        // A deterministic machine counts the same however busy the host is.
        let parallel =
            if deterministic { thread::available_parallelism().map_or(1, NonZero::get) } else { 1 };
        let previous = if self.place.mode() == Mode::Host { Previous::end()? } else { None };
        let mut progress = Progress::start(self.cells + if repeat { 1 } else { 0 });
        let collected = collect::run(&jobs, parallel, &signals, &mut progress);
        progress.finish();
        drop(previous);
        let mut collected = collected?;
        let again = if repeat { collected.events.pop().unwrap_or_default() } else { Vec::new() };
        // What was cut short differs for another reason.
        let whole = |events: &[Event]| events.last() == Some(&Event::Done);
        let comparable = repeat && whole(&collected.events[0]) && whole(&again);
        let difference = if comparable { difference(&collected.events[0], &again) } else { None };
        fill(&mut report, collected);
        self.publish(&report, difference.as_deref())
    }

    fn blank(&self) -> Report {
        Report {
            schema: SCHEMA,
            kind: self.kind,
            created: now(),
            settings: Settings {
                version: env!("CARGO_PKG_VERSION").into(),
                command: command_line(std::env::args()),
                mode: self.place.mode(),
                contenders: self.contenders.clone(),
                runs: self.runs,
                seed: self.common.seed,
                seconds: self.seconds,
            },
            machine: None,
            workloads: self.workloads.clone(),
            cells: Vec::new(),
            swaps: Vec::new(),
            failures: Vec::new(),
            interrupted: false,
        }
    }

    fn publish(&self, report: &Report, difference: Option<&str>) -> Result<ExitCode> {
        if report.cells.is_empty() && report.swaps.is_empty() {
            if report.interrupted {
                return Ok(ExitCode::from(INTERRUPTED));
            }
            bail!("nothing was measured{}", first_failure(report));
        }
        let document = Document::new(report.clone());
        // Before it is written: a full disk must not lose all that was measured.
        if self.common.json {
            println!("{}", serde_json::to_string(&document)?);
        } else {
            println!("{}", report::to_text(&document).trim_end());
        }
        let written = report::write(&self.common.out, &document)?;
        if let Some(page) = written.first() {
            eprintln!("scx_bench: the report is {}", page.display());
        }
        if let Some(difference) = difference {
            bail!(
                "two runs with one seed differ ({difference}): this machine does not repeat exactly, and the report \
                 must not be believed"
            );
        }
        Ok(match () {
            () if report.interrupted => ExitCode::from(INTERRUPTED),
            () if !report.failures.is_empty() => ExitCode::from(INCOMPLETE),
            () => ExitCode::SUCCESS,
        })
    }
}

fn first_failure(report: &Report) -> String {
    report.failures.first().map_or(String::new(), |failure| format!(": {}", failure.message))
}

/// The command line without what does not change the outcome.
fn command_line(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut words = vec!["scx_bench".to_owned()];
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--out" => drop(args.next()),
            "--json" => {}
            other if other.starts_with("--out=") => {}
            _ => words.push(arg),
        }
    }
    words
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

/// Puts what was told into the report, in the order of the jobs.
fn fill(report: &mut Report, collected: Collected) {
    report.interrupted = collected.interrupted;
    for event in collected.events.into_iter().flatten() {
        match event {
            Event::Machine(machine) => {
                report.machine.get_or_insert(machine);
            }
            Event::Cell(cell) => report.cells.push(cell),
            Event::Swap(swap) => report.swaps.push(swap),
            // A workload that is missing is so for every contender and seed.
            Event::Failed(failure) if report.failures.contains(&failure) => {}
            Event::Failed(failure) => report.failures.push(failure),
            Event::Begin { .. } | Event::Done => {}
        }
    }
    report.failures.extend(collected.broken.into_iter().map(|(_, message)| Failure {
        contender: String::new(),
        workload: None,
        round: 0,
        message,
    }));
}

/// The first difference between what two runs have told, if there is one.
fn difference(one: &[Event], other: &[Event]) -> Option<String> {
    if one == other {
        return None;
    }
    let cells = |events: &[Event]| -> Vec<Cell> {
        let cell = |event: &Event| if let Event::Cell(cell) = event { Some(cell.clone()) } else { None };
        events.iter().filter_map(cell).collect()
    };
    let (one, other) = (cells(one), cells(other));
    let differing = one.iter().zip(&other).find(|(a, b)| a != b);
    Some(differing.map_or("one has told more than the other".into(), |(a, b)| {
        let value =
            a.measured.values.iter().find(|(name, value)| b.measured.values.get(*name) != Some(value));
        let what = value.map_or("a histogram".into(), |(name, value)| {
            let again = b.measured.values.get(name).map_or("nothing".into(), f64::to_string);
            format!("{name}: {value} and {again}")
        });
        format!("{} under {}, seed {}, {what}", a.contender, a.workload, a.seed)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_leaves_out_where_the_report_goes() {
        let words = ["x/scx_bench", "compare", "--out", "a b", "--seeds", "2", "--out=c", "--json"];
        let kept = command_line(words.into_iter().map(str::to_owned));
        assert_eq!(kept, ["scx_bench", "compare", "--seeds", "2"]);
    }

    #[test]
    fn a_difference_is_named() {
        let cell = |value: f64| {
            Event::Cell(Cell {
                contender: "fifo".into(),
                workload: "pipe".into(),
                cpus: 1,
                round: 0,
                seed: 7,
                measured: crate::model::Measured {
                    values: [("per_switch".to_owned(), value)].into(),
                    ..Default::default()
                },
            })
        };
        assert_eq!(difference(&[cell(1.0)], &[cell(1.0)]), None);
        let difference = difference(&[cell(1.0)], &[cell(2.0)]).unwrap();
        assert_eq!(difference, "fifo under pipe, seed 7, per_switch: 1 and 2");
    }
}
