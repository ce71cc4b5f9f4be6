// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run doctor`: can this kernel run us?

use std::process::ExitCode;

use anyhow::Result;

pub fn doctor(json: bool) -> Result<ExitCode> {
    let checks = framework::doctor::examine();
    let healthy = checks.iter().all(|check| check.ok);
    if json {
        println!("{}", serde_json::json!({ "healthy": healthy, "checks": checks }));
    } else {
        for check in &checks {
            println!("{:<4}{:<11}{}", if check.ok { "ok" } else { "NO" }, check.name, check.found);
        }
        match checks.iter().find_map(|check| check.cure.as_ref()) {
            None => println!("this kernel can run scx_run"),
            Some(cure) => println!("to do: {cure}"),
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
