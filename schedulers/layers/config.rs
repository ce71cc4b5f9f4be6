// SPDX-License-Identifier: GPL-2.0-only
//! layers: the rules, from TOML into what `layers_intf.h` lays out.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, ensure};
use serde::Deserialize;
use toml::Spanned;

use intf::{layers_config, layers_rule};

#[cfg(test)]
mod tests;

#[allow(non_camel_case_types, non_upper_case_globals, dead_code, missing_docs, clippy::all)]
mod intf {
    include!(concat!(env!("OUT_DIR"), "/layers_intf.rs"));
}

const MAX_LAYERS: usize = intf::layers_sizes_LAYERS_MAX as usize;
const MAX_RULES: usize = intf::layers_sizes_LAYERS_MAX_RULES as usize;
const MAX_NAMES: usize = intf::layers_sizes_LAYERS_MAX_NAMES as usize;
const MAX_DEPTH: usize = intf::layers_sizes_LAYERS_MAX_DEPTH as usize;
/// BPF cuts longer names, and could not tell them apart.
const MAX_NAME: usize = intf::layers_sizes_LAYERS_NAME_LEN as usize - 2;
/// The kernel cuts longer ones.
const MAX_COMM: usize = intf::layers_sizes_LAYERS_COMM_LEN as usize - 1;
const MAX_CPUS: usize = intf::layers_sizes_LAYERS_MAX_CPUS as usize;
const CGROUP_ROOT: &str = "/sys/fs/cgroup/";
/// What a layer has that says nothing else, and what strays have.
const DEFAULT_SHARE: u32 = 100;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    layer: Vec<Spanned<Layer>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    name: String,
    #[serde(rename = "match")]
    rules: Option<Vec<Spanned<Rule>>>,
    cpus: Option<Cpus>,
    share: Option<Share>,
    slice: Option<Slice>,
    #[serde(default)]
    preempt: bool,
    #[serde(default)]
    exclusive: bool,
}

/// Conditions, all of which have to hold.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    comm: Option<Name>,
    cgroup: Option<Path>,
    uid: Option<u32>,
    nice_above: Option<i32>,
    nice_below: Option<i32>,
    threads_above: Option<u32>,
    threads_below: Option<u32>,
    hint: Option<Hint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hint {
    Latency,
    Batch,
}

/// A name, or how it begins if it was written with a `*` at the end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Name {
    text: String,
    whole: bool,
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (beginning, whole) = text.strip_suffix('*').map_or((text.as_str(), true), |text| (text, false));
        if beginning.contains(['*', '?', '[', '\0']) {
            return Err(format!("{text:?}: of patterns only a * at the end of a name is known"));
        }
        if text.is_empty() {
            return Err("a name is empty".into());
        }
        Ok(Name { text: beginning.into(), whole })
    }
}

/// The path of a cgroup.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Path(Vec<Name>);

impl TryFrom<String> for Path {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = text.strip_prefix(CGROUP_ROOT).unwrap_or(&text).trim_matches('/');
        if path.is_empty() {
            return Err(format!("{text:?} is every cgroup; leave the condition out"));
        }
        let names = path.split('/').map(|name| Name::try_from(name.to_owned()));
        let names = names.collect::<Result<Vec<_>, _>>().map_err(|why| format!("cgroup {text:?}: {why}"))?;
        if names.len() > MAX_DEPTH {
            return Err(format!(
                "{text:?} is {} cgroups deep, {MAX_DEPTH} can be told apart: write only the first ones",
                names.len()
            ));
        }
        if names.iter().any(|name| name.text.len() > MAX_NAME) {
            return Err(format!("{text:?}: a name has more than {MAX_NAME} bytes: end it with a *"));
        }
        Ok(Path(names))
    }
}

/// A list such as `0-3,6`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Cpus(BTreeSet<usize>);

impl TryFrom<String> for Cpus {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no list of CPUs, such as 0-3,6");
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            if last >= MAX_CPUS {
                return Err(format!("there is no CPU {last}: {MAX_CPUS} at most can be told apart"));
            }
            cpus.extend(first..=last);
        }
        Ok(Cpus(cpus))
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Share(u32);

impl TryFrom<i64> for Share {
    type Error = String;

    fn try_from(share: i64) -> Result<Self, String> {
        let valid = u32::try_from(share).ok().filter(|share| (1..=10_000).contains(share));
        valid.map(Share).ok_or_else(|| format!("a share of {share} is out of range: 1 to 10000"))
    }
}

/// Nanoseconds.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Slice(u64);

impl TryFrom<String> for Slice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let slice = framework::hints::duration(&text).map_err(|error| format!("slice: {error:#}"))?.as_nanos();
        let valid = u64::try_from(slice).ok().filter(|ns| (100_000..=100_000_000).contains(ns));
        valid.map(Slice).ok_or_else(|| format!("a slice of {text} is out of range: 100us to 100ms"))
    }
}

/// Compiles the text of a file into the constant of `layers.bpf.c`.
pub fn compile(text: &str) -> Result<Vec<u8>> {
    let config = compile_for(text, (*scx_utils::NR_CPU_IDS).min(MAX_CPUS))?;
    let start = (&raw const *config).cast::<u8>();
    // SAFETY: the struct has only integers and arrays of such, and no gaps, so all its bytes are initialized.
    Ok(unsafe { std::slice::from_raw_parts(start, size_of::<layers_config>()) }.to_vec())
}

/// The same for a machine of so many CPUs.
fn compile_for(text: &str, nr_cpus: usize) -> Result<Box<layers_config>> {
    let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    let file: File = toml::from_str(text).map_err(|error| {
        let message = error.message().trim().replace('\n', ", ");
        match error.span() {
            Some(span) => anyhow!("line {}: {message}", line(span.start)),
            None => anyhow!("{message}"),
        }
    })?;

    let mut compiler = Compiler { config: zeroed(), names: Vec::new(), nr_cpus };
    let mut named = BTreeSet::new();
    let mut taken = vec![None; nr_cpus];
    for layer in file.layer.iter().map(Spanned::get_ref).filter(|layer| layer.exclusive) {
        for cpu in layer.cpus.iter().flat_map(|cpus| &cpus.0) {
            taken.get_mut(*cpu).into_iter().for_each(|taken| *taken = taken.or(Some(layer.name.as_str())));
        }
    }
    let mut rest = false;
    for spanned in &file.layer {
        let layer = spanned.get_ref();
        let at = format!("line {}: layer {:?}", line(spanned.span().start), layer.name);
        ensure!(!layer.name.is_empty(), "{at} has an empty name");
        ensure!(named.insert(&layer.name), "{at}: there is one of this name already");
        ensure!(!rest, "{at} gets nobody: the one before it matches all; put that one last");
        compiler.add(layer, &at, &taken)?;
        for rule in layer.rules.iter().flatten() {
            let at = format!("line {}: layer {:?}", line(rule.span().start), layer.name);
            compiler.add_rule(rule.get_ref(), &at)?;
        }
        rest = layer.rules.is_none();
    }
    if !rest {
        let rest = Layer {
            name: "rest".into(),
            rules: None,
            cpus: None,
            share: None,
            slice: None,
            preempt: false,
            exclusive: false,
        };
        compiler.add(&rest, "tasks that no rule matches", &taken)?;
    }
    Ok(compiler.finish())
}

fn zeroed() -> Box<layers_config> {
    // SAFETY: the struct has only integers and arrays of such: zeroes are a value.
    unsafe { Box::new(std::mem::zeroed()) }
}

struct Compiler {
    config: Box<layers_config>,
    names: Vec<Name>,
    nr_cpus: usize,
}

impl Compiler {
    /// Adds a layer, of which CPUs are `taken` by others.
    fn add(&mut self, layer: &Layer, at: &str, taken: &[Option<&str>]) -> Result<()> {
        let n = self.config.nr_layers as usize;
        ensure!(n < MAX_LAYERS, "{at} is one too many: {MAX_LAYERS} layers at most, with that of all others");
        ensure!(
            layer.rules.as_ref().is_none_or(|rules| !rules.is_empty()),
            "{at} matches nobody: `match` is an empty list"
        );
        ensure!(!layer.exclusive || layer.cpus.is_some(), "{at} is exclusive: say on which `cpus`");
        let all: BTreeSet<_> = (0..self.nr_cpus).collect();
        let wanted = layer.cpus.as_ref().map_or(&all, |cpus| &cpus.0);
        if let Some(cpu) = wanted.iter().find(|cpu| **cpu >= self.nr_cpus) {
            return Err(anyhow!("{at}: there is no CPU {cpu} here; they are 0-{}", self.nr_cpus - 1));
        }
        let free = |cpu: &&usize| taken[**cpu].is_none_or(|by| layer.exclusive && by == layer.name);
        if let Some(cpu) = wanted.iter().find(|cpu| layer.exclusive && !free(cpu)) {
            return Err(anyhow!("{at}: CPU {cpu} is exclusive to {:?} already", taken[*cpu].unwrap_or("")));
        }
        let cpus: BTreeSet<_> = wanted.iter().filter(free).collect();
        ensure!(!cpus.is_empty(), "{at}: no CPU is left for them: other layers have all to themselves");

        for cpu in &cpus {
            self.config.cpu_layers[**cpu] |= 1 << n;
        }
        let queue = &mut self.config.queues[n];
        queue.slice_ns = layer.slice.as_ref().map_or(0, |slice| slice.0);
        queue.share = layer.share.as_ref().map_or(DEFAULT_SHARE, |share| share.0);
        queue.preempt = layer.preempt.into();
        queue.everywhere = (cpus.len() == self.nr_cpus).into();
        self.config.some_preempt |= u32::from(layer.preempt);
        self.config.nr_layers += 1;
        Ok(())
    }

    /// Adds a rule for the layer that was added last.
    fn add_rule(&mut self, rule: &Rule, at: &str) -> Result<()> {
        let n = self.config.nr_rules as usize;
        ensure!(n < MAX_RULES, "{at}: {MAX_RULES} rules at most");
        ensure!(*rule != Rule::default(), "{at}: a rule without conditions; leave out `match` for all tasks");
        let mut compiled = layers_rule { layer: self.config.nr_layers - 1, ..self.config.rules[n] };
        if let Some(name) = &rule.comm {
            compiled.conditions |= intf::layers_conditions_LAYERS_COMM;
            let bytes = &name.text.as_bytes()[..name.text.len().min(MAX_COMM)];
            compiled.comm[..bytes.len()].copy_from_slice(bytes);
            compiled.comm_len = bytes.len() as u32 + u32::from(name.whole);
        }
        if let Some(uid) = rule.uid {
            compiled.conditions |= intf::layers_conditions_LAYERS_UID;
            compiled.uid = uid;
        }
        if rule.nice_above.is_some() || rule.nice_below.is_some() {
            compiled.conditions |= intf::layers_conditions_LAYERS_NICE;
            let first = rule.nice_above.map_or(i32::MIN, |above| above.saturating_add(1));
            compiled.nice = [first, rule.nice_below.map_or(i32::MAX, |below| below.saturating_sub(1))];
            ensure!(compiled.nice[0] <= compiled.nice[1], "{at}: no nice value is in this range");
        }
        if rule.threads_above.is_some() || rule.threads_below.is_some() {
            compiled.conditions |= intf::layers_conditions_LAYERS_THREADS;
            let first = rule.threads_above.map_or(0, |above| above.saturating_add(1));
            compiled.threads = [first, rule.threads_below.map_or(u32::MAX, |below| below.saturating_sub(1))];
            ensure!(compiled.threads[0] <= compiled.threads[1], "{at}: no number of threads is in this range");
        }
        if let Some(hint) = rule.hint {
            compiled.conditions |= intf::layers_conditions_LAYERS_HINT;
            compiled.class_ = framework::hints::raw_class(match hint {
                Hint::Latency => framework::hints::Class::Latency,
                Hint::Batch => framework::hints::Class::Batch,
            });
        }
        if let Some(path) = &rule.cgroup {
            compiled.conditions |= intf::layers_conditions_LAYERS_CGROUP;
            compiled.depth = path.0.len() as u32;
            for (at_depth, name) in path.0.iter().enumerate() {
                compiled.path[at_depth] = self.intern(name, at)?;
            }
        }
        self.config.conditions |= compiled.conditions;
        self.config.rules[n] = compiled;
        self.config.nr_rules += 1;
        Ok(())
    }

    /// The number of a name of a cgroup.
    fn intern(&mut self, name: &Name, at: &str) -> Result<u32> {
        if let Some(known) = self.names.iter().position(|known| known == name) {
            return Ok(known as u32);
        }
        let n = self.names.len();
        ensure!(n < MAX_NAMES, "{at}: {MAX_NAMES} names of cgroups at most, in all rules together");
        let compiled = &mut self.config.names[n];
        compiled.text[..name.text.len()].copy_from_slice(name.text.as_bytes());
        compiled.len = name.text.len() as u32 + u32::from(name.whole);
        self.names.push(name.clone());
        Ok(n as u32)
    }

    /// What comes after the layers: the queue of strays.
    fn finish(mut self) -> Box<layers_config> {
        let strays = &mut self.config.queues[self.config.nr_layers as usize];
        strays.share = DEFAULT_SHARE;
        strays.everywhere = 1;
        self.config
    }
}
