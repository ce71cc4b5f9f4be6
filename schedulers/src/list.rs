// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run list`: the built-in policies, as they describe themselves.

use std::process::ExitCode;

use anyhow::Result;
use framework::policy::{Image, PolicyInfo};

use crate::CATALOGUE;

pub fn list(json: bool) -> Result<ExitCode> {
    let policies = CATALOGUE
        .iter()
        .map(|one| Ok(Image::find(CATALOGUE, one.name)?.open()?.info().clone()))
        .collect::<Result<Vec<PolicyInfo>>>()?;
    if json {
        println!("{}", serde_json::to_string(&policies)?);
        return Ok(ExitCode::SUCCESS);
    }
    for policy in policies {
        println!("{:<14}{}", policy.name, policy.description);
        if let Some(about) = &policy.config {
            println!("  --config FILE: {about}");
        }
        for param in &policy.params {
            println!(
                "  {:<12}{} {} = {} ({} to {}): {}",
                param.name, param.ctype, param.unit, param.default, param.min, param.max, param.description
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
