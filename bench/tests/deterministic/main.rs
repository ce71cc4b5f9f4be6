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

/// Compares these under `pipe`; returns report.json without its date.
fn compare(policies: &str, seeds: &str, seed: &str) -> Value {
    let out = tempfile::tempdir().unwrap();
    scx_bench()
        .args(["compare", "--policies", policies, "--workloads", "pipe", "--deterministic"])
        .args(["--seeds", seeds, "--seed", seed, "--cpus", "1", "--seconds", "0.2"])
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
    let report = compare(&format!("fifo,again=fifo,burn={BURN}"), "3", "1");
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
}

#[test]
#[ignore = "starts virtual machines: scripts/test runs it"]
fn a_repeat_is_equal_to_the_last_digit_and_another_seed_is_another_run() {
    let report = compare("fifo", "1", "1");
    assert_eq!(compare("fifo", "1", "1"), report);
    assert_ne!(compare("fifo", "1", "11")["cells"][0]["values"], report["cells"][0]["values"]);
}
