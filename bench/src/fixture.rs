// SPDX-License-Identifier: GPL-2.0-only
//! Reports as they might be measured, for tests.

use std::collections::BTreeMap;

use framework::latency::Histogram;
use framework::report::SwapReport;
use framework::swap::Via;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal};

use crate::model::{
    Better, Cell, Failure, Kind, Machine, Measured, MetricSpec, Mode, Report, SCHEMA, Settings, SwapCell,
    TimelinePoint, WorkloadSpec,
};
use crate::workload::{percentiles, value};

/// Contenders of the fixtures. The last is a command that HTML must escape.
pub const CONTENDERS: [&str; 3] = ["kernel", "fifo", "cmd:scx_lavd --slice <5ms>"];

/// A report without cells.
pub fn empty(kind: Kind, mode: Mode) -> Report {
    Report {
        schema: SCHEMA,
        kind,
        created: "2025-11-05T14:30:00Z".into(),
        settings: Settings {
            version: "0.1.0".into(),
            command: ["scx_bench", "compare", "kernel", "fifo", CONTENDERS[2]].map(String::from).to_vec(),
            mode,
            contenders: CONTENDERS.map(String::from).to_vec(),
            runs: 5,
            seed: 1,
            seconds: 5.0,
        },
        machine: Some(Machine {
            kernel: "6.17.0-rc4-scx".into(),
            cpu: "AMD EPYC 7B13".into(),
            accelerator: Some("KVM".into()),
            cpus: 8,
            memory_mib: 16_384,
            cmdline: "console=ttyS0 quiet".into(),
            spins_per_us: 2_411,
            programs: [("schbench", "v1.0-2-g1a2b"), ("hackbench", "rt-tests 2.5")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }),
        workloads: workloads(),
        cells: Vec::new(),
        swaps: Vec::new(),
        failures: Vec::new(),
        interrupted: false,
    }
}

fn workloads() -> Vec<WorkloadSpec> {
    let spec = |name: &str, family: &str, description: &str, metrics: Vec<MetricSpec>| WorkloadSpec {
        name: name.into(),
        family: family.into(),
        description: description.into(),
        command: (family == "schbench").then(|| "schbench -m 2 -t 8 -r 5".into()),
        metrics,
    };
    let mut schbench = percentiles("request", &[50.0, 99.0, 99.9]);
    schbench.push(value("rps", "req/s", Better::Higher));
    vec![
        spec(
            "pipe",
            "pipe",
            "two threads pass a byte to and fro: time a switch",
            vec![value("per_switch", "ns", Better::Lower)],
        ),
        spec("schbench-half", "schbench", "requests with half of the CPUs busy", schbench.clone()),
        spec("schbench-full", "schbench", "requests with all CPUs busy", schbench),
        spec(
            "hackbench",
            "hackbench",
            "groups of senders and receivers",
            vec![
                value("messages", "msg/s", Better::Higher),
                value("fairness_gap", "", Better::Lower),
                value("lost", "", Better::Lower),
            ],
        ),
    ]
}

/// A histogram of log-normal durations, with a tail.
fn histogram(rng: &mut SmallRng, samples: usize, median_ns: f64, spread: f64) -> Histogram {
    let Ok(bulk) = LogNormal::new(median_ns.ln(), spread) else { return Histogram::default() };
    (0..samples)
        .map(|_| {
            let tail = if rng.random_bool(0.004) { rng.random_range(5.0..40.0) } else { 1.0 };
            (bulk.sample(rng) * tail) as u64
        })
        .collect()
}

/// What a contender that is `speed` times as slow as the kernel does on a machine.
fn cell(contender: &str, workload: &str, cpus: u32, round: u32, speed: f64, rng: &mut SmallRng) -> Cell {
    let mut noise = |sd: f64| 1.0 + sd * (rng.random::<f64>() + rng.random::<f64>() - 1.0) * 2.4;
    let mut values = BTreeMap::from([
        ("switches".to_owned(), 184_000.0 / speed * noise(0.01)),
        ("migrations".to_owned(), 2_310.0 * speed * speed * noise(0.1)),
    ]);
    let mut histograms = BTreeMap::new();
    match workload {
        "pipe" => drop(values.insert("per_switch".into(), 1_420.0 * speed * noise(0.006))),
        "hackbench" => {
            values.insert("messages".into(), 1_234_000.0 / speed * noise(0.012));
            values.insert("fairness_gap".into(), 0.04 * noise(0.3));
            values.insert("lost".into(), 0.0);
        }
        _ => drop(values.insert("rps".into(), 8_450.0 / speed.sqrt() * noise(0.008))),
    }
    if workload.starts_with("schbench") {
        let load = if workload.ends_with("full") { 6.0 } else { 1.0 };
        histograms.insert("request".into(), histogram(rng, 4_000, 62_000.0 * load * speed, 0.5));
    }
    for (name, median) in [("kernel_wakeup", 4_200.0), ("kernel_wait", 9_000.0), ("kernel_slice", 210_000.0)]
    {
        histograms.insert(name.into(), histogram(rng, 3_000, median * speed, 0.8));
    }
    Cell {
        contender: contender.into(),
        workload: workload.into(),
        cpus,
        round,
        seed: 1 + u64::from(round),
        measured: Measured {
            values,
            histograms: histograms
                .iter()
                .map(|(name, hist): (&String, _)| (name.clone(), hist.into()))
                .collect(),
        },
    }
}

fn fill(report: &mut Report, cpus: &[u32], speed: impl Fn(usize, u32) -> f64) {
    let mut rng = SmallRng::seed_from_u64(42);
    for &cpus in cpus {
        for (index, contender) in CONTENDERS.iter().enumerate() {
            for workload in report.workloads.clone() {
                for round in 0..report.settings.runs {
                    let cell = cell(contender, &workload.name, cpus, round, speed(index, cpus), &mut rng);
                    report.cells.push(cell);
                }
            }
        }
    }
}

/// Contenders under workloads: one runs ahead, one lags, one of its runs failed.
pub fn compare() -> Report {
    let mut report = empty(Kind::Compare, Mode::Vm);
    fill(&mut report, &[8], |contender, _| [1.0, 1.12, 0.86][contender]);
    report.cells.retain(|c| !(c.contender == CONTENDERS[2] && c.workload == "hackbench" && c.round > 2));
    // The schbench-full of one contender has its own story in one run.
    let odd = |c: &&mut Cell| c.contender == "fifo" && c.workload == "schbench-full" && c.round == 3;
    if let Some(cell) = report.cells.iter_mut().find(odd) {
        cell.measured.values.insert("rps".into(), 5_200.0);
    }
    report.failures.push(Failure {
        contender: CONTENDERS[2].into(),
        workload: Some("hackbench".into()),
        round: 3,
        message:
            "the scheduler left during the run: runnable task stall (hackbench[812] failed to run for 5.1s)\n\
                  raise its timeout, or leave out hackbench"
                .into(),
    });
    report
}

/// Contenders on more and more CPUs; one stops scaling.
pub fn scale() -> Report {
    let mut report = empty(Kind::Scale, Mode::Vm);
    report.workloads.truncate(2);
    fill(&mut report, &[1, 2, 4, 8, 16], |contender, cpus| match contender {
        1 => 1.05 + f64::from(cpus).powi(2) / 150.0,
        2 => 0.9 + f64::from(cpus) / 120.0,
        _ => 1.0 + f64::from(cpus) / 200.0,
    });
    report
}

/// Instructions an operation.
pub fn cost() -> Report {
    let mut report = empty(Kind::Cost, Mode::Deterministic);
    let metrics = ["wakeup", "switch", "tick", "fork", "yield"]
        .map(|name| value(name, "instructions", Better::Lower))
        .to_vec();
    report.workloads = vec![WorkloadSpec {
        name: "operations".into(),
        family: "operations".into(),
        description: "instructions an operation, in the kernel".into(),
        command: None,
        metrics: metrics.clone(),
    }];
    for (index, contender) in CONTENDERS.iter().enumerate() {
        for round in 0..3 {
            let cost =
                |n: usize| 1_210.0 + 830.0 * n as f64 + (index * n * 97) as f64 + f64::from(round) * 2.0;
            let values = metrics.iter().enumerate().map(|(n, m)| (m.name.clone(), cost(n))).collect();
            report.cells.push(Cell {
                contender: contender.to_string(),
                workload: "operations".into(),
                cpus: 4,
                round,
                seed: 1 + u64::from(round),
                measured: Measured { values, histograms: BTreeMap::new() },
            });
        }
    }
    report
}

/// Three ways to replace a policy.
pub fn swap() -> Report {
    let mut report = empty(Kind::Swap, Mode::Vm);
    report.settings.contenders = vec!["fifo".into(), "vtime".into()];
    report.workloads.clear();
    let mut rng = SmallRng::seed_from_u64(7);
    for round in 0..5 {
        for (via, outside_ms) in [("slots", 0.0), ("reload", 9.0), ("cmd:scx_a; cmd:scx_b <x>", 140.0)] {
            report.swaps.push(swap_cell(via, outside_ms, round, &mut rng));
        }
    }
    report
}

fn swap_cell(via: &str, outside_ms: f64, round: u32, rng: &mut SmallRng) -> SwapCell {
    let outside_ms = outside_ms * rng.random_range(0.9..1.2);
    let timeline = (-50..=50)
        .map(|step| {
            let at_ms = f64::from(step) * 10.0;
            let across = (0.0..=outside_ms + 10.0).contains(&at_ms) && outside_ms > 0.0;
            let calm = rng.random_range(20_000.0..90_000.0);
            TimelinePoint {
                at_ms,
                worst_wait_ns: if across { outside_ms * 1e5 + calm * 20.0 } else { calm } as u64,
                switches_per_second: rng.random_range(90_000.0..110_000.0) * if across { 0.6 } else { 1.0 },
                enabled: !(across && at_ms < outside_ms),
            }
        })
        .collect();
    SwapCell {
        via: via.into(),
        cpus: 8,
        round,
        seed: 1 + u64::from(round),
        report: SwapReport {
            from: "fifo".into(),
            to: "vtime".into(),
            via: if via == "slots" { Via::Slots } else { Via::Reload },
            verify_ms: rng.random_range(18.0..25.0),
            flipped_at_ns: 1_000_000_000,
            flip_ns: if via == "slots" {
                410 + u64::from(round)
            } else {
                (outside_ms * 1e6) as u64 + 300_000
            },
            drain_ms: rng.random_range(0.2..2.0),
            carried: rng.random_range(0..9),
            lost: 0,
            window_ms: 500.0,
            worst_before_ns: Some(rng.random_range(80_000..120_000)),
            worst_across_ns: Some(100_000 + (outside_ms * 1.1e5) as u64),
            outside_ns: (outside_ms * 1e6) as u64,
            undone: None,
        },
        timeline,
    }
}

/// A small one, the example of `docs/report-json.md`.
pub fn example() -> Report {
    let mut report = empty(Kind::Compare, Mode::Vm);
    report.settings.contenders.truncate(2);
    report.settings.command =
        ["scx_bench", "compare", "--runs", "2", "kernel", "fifo"].map(String::from).to_vec();
    report.settings.runs = 2;
    report.workloads.truncate(1);
    report.workloads[0].metrics.extend(percentiles("trip", &[99.0]));
    for (contender, per_switch, trip) in
        [("kernel", [1420.0, 1424.5], 2_900), ("fifo", [1551.5, 1549.0], 3_100)]
    {
        for round in 0..2 {
            let hist: Histogram = [trip, trip + 40, 2 * trip + u64::from(round)].into_iter().collect();
            report.cells.push(Cell {
                contender: contender.into(),
                workload: "pipe".into(),
                cpus: 8,
                round,
                seed: 1 + u64::from(round),
                measured: Measured {
                    values: [("per_switch".to_owned(), per_switch[round as usize])].into(),
                    histograms: [("trip".to_owned(), (&hist).into())].into(),
                },
            });
        }
    }
    report.failures.push(Failure {
        contender: "fifo".into(),
        workload: Some("pipe".into()),
        round: 1,
        message: "an example of a failure".into(),
    });
    report
}

/// One of each.
pub fn all() -> Vec<(&'static str, Report)> {
    vec![("compare", compare()), ("scale", scale()), ("cost", cost()), ("swap", swap())]
}
