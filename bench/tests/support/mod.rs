// SPDX-License-Identifier: GPL-2.0-only
//! What the tests on the host share.

use std::path::Path;

use assert_cmd::Command;

/// scx_bench as cargo built it. It uses the scx_run beside it, which a test of this package alone does not build.
pub fn scx_bench() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_scx_bench"));
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    assert!(
        program.with_file_name("scx_run").exists(),
        "scx_run is not built, and these tests need it: cargo build{profile} -p schedulers"
    );
    Command::new(program)
}
