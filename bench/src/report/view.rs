// SPDX-License-Identifier: GPL-2.0-only
//! A report as pages need it: what was measured, what follows, where it came from.

use crate::analysis::{self, Comparison, Document, Verdict};
use crate::kernel_view;
use crate::model::{Machine, Mode, Report, Settings, WorkloadSpec};

/// Where a report came from.
pub struct Origin {
    /// What its contenders are labelled with; empty if there is only one report.
    pub label: String,
    /// When it began.
    pub created: String,
    /// Its settings.
    pub settings: Settings,
    /// Its machine.
    pub machine: Option<Machine>,
}

/// A report and what follows from it.
pub struct View<'a> {
    /// What was measured.
    pub report: &'a Report,
    /// What follows.
    pub comparisons: &'a [Comparison],
    /// The contenders, the baseline first.
    pub contenders: Vec<&'a str>,
    /// The reports that it is made of.
    pub origins: Vec<Origin>,
}

/// The symbol of a verdict, so that it does not take colours to tell them apart.
pub fn symbol(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Baseline => "",
        Verdict::Better => "✓",
        Verdict::Worse => "✗",
        Verdict::Changed => "≠",
        Verdict::Same => "≈",
        Verdict::Unknown => "?",
    }
}

/// A verdict in words.
pub fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Baseline => "baseline",
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Changed => "changed",
        Verdict::Same => "no difference shown",
        Verdict::Unknown => "unknown",
    }
}

/// The command line, as it would be typed.
pub fn command_line(settings: &Settings) -> String {
    let words = || settings.command.iter().map(String::as_str);
    shlex::try_join(words()).unwrap_or_else(|_| words().collect::<Vec<_>>().join(" "))
}

/// What a mode can tell and what not.
pub fn about_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Deterministic => {
            "Deterministic mode: time is the number of instructions executed. It counts instructions and \
             scheduling decisions exactly, and the same seeds give the same report. It knows nothing of cache \
             misses, of memory, or of what an interrupt between real CPUs costs: differences in these do not show."
        }
        Mode::Vm => {
            "Throughput mode in a virtual machine: real time with real caches, and with the noise of the host. \
             Wake-ups and interrupts between virtual CPUs cost more than on the bare machine. Rounds of the \
             contenders alternate, so that a slow drift meets them all."
        }
        Mode::Host => {
            "Throughput mode on this machine: real time, with the noise of whatever else ran and of the CPU's \
             clock. Rounds of the contenders alternate, so that a slow drift meets them all."
        }
    }
}

/// The name of a mode.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Host => "host",
        Mode::Vm => "vm",
        Mode::Deterministic => "deterministic",
    }
}

/// Where reports came from.
pub fn origins(reports: &[(String, Report)]) -> Vec<Origin> {
    reports.iter().map(|(label, report)| origin(label, report)).collect()
}

fn origin(label: &str, report: &Report) -> Origin {
    Origin {
        label: label.into(),
        created: report.created.clone(),
        settings: report.settings.clone(),
        machine: report.machine.clone(),
    }
}

impl<'a> View<'a> {
    /// A report as it is.
    pub fn of(document: &'a Document) -> Self {
        View {
            report: &document.report,
            comparisons: &document.comparisons,
            contenders: analysis::contenders(&document.report),
            origins: vec![origin("", &document.report)],
        }
    }

    /// The comparisons of a metric, one a contender in their order, if it was measured on so many CPUs.
    pub fn row(&self, cpus: u32, workload: &str, metric: &str) -> Vec<Option<&'a Comparison>> {
        let of = |contender: &&str| {
            self.comparisons.iter().find(|c| {
                c.cpus == cpus && c.workload == workload && c.metric == metric && c.contender == **contender
            })
        };
        self.contenders.iter().map(of).collect()
    }

    /// The metrics of a workload that were measured on so many CPUs: its own, and those of the kernel's view.
    pub fn metrics(&self, cpus: u32, workload: &WorkloadSpec) -> (Vec<&'a str>, Vec<&'a str>) {
        let of = |c: &&Comparison| c.cpus == cpus && c.workload == workload.name;
        let mut names: Vec<&str> = Vec::new();
        for comparison in self.comparisons.iter().filter(of) {
            if !names.contains(&comparison.metric.as_str()) {
                names.push(&comparison.metric);
            }
        }
        let own = |name: &&str| {
            workload.metrics.iter().any(|metric| metric.name == *name) || !kernel_view::is_one(name)
        };
        names.into_iter().partition(own)
    }

    /// How often a verdict was given for a contender.
    pub fn count(&self, contender: &str, verdict: Verdict) -> usize {
        self.comparisons.iter().filter(|c| c.contender == contender && c.verdict == verdict).count()
    }
}
