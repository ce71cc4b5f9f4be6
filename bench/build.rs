// SPDX-License-Identifier: GPL-2.0-only
//! Compiles the policies that the tests measure.

use anyhow::{Context, Result};
use scx_cargo::BpfBuilder;

/// Sources, with the names of the objects that come of them. One is the schedulers' own.
const POLICIES: &[(&str, &str)] =
    &[("tests/policies/burn.bpf.c", "burn"), ("../schedulers/tests/policies/faulty.bpf.c", "faulty")];

fn main() -> Result<()> {
    for (source, name) in POLICIES {
        BpfBuilder::new()?
            .add_include_path("../bpf/include")
            .enable_skel(source, name)
            .build()
            .with_context(|| format!("compiling {source}"))?;
    }
    println!("cargo:rerun-if-changed=../bpf/include");
    Ok(())
}
