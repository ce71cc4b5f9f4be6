// SPDX-License-Identifier: GPL-2.0-only
//! The process that measures: does a [`Job`] on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use framework::latency::LatencyMeter;

use crate::attach::Attached;
use crate::job::{Event, Job, NamedCommand, Task};
use crate::model::{Cell, Failure, Machine, Measured};
use crate::session::INTERRUPTED;
use crate::workload::sys::set_fifo;
use crate::workload::{self, Context, Workload};
use crate::{kernel_view, machine, op_cost, swapping};

/// A contender that has failed this often is left out of what follows.
const MAX_FAILURES: u32 = 2;
/// The warm-up round is this much shorter.
const WARM_UP_SHARE: u32 = 5;

/// Does the job that is given as JSON, telling events on stdout.
pub fn run(job: &str) -> Result<ExitCode> {
    let job: Job = serde_json::from_str(job).context("no job: this command is scx_bench's own")?;
    end_when_told()?;
    // Its sleeps must end in time, whatever the contender does with a loaded machine.
    set_fifo()?;
    let scratch = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let workloads = match &job.task {
        Task::Cells { families, .. } => {
            families.iter().flatten().map(|name| find(name)).collect::<Result<_>>()?
        }
        Task::Swaps { .. } => Vec::new(),
    };
    let machine = machine::look(&workloads, job.spins_per_us)?;
    tell(&Event::Machine(machine.clone()));
    let mut bench = Bench {
        meter: job.probes.then(|| LatencyMeter::start(None)).transpose()?,
        machine,
        scratch: scratch.path().to_owned(),
        failures: BTreeMap::new(),
        missing: BTreeSet::new(),
        job: &job,
    };
    match &job.task {
        Task::Cells { contenders, families } => bench.cells(contenders, families)?,
        Task::Swaps { vias, swaps } => swapping::run(&job, vias, *swaps, &bench.machine, &bench.scratch)?,
    }
    tell(&Event::Done);
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C ends this process with the load it has started. The contender ends by its death.
fn end_when_told() -> Result<()> {
    let signals = framework::signals::listen()?;
    let wait = move || {
        // An error means that nobody can tell us.
        if signals.recv().is_ok() {
            workload::command::end_all(INTERRUPTED.into());
        }
    };
    std::thread::Builder::new().name("end".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// Prints an event.
pub fn tell(event: &Event) {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    // Whoever started us may be gone; then a signal is on its way.
    let _ = std::io::stdout().write_all(&line);
}

fn find(name: &str) -> Result<&'static dyn Workload> {
    let found = workload::all().iter().find(|workload| workload.spec().name == name);
    found.copied().with_context(|| format!("no workload {name:?}"))
}

struct Bench<'a> {
    job: &'a Job,
    machine: Machine,
    meter: Option<LatencyMeter>,
    scratch: std::path::PathBuf,
    /// By contender.
    failures: BTreeMap<String, u32>,
    /// Workloads that cannot be run here.
    missing: BTreeSet<String>,
}

/// A round, counted or not.
#[derive(Clone, Copy)]
struct Round {
    number: u32,
    counts: bool,
}

impl Bench<'_> {
    fn cells(&mut self, contenders: &[NamedCommand], families: &[Vec<String>]) -> Result<()> {
        self.leave_out_missing(families)?;
        if self.job.warm_up_round {
            let round = Round { number: 0, counts: false };
            for (family, contender) in families.iter().zip(contenders.iter().cycle()) {
                self.family(contender, family, round)?;
            }
        }
        for number in 0..self.job.rounds {
            for family in families {
                // Contenders take turns at being first: what drifts on the machine favours nobody.
                let first = number as usize % contenders.len().max(1);
                for n in 0..contenders.len() {
                    let contender = &contenders[(first + n) % contenders.len()];
                    self.family(contender, family, Round { number, counts: true })?;
                }
            }
        }
        Ok(())
    }

    fn leave_out_missing(&mut self, families: &[Vec<String>]) -> Result<()> {
        for name in families.iter().flatten() {
            if let Some(message) = find(name)?.missing() {
                self.missing.insert(name.clone());
                tell(&Event::Failed(Failure {
                    contender: String::new(),
                    workload: Some(name.clone()),
                    round: 0,
                    message,
                }));
            }
        }
        Ok(())
    }

    /// One contender under the members of a family, attached once.
    fn family(&mut self, contender: &NamedCommand, family: &[String], round: Round) -> Result<()> {
        let members: Vec<_> = family.iter().filter(|name| !self.missing.contains(*name)).collect();
        if members.is_empty() || self.failures.get(&contender.label).is_some_and(|n| *n >= MAX_FAILURES) {
            return Ok(());
        }
        if round.counts {
            let (who, what) = (contender.label.clone(), members[0].clone());
            tell(&Event::Begin { who, what, round: round.number });
        }
        let mut attached = match Attached::start(contender, &self.scratch) {
            Ok(attached) => attached,
            Err(error) => {
                // What cannot attach now will not be able to later.
                self.fail(contender, None, round, &error, MAX_FAILURES);
                return Ok(());
            }
        };
        let seconds = Duration::from_secs_f64(self.job.seconds / members.len() as f64);
        for name in members {
            let workload = find(name)?;
            let outcome = self.one(workload, seconds, round);
            // A scheduler that has gone is the cause of whatever else went wrong.
            if let Err(error) = attached.check() {
                self.fail(contender, Some(name), round, &error, 1);
                return Ok(());
            }
            match outcome {
                Ok(measured) if round.counts => {
                    tell(&Event::Cell(self.cell(contender, name, round, measured)))
                }
                Ok(_) => {}
                Err(error) => self.fail(contender, Some(name), round, &error, 0),
            }
        }
        if let Err(error) = attached.stop() {
            self.fail(contender, None, round, &error, 1);
        }
        Ok(())
    }

    fn one(&mut self, workload: &dyn Workload, seconds: Duration, round: Round) -> Result<Measured> {
        let seconds = if round.counts { seconds } else { seconds / WARM_UP_SHARE };
        let scratch =
            tempfile::tempdir_in(&self.scratch).context("cannot make a folder for temporary files")?;
        let seed = self.job.seed + u64::from(round.number);
        let ops = workload.counts_ops().then(op_cost::Counting::start).transpose()?;
        let mut context =
            Context::new(&self.machine, seconds, seed, scratch.path().to_owned(), self.meter.as_mut());
        let mut measured = workload.run(&mut context)?;
        match context.into_kernel_view() {
            Some(sample) => kernel_view::add(&mut measured, &sample),
            None if self.meter.is_some() => bail!("{} has measured nothing", workload.spec().name),
            None => {}
        }
        if let Some(ops) = ops {
            measured.values.extend(ops.finish()?);
        }
        Ok(measured)
    }

    fn cell(&self, contender: &NamedCommand, workload: &str, round: Round, measured: Measured) -> Cell {
        Cell {
            contender: contender.label.clone(),
            workload: workload.to_owned(),
            cpus: self.machine.cpus,
            round: round.number,
            seed: self.job.seed + u64::from(round.number),
            measured,
        }
    }

    fn fail(
        &mut self,
        contender: &NamedCommand,
        workload: Option<&String>,
        round: Round,
        error: &anyhow::Error,
        counts: u32,
    ) {
        let failures = self.failures.entry(contender.label.clone()).or_default();
        *failures += counts;
        let left_out = if counts > 0 && *failures >= MAX_FAILURES { " (left out from here)" } else { "" };
        tell(&Event::Failed(Failure {
            contender: contender.label.clone(),
            workload: workload.cloned(),
            round: round.number,
            message: format!("{error:#}{left_out}"),
        }));
    }
}
