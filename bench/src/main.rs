// SPDX-License-Identifier: GPL-2.0-only
//! `scx_bench`: compare scheduling policies under load, so that a repeat gives the same answer.

mod analysis;
mod attach;
mod cli;
mod collect;
mod commands;
mod contender;
#[cfg(test)]
mod fixture;
mod job;
mod kernel_view;
mod machine;
mod measure;
mod model;
mod op_cost;
mod place;
mod plan;
mod previous;
mod programs;
mod progress;
mod report;
mod session;
mod stats;
mod swap_load;
mod swapping;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

/// Exit code after a mistake of the user's or a failure of ours.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    framework::capture_libbpf_log();
    let command = Cli::parse().command;
    if matches!(command, Command::Report(_) | Command::List { .. }) {
        framework::signals::end_on_closed_pipe();
    }
    let outcome = match command {
        Command::Compare(args) => commands::compare(args),
        Command::Swap(args) => commands::swap(args),
        Command::Cost(args) => commands::cost(args),
        Command::Scale(args) => commands::scale(args),
        Command::Report(args) => commands::report(&args),
        Command::List { json } => commands::list(json),
        Command::Measure { job } => measure::run(&job),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("scx_bench: {error:#}");
        ExitCode::from(FAILED)
    })
}
