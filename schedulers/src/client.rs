// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run swap`, `upgrade`, `stop` and `status`: asking the scx_run that runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use framework::control::{self, Conversation, Request, Response, SwapRequest};
use framework::kernel::KernelState;
use framework::pins;
use framework::policy::ConfigFile;

use crate::cli::{SwapArgs, absolute, millis};
use crate::render;
use crate::upgrade::check_binary;

const ANOTHER_QUESTION: &str = "the running scx_run answered another question";
/// How long scx_run may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn swap(args: &SwapArgs) -> Result<ExitCode> {
    let request = Request::Swap(SwapRequest {
        policy: absolute(&args.policy)?,
        params: args.params.clone(),
        config: args.config.as_deref().map(ConfigFile::read).transpose()?,
        via: args.via.into(),
        hold_ms: millis(args.hold),
        window_ms: millis(args.window),
        max_delay_ms: args.max_delay.map(millis),
    });
    let report = match control::call(&control::dir(), &request)? {
        Some(Response::Swapped(report)) => report,
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!(ANOTHER_QUESTION),
        None => return Err(nobody(&format!("scx_run --policy {}", args.policy))),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", render::swap(&report));
    }
    Ok(if report.undone.is_some() || report.lost > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// What to say if there is no scx_run to ask. `start` starts one, unless there is a scheduler to take over.
pub fn nobody(start: &str) -> anyhow::Error {
    // What is pinned and cannot be read is said by whoever is told to start one.
    if pins::kept().is_ok_and(|kept| kept.is_some()) {
        anyhow!("no scx_run is running, but a scheduler was kept; {}", render::ADOPT)
    } else {
        anyhow!("no scx_run is running; start one with: {start}")
    }
}

pub fn upgrade(binary: Option<PathBuf>, json: bool) -> Result<ExitCode> {
    let binary = match binary {
        Some(binary) => {
            let binary = std::path::absolute(&binary).with_context(|| format!("the path {binary:?}"))?;
            check_binary(&binary)?;
            binary
        }
        // Whoever has installed a new version calls that one.
        None => std::env::current_exe().context("finding this program's file")?,
    };
    let report = match control::call(&control::dir(), &Request::Upgrade(binary))? {
        Some(Response::Upgraded(report)) => report,
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!(ANOTHER_QUESTION),
        None => return Err(nobody("scx_run --policy NAME")),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", render::upgrade(&report));
    }
    Ok(if report.lost > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

pub fn stop() -> Result<ExitCode> {
    let dir = control::dir();
    match control::call(&dir, &Request::Stop)? {
        Some(Response::Done) => {}
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!(ANOTHER_QUESTION),
        None => {
            let kept = match pins::kept() {
                Ok(None) => {
                    bail!("there is nothing to stop: no scx_run is running, and no scheduler was kept")
                }
                Ok(Some(kept)) => kept.policies(),
                Err(_) => "by another version".into(),
            };
            pins::remove().context("removing the scheduler that was kept")?;
            println!("detached the scheduler that was kept ({kept})");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let start = Instant::now();
    while Conversation::open(&dir)?.is_some() {
        ensure!(start.elapsed() < PATIENCE, "the running scx_run has been told to end and does not");
        thread::sleep(Duration::from_millis(10));
    }
    println!("the running scx_run has ended");
    Ok(ExitCode::SUCCESS)
}

pub fn status(json: bool) -> Result<ExitCode> {
    let dir = control::dir();
    match control::call(&dir, &Request::Status)? {
        Some(Response::Status(status)) if json => println!("{}", serde_json::to_string(&status)?),
        Some(Response::Status(status)) => print!("{}", render::status(&status)),
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!(ANOTHER_QUESTION),
        None if let Some(kept) = pins::kept()? => {
            let kernel = KernelState::read();
            if json {
                let attached = kept.attached();
                println!(
                    "{}",
                    serde_json::json!({ "kernel": kernel, "pid": null, "kept": kept, "attached": attached })
                );
            } else {
                print!("{}", render::kept(&kernel, &kept));
            }
        }
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
