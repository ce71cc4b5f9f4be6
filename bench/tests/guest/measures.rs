// SPDX-License-Identifier: GPL-2.0-only
//! What is measured, and that it is all there.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::support::*;

/// The kernel's view, which every workload has.
const KERNEL_VIEW: &[&str] = &["kernel_wakeup_p50", "kernel_wakeup_p999", "kernel_wait_max", "switches"];

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn contenders_take_turns_and_all_is_in_the_report() {
    let contenders = ["eevdf", "fifo", "direct:fifo", "vtime", "percpu"];
    let policies = "eevdf,fifo,direct:fifo,vtime,percpu=cmd:scx_run --policy fifo_percpu --stats 0";
    let run = compare(policies, "pipe,mixed", 2, 0.3).run().ended_with(0);
    let report = run.report();
    assert_eq!(report.0["settings"]["mode"], "host");
    assert_eq!(
        report.0["machine"]["accelerator"].as_str(),
        std::env::var("SCX_VM_ACCELERATOR").ok().as_deref()
    );

    // In each round another one is first.
    let in_turn = |round: usize, workload: &'static str| {
        (0..contenders.len())
            .map(move |n| (contenders[(round + n) % contenders.len()], workload, round as u64))
    };
    let expected: Vec<_> =
        (0..2).flat_map(|round| in_turn(round, "pipe").chain(in_turn(round, "mixed"))).collect();
    assert_eq!(report.cells(), expected);

    for contender in contenders {
        let (pipe, mixed) = (report.metrics(contender, "pipe"), report.metrics(contender, "mixed"));
        for metric in KERNEL_VIEW {
            assert!(pipe.contains(metric) && mixed.contains(metric), "{metric} of {contender} is missing");
        }
        assert!(pipe.contains("per_switch") && mixed.contains("critical_wakeup_p99"), "{pipe:?} {mixed:?}");
    }
    for file in ["index.html", "report.md", "report.json", "pipe.csv", "mixed.csv"] {
        assert!(run.out().join(file).metadata().unwrap().len() > 0, "{file} is empty");
    }
    assert!(run.stdout().contains("per_switch"), "the summary is printed: {}", run.stdout());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn every_workload_gives_all_its_metrics() {
    let list = Command::new("scx_bench").args(["list", "--json"]).output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&list.stdout).unwrap();
    let here: Vec<_> =
        all.iter().filter(|entry| entry["missing"].is_null()).map(|entry| &entry["workload"]).collect();
    let names: Vec<_> = here.iter().map(|spec| text(spec, "name")).collect();
    assert!(names.len() > 15, "{names:?}");

    // Long enough for a few of the slowest, a fork and exec, on a busy machine.
    let run = compare("fifo", &names.join(","), 1, 1.5).run().ended_with(0);
    let report = run.report();
    for spec in here {
        let name = text(spec, "name");
        let measured = report.metrics("fifo", name);
        let metrics: BTreeSet<_> =
            spec["metrics"].as_array().unwrap().iter().map(|one| text(one, "name")).collect();
        let wanted: BTreeSet<_> = match name {
            // fifo has no others that are called here.
            "cost-ops" => ["op_select_cpu", "op_enqueue", "op_dispatch"].into(),
            _ => metrics.iter().chain(KERNEL_VIEW).copied().collect(),
        };
        assert!(wanted.is_subset(&measured), "{name} lacks {:?}", wanted.difference(&measured));
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_contender_does_not_differ_from_itself() {
    let run = compare("fifo,again=fifo", "pipe,mixed", 5, 0.2).run().ended_with(0);
    let report = run.report();
    let again: Vec<_> = report.comparisons().iter().filter(|one| one["contender"] == "again").collect();
    assert!(again.len() > 20, "{} comparisons are too few to show anything", again.len());
    for one in again {
        assert!(["same", "unknown"].contains(&text(one, "verdict")), "a difference is called: {one}");
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_by_slots_leave_nobody_outside_and_others_do() {
    let command = "cmd:scx_run --policy fifo --stats 0>cmd:scx_run --policy vtime --stats 0";
    let via = format!("slots,reload,restart,{command}");
    let run = Bench::new(&["swap", "--via", &via, "--swaps", "2"]).run().ended_with(0);
    let report = run.report();
    let swaps = report.0["swaps"].as_array().unwrap();
    let ways: Vec<_> = swaps.iter().map(|swap| text(swap, "via")).collect();
    assert_eq!(ways, ["slots", "slots", "reload", "reload", "restart", "restart", command, command]);
    for (n, swap) in swaps.iter().enumerate() {
        let (way, figures) = (ways[n], &swap["report"]);
        assert_eq!(number(figures, "lost"), 0, "{way}");
        assert_eq!(number(figures, "outside_ns") == 0, way == "slots", "{way}: {figures}");
        if way != command {
            let there = if n % 2 == 0 { ("fifo", "vtime") } else { ("vtime", "fifo") };
            assert_eq!((text(figures, "from"), text(figures, "to")), there, "{way}");
        }
        let steps = swap["timeline"].as_array().unwrap();
        let at: Vec<_> = steps.iter().map(|step| step["at_ms"].as_f64().unwrap()).collect();
        assert!(at.is_sorted() && at[0] < 0.0 && at[at.len() - 1] > 0.0, "{way}: {at:?}");
        assert!(
            figures["worst_before_ns"].is_u64() && figures["worst_across_ns"].is_u64(),
            "{way}: {figures}"
        );
    }
    assert!(run.out().join("swaps.csv").exists());
}

/// What measures is a real-time thread: on one CPU nothing that it waits for may need that CPU meanwhile.
#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_on_one_cpu_come_to_their_end() {
    let swap = Bench::new(&["swap", "--via", "slots", "--swaps", "2"]);
    let run = swap.wrapped_in(&["taskset", "-c", "0"]).run().ended_with(0);
    assert_eq!(run.report().0["swaps"].as_array().unwrap().len(), 2);
}
