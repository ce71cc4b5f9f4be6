// SPDX-License-Identifier: GPL-2.0-only
//! `scx_bench` will compare policies under load. Nothing is measured here yet: it says so and fails.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("scx_bench: no benchmarks yet; `scx_run --policy NAME -- CMD` reports the latency of a load");
    ExitCode::FAILURE
}
