// SPDX-License-Identifier: GPL-2.0-only
//! Last-level caches (LLCs): which CPU belongs to which, as policies built on `bpf/include/llc.bpf.h` are told.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use libbpf_rs::{Object, OpenObject};
use scx_utils::{Cpumask, Topology};

use crate::globals::Globals;
use crate::policy::ParamValue;

/// LLCs that are told apart: `MAX_LLCS` of `bpf/include/llc.bpf.h`. On a machine with more some share a number.
pub const MAX_LLCS: usize = 64;
/// The variables of a policy that wants to know.
const OF_CPU: &str = "policy_cpu_llc";
const COUNT: &str = "policy_nr_llcs";
/// For each LLC all of them, the nearest first: a table of `MAX_LLCS` by `MAX_LLCS` bytes.
const NEAR: &str = "policy_llc_near";
/// The CPUs, those of an LLC beside each other, and where each LLC's begin; there is one more of these than LLCs.
const CPUS: &str = "policy_llc_cpus";
const FIRST: &str = "policy_llc_first";
/// The NUMA node of each LLC.
const NODE: &str = "policy_llc_node";
/// The parameter that makes LLCs of so many CPUs.
const PARAM: &str = "llc_cpus";

/// The LLC of each CPU, numbered from 0 without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Llcs {
    of_cpu: Vec<u8>,
}

/// How far NUMA nodes are from each other, as the kernel says it; unknown ones are equally far.
#[derive(Debug, Default)]
struct Nodes {
    of_cpu: BTreeMap<usize, usize>,
    distances: BTreeMap<usize, Vec<usize>>,
}

impl Nodes {
    fn of(topology: &Topology) -> Self {
        Nodes {
            of_cpu: topology.all_cpus.iter().map(|(cpu, about)| (*cpu, about.node_id)).collect(),
            distances: topology.nodes.values().map(|node| (node.id, node.distance.clone())).collect(),
        }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        let known = self.distances.get(&from).and_then(|row| row.get(to));
        known.copied().unwrap_or(if from == to { 10 } else { 20 })
    }
}

impl Llcs {
    /// As the hardware has them. The kernel does not say it of a CPU that is offline: such a one is taken for one of the
    /// LLC of the CPU before it.
    fn of_hardware(cpus: usize, topology: &Topology) -> Self {
        let known = topology.all_cpus.iter().map(|(cpu, about)| (*cpu, about.llc_id)).collect();
        Llcs::numbered(cpus, &known)
    }

    fn numbered(cpus: usize, known: &BTreeMap<usize, usize>) -> Self {
        let mut numbers = BTreeMap::new();
        let mut last = 0;
        let of_cpu = (0..cpus).map(|cpu| {
            if let Some(id) = known.get(&cpu) {
                let next = numbers.len();
                last = *numbers.entry(id).or_insert(next) % MAX_LLCS;
            }
            last as u8
        });
        Llcs { of_cpu: of_cpu.collect() }
    }

    /// Of so many CPUs each, in the order of their numbers.
    fn of_size(cpus: usize, size: usize) -> Self {
        Llcs { of_cpu: (0..cpus).map(|cpu| (cpu / size % MAX_LLCS) as u8).collect() }
    }

    /// Number of LLCs.
    pub fn count(&self) -> usize {
        self.of_cpu.iter().max().map_or(1, |last| usize::from(*last) + 1)
    }

    /// The CPUs in order of their LLCs, and where in there each LLC begins and the last one ends.
    fn in_order(&self) -> (Vec<u16>, Vec<u32>) {
        let mut cpus: Vec<_> = (0..self.of_cpu.len()).map(|cpu| cpu as u16).collect();
        cpus.sort_by_key(|cpu| self.of_cpu[usize::from(*cpu)]);
        let first = |llc: usize| self.of_cpu.iter().filter(|of| usize::from(**of) < llc).count() as u32;
        (cpus, (0..=self.count()).map(first).collect())
    }

    /// The NUMA node of each: that of its first CPU, or 0 if nothing is known of it.
    fn nodes(&self, nodes: &Nodes) -> Vec<usize> {
        let first = |llc| self.of_cpu.iter().position(|of| usize::from(*of) == llc);
        let node = |llc| first(llc).and_then(|cpu| nodes.of_cpu.get(&cpu)).copied();
        (0..self.count()).map(|llc| node(llc).unwrap_or(0)).collect()
    }

    /// All LLCs as seen from each: itself, then by distance, then by number, each beginning with those after it so
    /// that not all look at the same ones first.
    fn near(&self, nodes: &Nodes) -> Vec<Vec<u8>> {
        let node = self.nodes(nodes);
        let count = self.count();
        let from = |llc: usize| {
            let mut others: Vec<_> = (0..count).map(|n| (llc + n) % count).collect();
            others.sort_by_key(|other| (*other != llc, nodes.distance(node[llc], node[*other])));
            others.into_iter().map(|other| other as u8).collect()
        };
        (0..count).map(from).collect()
    }

    /// CPUs of each LLC that are online now.
    pub fn online(&self) -> Result<Vec<u32>> {
        let path = "/sys/devices/system/cpu/online";
        let list = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let online = Cpumask::from_cpulist(list.trim()).with_context(|| format!("{path}: {list}"))?;
        let mut cpus = vec![0; self.count()];
        for (cpu, llc) in self.of_cpu.iter().enumerate() {
            cpus[usize::from(*llc)] += u32::from(online.test_cpu(cpu));
        }
        Ok(cpus)
    }

    /// As a policy that is loaded has been told.
    pub(crate) fn told(object: &Object, globals: &Globals) -> Result<Self> {
        if globals.get(OF_CPU).is_none() {
            return Ok(Llcs::default());
        }
        let mut of_cpu = globals.read(object, OF_CPU)?;
        of_cpu.truncate(*scx_utils::NR_CPU_IDS);
        Ok(Llcs { of_cpu })
    }
}

/// Tells a policy, if it wants to know.
pub(crate) fn tell(object: &mut OpenObject, globals: &Globals, params: &[ParamValue]) -> Result<()> {
    let Some(variable) = globals.get(OF_CPU) else { return Ok(()) };
    let cpus = (*scx_utils::NR_CPU_IDS).min(variable.size);
    let size = params.iter().find(|param| param.name == PARAM).map_or(0, |param| param.value);
    let topology = Topology::new().context("reading the topology of the CPUs")?;
    let llcs = match usize::try_from(size)? {
        0 => Llcs::of_hardware(cpus, &topology),
        size => Llcs::of_size(cpus, size),
    };
    globals.set_bytes(object, OF_CPU, &llcs.of_cpu)?;
    tell_distances(object, globals, &llcs, &Nodes::of(&topology))?;
    globals.set(object, COUNT, llcs.count() as u64)
}

/// An object of an older SDK may not want to know.
fn tell_distances(object: &mut OpenObject, globals: &Globals, llcs: &Llcs, nodes: &Nodes) -> Result<()> {
    if globals.get(NODE).is_some() {
        let of_llc: Vec<_> = llcs.nodes(nodes).into_iter().map(|node| node as u8).collect();
        globals.set_bytes(object, NODE, &of_llc)?;
    }
    if globals.get(CPUS).is_some() {
        let (cpus, first) = llcs.in_order();
        let bytes: Vec<_> = cpus.into_iter().flat_map(u16::to_ne_bytes).collect();
        globals.set_bytes(object, CPUS, &bytes)?;
        let bytes: Vec<_> = first.into_iter().flat_map(u32::to_ne_bytes).collect();
        globals.set_bytes(object, FIRST, &bytes)?;
    }
    if globals.get(NEAR).is_none() {
        return Ok(());
    }
    let mut table = vec![0; MAX_LLCS * MAX_LLCS];
    for (row, near) in table.chunks_exact_mut(MAX_LLCS).zip(llcs.near(nodes)) {
        row[..near.len()].copy_from_slice(&near);
    }
    globals.set_bytes(object, NEAR, &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_whatever_the_kernel_calls_them() {
        let known = BTreeMap::from([(0, 7), (1, 3), (2, 7), (3, 3)]);
        assert_eq!(Llcs::numbered(4, &known).of_cpu, [0, 1, 0, 1]);
        assert_eq!(Llcs::numbered(4, &known).count(), 2);
    }

    #[test]
    fn a_cpu_that_is_offline_is_taken_for_one_of_its_neighbours() {
        let known = BTreeMap::from([(1, 0), (3, 1)]);
        assert_eq!(Llcs::numbered(5, &known).of_cpu, [0, 0, 0, 1, 1]);
    }

    #[test]
    fn there_are_never_too_many() {
        let known = (0..200).map(|cpu| (cpu, cpu)).collect();
        assert_eq!(Llcs::numbered(200, &known).count(), MAX_LLCS);
        assert_eq!(Llcs::of_size(200, 1).count(), MAX_LLCS);
        assert_eq!(Llcs::of_size(5, 2).of_cpu, [0, 0, 1, 1, 2]);
        assert_eq!(Llcs::default().count(), 1);
    }

    #[test]
    fn the_cpus_of_an_llc_are_beside_each_other() {
        let llcs = Llcs { of_cpu: vec![0, 1, 0, 1, 2] };
        assert_eq!(llcs.in_order(), (vec![0, 2, 1, 3, 4], vec![0, 2, 4, 5]));
    }

    #[test]
    fn the_nearest_come_first() {
        let llcs = Llcs::of_size(8, 2);
        // CPUs 0 to 3 on node 0, the others on node 1.
        let nodes = Nodes {
            of_cpu: (0..8).map(|cpu| (cpu, cpu / 4)).collect(),
            distances: BTreeMap::from([(0, vec![10, 21]), (1, vec![21, 10])]),
        };
        assert_eq!(llcs.nodes(&nodes), [0, 0, 1, 1]);
        assert_eq!(llcs.near(&nodes), [[0, 1, 2, 3], [1, 0, 2, 3], [2, 3, 0, 1], [3, 2, 0, 1]]);
        // Nothing is known.
        assert_eq!(llcs.near(&Nodes::default())[1], [1, 2, 3, 0]);
    }

    #[test]
    fn this_machine_has_some() {
        let topology = Topology::new().unwrap();
        let llcs = Llcs::of_hardware(*scx_utils::NR_CPU_IDS, &topology);
        let online = llcs.online().unwrap();
        assert_eq!(online.len(), llcs.count());
        assert!(online.iter().sum::<u32>() > 0);
    }
}
