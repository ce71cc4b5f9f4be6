// SPDX-License-Identifier: GPL-2.0-only
//! Makes jobs out of what the user asked for.

use anyhow::{Result, bail};

use crate::collect::Placed;
use crate::contender::Contender;
use crate::job::{Job, NamedCommand, Task};
use crate::machine::deterministic_spins_per_us;
use crate::model::{Mode, WorkloadSpec};
use crate::place::Place;
use crate::workload::{self, pipes};

/// What all contenders are called in a deterministic machine. The length of a name moves what is in memory, and with
/// it the figures: a contender would differ from itself under another name.
const NAMELESS: &str = "the contender";

/// Workloads by family, in the order of [`workload::all`].
pub type Families = Vec<Vec<String>>;

/// Looks up workloads and families by name.
pub fn families(names: &[String]) -> Result<Families> {
    let specs: Vec<WorkloadSpec> = workload::all().iter().map(|workload| workload.spec()).collect();
    let known = |name: &String| specs.iter().any(|spec| spec.name == *name || spec.family == *name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let mut families: Vec<_> = specs.iter().map(|spec| spec.family.as_str()).collect();
        families.dedup();
        bail!("no workload {unknown:?}; there are {} (see `scx_bench list`)", families.join(", "));
    }
    let mut chosen: Families = Vec::new();
    let mut last_family = None;
    for spec in specs.iter().filter(|spec| names.contains(&spec.name) || names.contains(&spec.family)) {
        match chosen.last_mut() {
            Some(members) if last_family == Some(&spec.family) => members.push(spec.name.clone()),
            _ => chosen.push(vec![spec.name.clone()]),
        }
        last_family = Some(&spec.family);
    }
    if chosen.is_empty() {
        bail!("no workload; name some, such as --workloads schbench,pipe (see `scx_bench list`)");
    }
    Ok(chosen)
}

/// The descriptions of chosen workloads.
pub fn specs(families: &Families) -> Vec<WorkloadSpec> {
    let chosen = |spec: &WorkloadSpec| families.iter().flatten().any(|name| *name == spec.name);
    workload::all().iter().map(|workload| workload.spec()).filter(chosen).collect()
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Contenders, the baseline first.
    pub contenders: Vec<Contender>,
    /// Workloads.
    pub families: Families,
    /// Rounds, or seeds.
    pub runs: u32,
    /// The first seed.
    pub seed: u64,
    /// Seconds a family and run.
    pub seconds: f64,
    /// Attach the latency probes.
    pub probes: bool,
}

impl Matrix {
    /// Number of cells.
    pub fn cells(&self) -> u64 {
        let workloads: usize = self.families.iter().map(Vec::len).sum();
        (workloads * self.contenders.len()) as u64 * u64::from(self.runs)
    }

    /// What of it a deterministic machine with so many CPUs can do in a reasonable time.
    pub fn within_reach(&self, cpus: u32) -> Self {
        let mut matrix = self.clone();
        if cpus > pipes::PINNED_UP_TO {
            matrix.families.iter_mut().for_each(|family| family.retain(|name| name != pipes::PINNED));
            matrix.families.retain(|family| !family.is_empty());
        }
        matrix
    }

    /// The jobs: one that does all in turns, or in deterministic mode a fresh machine for each contender, family
    /// and seed. There nothing drifts, and each begins in exactly the same state.
    pub fn jobs(&self, place: &Place) -> Result<Vec<Placed>> {
        let commands = self.contenders.iter().map(named_command).collect::<Result<Vec<_>>>()?;
        let job = |contenders: Vec<NamedCommand>, families: Families, seed, rounds, exact: bool| Placed {
            job: Job {
                task: Task::Cells { contenders, families },
                rounds,
                warm_up_round: !exact,
                seed,
                seconds: self.seconds,
                probes: self.probes,
                spins_per_us: exact.then(|| deterministic_spins_per_us(place.cpus())),
            },
            place: place.clone(),
            contender: None,
        };
        if place.mode() != Mode::Deterministic {
            return Ok(vec![job(commands, self.families.clone(), self.seed, self.runs, false)]);
        }
        let mut jobs = Vec::new();
        for seed in (self.seed..).take(self.runs as usize) {
            for family in &self.families {
                for command in &commands {
                    let nameless = NamedCommand { label: NAMELESS.into(), command: command.command.clone() };
                    let job = job(vec![nameless], vec![family.clone()], seed, 1, true);
                    jobs.push(Placed { contender: Some(command.label.clone()), ..job });
                }
            }
        }
        Ok(jobs)
    }
}

fn named_command(contender: &Contender) -> Result<NamedCommand> {
    Ok(NamedCommand { label: contender.label.clone(), command: contender.command()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_for_ever_is_left_out() {
        let matrix = Matrix {
            contenders: Vec::new(),
            families: families(&["pipes".into(), "pinned".into()]).unwrap(),
            runs: 1,
            seed: 1,
            seconds: 1.0,
            probes: true,
        };
        assert_eq!(matrix.within_reach(32).families, [["pipes", "pinned"]]);
        assert_eq!(matrix.within_reach(64).families, [["pipes"]]);
    }

    #[test]
    fn families_keep_together_and_in_order() {
        let all = families(&["pipe".into()]).unwrap();
        assert_eq!(all, [["pipe"]]);
        let error = families(&["pip".into()]).unwrap_err().to_string();
        assert!(error.contains("pip") && error.contains("pipe"), "{error}");
        assert!(families(&[]).is_err());
    }
}
