// SPDX-License-Identifier: GPL-2.0-only
//! `scx_bench`: compare scheduling policies under load, so that a repeat gives the same answer.

mod analysis;
#[cfg(test)]
mod fixture;
mod kernel_view;
mod model;
mod report;
mod stats;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("scx_bench: no benchmarks yet; `scx_run --policy NAME -- CMD` reports the latency of a load");
    ExitCode::FAILURE
}
