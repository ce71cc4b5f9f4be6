// SPDX-License-Identifier: GPL-2.0-only
//! Physical cores: which CPUs are SMT siblings, as policies built on `bpf/include/cores.bpf.h` are told.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use libbpf_rs::OpenObject;
use scx_utils::Topology;

use crate::globals::Globals;
use crate::policy::ParamValue;

/// CPUs of a core that are told apart: `MAX_CORE_CPUS` of `bpf/include/cores.bpf.h`.
const MAX_CORE_CPUS: usize = 8;
/// The variables of a policy that wants to know.
const OF_CPU: &str = "policy_cpu_core";
const NEXT: &str = "policy_cpu_next";
const RANK: &str = "policy_cpu_rank";
/// The parameter that makes cores of so many CPUs.
const PARAM: &str = "core_cpus";

/// The core of each CPU, numbered from 0 without gaps.
#[derive(Debug, PartialEq, Eq)]
struct Cores {
    of_cpu: Vec<u16>,
}

impl Cores {
    /// As the hardware has them.
    fn of_hardware(cpus: usize) -> Result<Self> {
        let topology = Topology::new().context("reading the topology of the CPUs")?;
        let known = topology.all_cores.iter().flat_map(|(id, core)| core.cpus.keys().map(|cpu| (*cpu, *id)));
        Ok(Cores::numbered(cpus, &known.collect()))
    }

    /// The kernel says nothing of a CPU that is offline: such a one is a core of its own.
    fn numbered(cpus: usize, known: &BTreeMap<usize, usize>) -> Self {
        let mut numbers = BTreeMap::new();
        let mut count = 0;
        let of_cpu = (0..cpus).map(|cpu| {
            let mut new = || {
                count += 1;
                count - 1
            };
            match known.get(&cpu) {
                Some(id) => *numbers.entry(id).or_insert_with(new),
                None => new(),
            }
        });
        Cores { of_cpu: of_cpu.collect() }
    }

    /// Of so many CPUs each, in the order of their numbers.
    fn of_size(cpus: usize, size: usize) -> Self {
        Cores { of_cpu: (0..cpus).map(|cpu| (cpu / size) as u16).collect() }
    }

    /// The CPUs of each core.
    fn members(&self) -> Vec<Vec<u16>> {
        let mut members = vec![Vec::new(); self.of_cpu.iter().max().map_or(1, |last| usize::from(*last) + 1)];
        for (cpu, core) in self.of_cpu.iter().enumerate() {
            members[usize::from(*core)].push(cpu as u16);
        }
        members
    }

    /// For each CPU the next one of its core, and how many of the core come before it.
    fn rings(&self) -> Result<(Vec<u16>, Vec<u8>)> {
        let (mut next, mut rank) = (vec![0; self.of_cpu.len()], vec![0; self.of_cpu.len()]);
        for core in self.members() {
            if core.len() > MAX_CORE_CPUS {
                anyhow::bail!("a core has {} CPUs, {MAX_CORE_CPUS} at most can be told apart", core.len());
            }
            for (n, cpu) in core.iter().enumerate() {
                next[usize::from(*cpu)] = core[(n + 1) % core.len()];
                rank[usize::from(*cpu)] = n as u8;
            }
        }
        Ok((next, rank))
    }
}

/// Tells a policy, if it wants to know.
pub(crate) fn tell(object: &mut OpenObject, globals: &Globals, params: &[ParamValue]) -> Result<()> {
    let Some(variable) = globals.get(OF_CPU) else { return Ok(()) };
    let cpus = (*scx_utils::NR_CPU_IDS).min(variable.size / size_of::<u16>());
    let size = params.iter().find(|param| param.name == PARAM).map_or(0, |param| param.value);
    let cores = match usize::try_from(size)? {
        0 => Cores::of_hardware(cpus)?,
        size => Cores::of_size(cpus, size),
    };
    let (next, rank) = cores.rings()?;
    globals.set_bytes(object, OF_CPU, &bytes(&cores.of_cpu))?;
    globals.set_bytes(object, NEXT, &bytes(&next))?;
    globals.set_bytes(object, RANK, &rank)
}

fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_whatever_the_kernel_calls_them() {
        let known = BTreeMap::from([(0, 7), (1, 3), (2, 7), (3, 3)]);
        let cores = Cores::numbered(4, &known);
        assert_eq!(cores.of_cpu, [0, 1, 0, 1]);
        assert_eq!(cores.members(), [[0, 2], [1, 3]]);
        assert_eq!(cores.rings().unwrap(), (vec![2, 3, 0, 1], vec![0, 0, 1, 1]));
    }

    #[test]
    fn a_cpu_that_is_offline_is_a_core_of_its_own() {
        let known = BTreeMap::from([(0, 0), (2, 0), (3, 1)]);
        let cores = Cores::numbered(5, &known);
        assert_eq!(cores.of_cpu, [0, 1, 0, 2, 3]);
        assert_eq!(cores.rings().unwrap().0, [2, 1, 0, 3, 4]);
    }

    #[test]
    fn cores_may_be_made_up() {
        let cores = Cores::of_size(5, 2);
        assert_eq!(cores.of_cpu, [0, 0, 1, 1, 2]);
        assert_eq!(cores.rings().unwrap(), (vec![1, 0, 3, 2, 4], vec![0, 1, 0, 1, 0]));
        assert!(Cores::of_size(9, 9).rings().is_err(), "more than can be told apart");
    }

    #[test]
    fn this_machine_has_some() {
        let cpus = *scx_utils::NR_CPU_IDS;
        let cores = Cores::of_hardware(cpus).unwrap();
        let members = cores.members();
        assert_eq!(members.iter().map(Vec::len).sum::<usize>(), cpus);
        assert!(members.iter().all(|core| !core.is_empty()));
    }
}
