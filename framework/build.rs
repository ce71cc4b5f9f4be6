// SPDX-License-Identifier: GPL-2.0-only
//! Compiles the kernel-side framework and generates its skeletons and shared types.

use anyhow::Result;
use scx_cargo::BpfBuilder;

fn main() -> Result<()> {
    BpfBuilder::new()?
        .add_include_path("../bpf/include")
        .enable_intf("../bpf/include/intf.h", "bpf_intf.rs")
        .enable_skel("../bpf/root.bpf.c", "root")
        .build()?;
    BpfBuilder::new()?
        .add_include_path("../bpf/include")
        .enable_skel("../bpf/latency.bpf.c", "latency")
        .build()?;
    BpfBuilder::new()?
        .add_include_path("../bpf/include")
        .enable_skel("../bpf/environ.bpf.c", "environ")
        .build()?;
    println!("cargo:rerun-if-changed=../bpf");
    Ok(())
}
