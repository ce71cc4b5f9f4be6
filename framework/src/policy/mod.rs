// SPDX-License-Identifier: GPL-2.0-only
//! Policies: where they come from, what they say of themselves, and loading them.

mod config;
mod load_error;
mod loaded;
mod object;
pub mod params;
mod struct_ops;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::agent;
use crate::slow_path;

pub(crate) use config::CONFIG;
pub use config::{Compile, ConfigFile};
pub use load_error::LoadError;
pub(crate) use load_error::load_error;
pub use loaded::LoadedPolicy;
pub(crate) use loaded::PREPARE;
pub(crate) use object::{AGENT, DUMP_LEN, HINTS, SHARED_MAPS, program_fd};
pub use object::{OpenPolicy, SharedMaps};
pub use params::{ParamSpec, ParamValue};
pub(crate) use struct_ops::StructOps;

/// A policy that is built in.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its BPF object.
    pub object: &'static [u8],
    /// Makes its half in this process, if it has one.
    pub half: Option<Half>,
    /// Compiles its configuration file, if it takes one.
    pub compile: Option<Compile>,
}

/// The half of a policy in this process.
#[derive(Debug, Clone, Copy)]
pub enum Half {
    /// It decides which task runs where.
    Agent(agent::Factory),
    /// BPF does, and is helped now and then.
    SlowPath(slow_path::Factory),
}

/// The policies that are built in.
pub type Catalogue = &'static [BuiltIn];

/// A policy's object file, not looked into yet.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the user called it: a name of the catalogue or a path.
    pub origin: String,
    bytes: Cow<'static, [u8]>,
    half: Option<Half>,
    compile: Option<Compile>,
}

impl Image {
    /// Finds a policy: a built-in one by name, or an object file by path (anything with a `/` or ending in
    /// `.o`).
    pub fn find(catalogue: Catalogue, policy: &str) -> Result<Self> {
        if let Some(one) = catalogue.iter().find(|one| one.name == policy) {
            let (origin, bytes) = (one.name.into(), Cow::Borrowed(one.object));
            return Ok(Image { origin, bytes, half: one.half, compile: one.compile });
        }
        if !policy.contains('/') && !policy.ends_with(".o") {
            let names: Vec<_> = catalogue.iter().map(|one| one.name).collect();
            bail!(
                "there is no policy {policy:?}; built in are {}, or give the path of a .bpf.o",
                names.join(", ")
            );
        }
        let path = Path::new(policy);
        let bytes = fs::read(path).with_context(|| format!("cannot read the policy {}", path.display()))?;
        if !bytes.starts_with(b"\x7fELF") {
            bail!("{} is no BPF object: compile it with scripts/policy-cc", path.display());
        }
        Ok(Image { origin: policy.into(), bytes: Cow::Owned(bytes), half: None, compile: None })
    }

    /// Opens the object and reads what it says of itself.
    pub fn open(&self) -> Result<OpenPolicy> {
        OpenPolicy::open(&self.bytes, &self.origin, self.half, self.compile)
            .with_context(|| format!("{} is not a usable policy", self.origin))
    }
}

/// What a policy says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its name, as in `POLICY_DEFINE`.
    pub name: String,
    /// One line.
    pub description: String,
    /// Its parameters, in the order of their names.
    pub params: Vec<ParamSpec>,
    /// What it takes a configuration file for, if it takes one: one line.
    #[serde(default)]
    pub config: Option<String>,
    /// The sched_ext ops it brings (those that the root has anyway are left out).
    pub ops: Vec<String>,
    /// `sched_ext_ops.flags` it asks for.
    pub flags: u64,
    /// Whether it is built on the SDK and so fits a slot.
    pub fits_slot: bool,
}

/// A policy in force, as status and reports name it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct PolicyInForce {
    /// The policy's name.
    pub name: String,
    /// Where it came from: a name of the catalogue or a path.
    pub origin: String,
    /// Value of each parameter.
    pub params: Vec<ParamValue>,
    /// Its configuration, if it was given one.
    #[serde(default)]
    pub config: Option<ConfigFile>,
    /// Tells it from the policies before it.
    pub epoch: u64,
}

impl PolicyInForce {
    /// Its parameters as the user would set them.
    pub fn assignments(&self) -> Vec<String> {
        self.params.iter().map(|param| format!("{}={}", param.name, param.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOGUE: Catalogue = &[
        BuiltIn { name: "fifo", object: b"\x7fELF", half: None, compile: None },
        BuiltIn { name: "vtime", object: b"\x7fELF", half: None, compile: None },
    ];

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Image::find(CATALOGUE, "fifa").unwrap_err().to_string();
        assert!(error.contains("\"fifa\"") && error.contains("fifo, vtime"), "{error}");
    }

    #[test]
    fn a_missing_file_and_a_file_that_is_no_object_are_told_apart() {
        let missing = format!("{:#}", Image::find(CATALOGUE, "./none.bpf.o").unwrap_err());
        assert!(missing.contains("./none.bpf.o") && missing.contains("No such file"), "{missing}");
        let text = Image::find(CATALOGUE, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap_err();
        assert!(text.to_string().contains("is no BPF object"), "{text}");
    }
}
