// SPDX-License-Identifier: GPL-2.0-only
//! Compiles each policy folder's `NAME/NAME.bpf.c` and writes the catalogue of them, with the folder's `mod.rs` if
//! a process decides for the policy, or its `slow_path.rs` if one helps it, and its `config.rs` if it takes a
//! configuration file; `NAME_intf.h` is what BPF and Rust share then.
//!
//! A new policy is a new folder: nothing here names one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use scx_cargo::BpfBuilder;

/// The file of a policy's half in this process, and which kind it is.
const HALVES: [(&str, &str); 2] = [("mod.rs", "Agent"), ("slow_path.rs", "SlowPath")];

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut catalogue = String::new();
    let mut halves = String::new();
    for name in policies(Path::new("."))? {
        build(&format!("{name}/{name}.bpf.c"), &name)?;
        let object = out.join(format!("{name}.bpf.o")).display().to_string();
        let mut half = String::from("None");
        for (file, kind) in HALVES {
            let file = Path::new(&name).join(file);
            if file.exists() {
                let path = file.canonicalize()?.display().to_string();
                writeln!(halves, "#[path = {path:?}]\nmod {name};")?;
                half = format!("Some(Half::{kind}({name}::new))");
            }
        }
        let mut compile = String::from("None");
        let file = Path::new(&name).join("config.rs");
        if file.exists() {
            let path = file.canonicalize()?.display().to_string();
            writeln!(halves, "#[path = {path:?}]\nmod {name}_config;")?;
            compile = format!("Some({name}_config::compile)");
        }
        writeln!(
            catalogue,
            "    BuiltIn {{ name: {name:?}, object: include_bytes!({object:?}), half: {half}, compile: {compile} }},"
        )?;
        println!("cargo:rerun-if-changed={name}");
    }
    let catalogue = format!(
        "{halves}\n/// The policies that are built in.\npub const CATALOGUE: Catalogue = &[\n{catalogue}];\n"
    );
    fs::write(out.join("catalogue.rs"), catalogue)?;

    for entry in fs::read_dir("tests/policies").context("listing the test policies")? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".bpf.c") {
            build(&format!("tests/policies/{file}"), name)?;
        }
    }
    // The page that teaches writing a policy is tested by what it teaches.
    let page = fs::read_to_string("../docs/writing-a-policy.md").context("reading the page on policies")?;
    let example = page.split("```c\n").nth(1).and_then(|rest| rest.split("```").next());
    let source = out.join("polite.bpf.c");
    fs::write(&source, example.context("the page on policies has no example")?)?;
    build(&source.display().to_string(), "polite")?;

    println!("cargo:rerun-if-changed=../docs/writing-a-policy.md");
    println!("cargo:rerun-if-changed=.");
    println!("cargo:rerun-if-changed=../bpf/include");
    Ok(())
}

/// Names of the folders that hold a policy, sorted.
fn policies(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).context("listing the policy folders")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if root.join(&name).join(format!("{name}.bpf.c")).exists() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn build(source: &str, name: &str) -> Result<()> {
    let mut builder = BpfBuilder::new()?;
    builder.add_include_path("../bpf/include").enable_skel(source, name);
    let shared = format!("{name}/{name}_intf.h");
    if Path::new(&shared).exists() {
        builder.enable_intf(&shared, &format!("{name}_intf.rs"));
    }
    builder.build().with_context(|| format!("compiling {source}"))
}
