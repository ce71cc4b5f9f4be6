// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run`: run a sched_ext policy, swap it live, see its latency.

mod catalogue;
mod check;
mod cli;
mod client;
mod demo;
mod doctor;
mod hint;
mod list;
mod output;
mod render;
mod run;
mod upgrade;

use std::process::ExitCode;

use clap::Parser as _;
use framework::policy::LoadError;

use catalogue::CATALOGUE;
use cli::{Cli, Command};

/// Exit code after a mistake of the user's or a failure of ours.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    framework::capture_libbpf_log();
    let verbose = cli.run.verbose;
    // Not those that ask a running scx_run for something: they want to know if it hangs up.
    let only_tells = matches!(
        cli.command,
        Some(Command::Status { .. } | Command::List { .. } | Command::Check { .. } | Command::Doctor { .. })
    );
    if only_tells {
        framework::signals::end_on_closed_pipe();
    }
    let outcome = match cli.command {
        Some(Command::Swap(args)) => client::swap(&args),
        Some(Command::Upgrade { binary, json }) => client::upgrade(binary, json),
        Some(Command::Stop) => client::stop(),
        Some(Command::Status { json }) => client::status(json),
        Some(Command::List { json }) => list::list(json),
        Some(Command::Check { policy, config, json }) => check::check(&policy, config.as_deref(), json),
        Some(Command::Doctor { json }) => doctor::doctor(json),
        Some(Command::Hint(args)) => hint::hint(&args),
        Some(Command::Demo { seconds }) => demo::run(seconds),
        None => run::run(cli.run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("scx_run: {error:#}");
        if let Some(error) = error.downcast_ref::<LoadError>() {
            if verbose {
                eprintln!("{}", error.log.trim_end());
            } else {
                eprintln!("scx_run: run it with -v for the verifier's log");
            }
        }
        ExitCode::from(FAILED)
    })
}
