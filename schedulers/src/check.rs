// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run check`: the verifier's verdict on a policy. Nothing is attached, whatever runs goes on.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use framework::policy::{ConfigFile, Image};

use crate::CATALOGUE;

pub fn check(policy: &str, config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let config = config.map(ConfigFile::read).transpose()?;
    let open = Image::find(CATALOGUE, policy)?.open()?.configure(config)?;
    let info = open.info().clone();
    if let Some(trouble) = framework::doctor::first_trouble_for_loading() {
        bail!(trouble);
    }
    let loaded = open.load_direct(&[], 0, 0, None)?;
    let programs = loaded.program_sizes();
    let verify_ms = loaded.verify.as_secs_f64() * 1e3;
    if json {
        println!(
            "{}",
            serde_json::json!({ "policy": info, "verify_ms": verify_ms, "instructions": programs })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} loads: verified in {verify_ms:.1} ms", info.name);
    for (name, instructions) in programs {
        println!("  {name:<28}{instructions:>6} instructions");
    }
    let slot =
        if info.fits_slot { "fits a slot" } else { "fits no slot (not built on policy.bpf.h): use --direct" };
    println!("  ops: {}; {slot}", info.ops.join(", "));
    Ok(ExitCode::SUCCESS)
}
