// SPDX-License-Identifier: GPL-2.0-only
//! Deterministic mode: what is equal is measured as equal to the last digit, and 5 % more is always seen. It starts
//! virtual machines itself, so `scripts/test` runs it on the host.

#[path = "../support/mod.rs"]
mod support;

use std::fs;

use serde_json::{Value, json};

use support::scx_bench;

/// fifo with some 5 % more instructions a switch.
const BURN: &str = concat!(env!("OUT_DIR"), "/burn.bpf.o");

/// Compares fifo with itself and with the slower one; returns report.json without its date.
fn compare(seed: &str) -> Value {
    let out = tempfile::tempdir().unwrap();
    let policies = format!("fifo,again=fifo,burn={BURN}");
    scx_bench()
        .args(["compare", "--policies", &policies, "--workloads", "pipe"])
        .args(["--deterministic", "--seeds", "3", "--cpus", "1", "--seconds", "0.2", "--seed", seed])
        .arg("--out")
        .arg(out.path())
        .assert()
        .success();
    let mut report: Value =
        serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap();
    assert!(report["created"].is_string());
    report["created"] = json!("");
    report
}

/// The comparisons of a contender with the baseline.
fn comparisons<'a>(report: &'a Value, contender: &str) -> Vec<&'a Value> {
    let all = report["comparisons"].as_array().unwrap();
    all.iter().filter(|one| one["contender"] == contender).collect()
}

#[test]
#[ignore = "starts virtual machines: scripts/test runs it"]
fn equal_is_equal_and_five_percent_are_seen() {
    let report = compare("1");
    let again = comparisons(&report, "again");
    assert!(again.len() > 5, "{again:?}");
    for one in again {
        assert_eq!(one["verdict"], "same", "{one}");
        // Two zeros have none.
        assert!(one["ratio"] == json!(1.0) || one["estimate"] == json!(0.0), "{one}");
    }
    let burn = comparisons(&report, "burn");
    let per_switch = burn.iter().find(|one| one["metric"] == "per_switch").unwrap();
    println!("{per_switch}");
    assert_eq!(per_switch["verdict"], "worse", "{per_switch}");
    let ratio = per_switch["ratio"].as_f64().unwrap();
    assert!((1.03..=1.08).contains(&ratio), "{ratio}");

    assert_eq!(compare("1"), report, "a repeat is equal to the last digit");
    let other = compare("11");
    assert_ne!(other["cells"], report["cells"], "another seed is another run");
    let per_switch =
        comparisons(&other, "burn").into_iter().find(|one| one["metric"] == "per_switch").unwrap();
    assert_eq!(per_switch["verdict"], "worse", "{per_switch}");
}
