// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run swap` and `scx_run status`: asking the scx_run that runs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use framework::control::{self, Request, Response, SwapRequest};
use framework::kernel::KernelState;

use crate::cli::{SwapArgs, absolute, millis};
use crate::render;

pub fn swap(args: &SwapArgs) -> Result<ExitCode> {
    let request = Request::Swap(SwapRequest {
        policy: absolute(&args.policy)?,
        params: args.params.clone(),
        via: args.via.into(),
        hold_ms: millis(args.hold),
        window_ms: millis(args.window),
        max_delay_ms: args.max_delay.map(millis),
    });
    let report = match control::call(&control::dir(), &request)? {
        Some(Response::Swapped(report)) => report,
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!("the running scx_run answered another question"),
        None => bail!("no scx_run is running; start one with: scx_run --policy {}", args.policy),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", render::swap(&report));
    }
    Ok(if report.undone.is_some() || report.lost > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

pub fn status(json: bool) -> Result<ExitCode> {
    let dir = control::dir();
    match control::call(&dir, &Request::Status)? {
        Some(Response::Status(status)) if json => println!("{}", serde_json::to_string(&status)?),
        Some(Response::Status(status)) => print!("{}", render::status(&status)),
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!("the running scx_run answered another question"),
        None => {
            let kernel = KernelState::read();
            let left = control::read_run_file(&dir);
            if json {
                println!("{}", serde_json::json!({ "kernel": kernel, "pid": null, "killed": left }));
            } else {
                print!("{}", render::no_scx_run(&kernel, left.as_ref()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
