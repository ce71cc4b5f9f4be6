// SPDX-License-Identifier: GPL-2.0-only
//! Costs, in a deterministic VM where a nanosecond is an instruction. `scripts/test` boots one with a CPU for
//! the `one_cpu` tests and one with four for the others.

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use framework::control::SwapRequest;
use framework::report::SwapReport;
use framework::swap::Via;

use support::*;

const TURNS: u32 = 40_000;

/// Instructions per context switch of two threads that pass a byte to and fro through pipes.
fn per_switch() -> f64 {
    let (mut ping_in, mut ping_out) = std::io::pipe().unwrap();
    let (mut pong_in, mut pong_out) = std::io::pipe().unwrap();
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while ping_in.read_exact(&mut byte).is_ok() && pong_out.write_all(&byte).is_ok() {}
    });
    let mut byte = [0];
    let mut turn = |turns: u32| {
        for _ in 0..turns {
            ping_out.write_all(&byte).unwrap();
            pong_in.read_exact(&mut byte).unwrap();
        }
    };
    turn(1000);
    let start = Instant::now();
    turn(TURNS);
    let took = start.elapsed();
    drop(ping_out);
    echo.join().unwrap();
    took.as_nanos() as f64 / f64::from(2 * TURNS)
}

/// Median of three attachments: what else happens meanwhile, such as the agent's and the kernel's periodic work, is
/// worth some ten instructions a switch.
fn under(args: &[&str]) -> f64 {
    let mut all = vec!["--no-latency", "--stats", "0"];
    all.extend(args);
    let mut costs = [(); 3].map(|()| {
        let running = Running::start(&all);
        let cost = per_switch();
        assert!(running.stop().0.success());
        cost
    });
    println!("{args:?}: {costs:.0?}");
    costs.sort_by(f64::total_cmp);
    costs[1]
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn one_cpu_root_costs_at_most_one_and_a_half_percent() {
    println!("eevdf: {:.0} instructions a switch", per_switch());
    for policy in ["fifo", "vtime"] {
        let direct = under(&["--policy", policy, "--direct"]);
        let root = under(&["--policy", policy]);
        let more = (root / direct - 1.0) * 100.0;
        println!(
            "{policy}: direct {direct:.0}, through the root {root:.0} instructions a switch: {more:+.2} %"
        );
        assert!(more <= 1.5, "{policy}: {more:.2} % more through the root");
    }
}

/// Median of `across / before` over swaps.
fn median_ratio(reports: &[SwapReport]) -> f64 {
    median(reports.iter().map(ratio).collect())
}

/// The same for swaps there and back between policies that differ in what they make tasks wait: each swap there is
/// taken together with the one back (their geometric mean), in which the difference cancels. A median of them all
/// would fall between two heaps.
fn median_ratio_of_pairs(reports: &[SwapReport]) -> f64 {
    median(reports.chunks_exact(2).map(|pair| (ratio(&pair[0]) * ratio(&pair[1])).sqrt()).collect())
}

fn ratio(report: &SwapReport) -> f64 {
    report.worst_across_ns.unwrap() as f64 / report.worst_before_ns.unwrap().max(1) as f64
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    (ratios[(ratios.len() - 1) / 2] + ratios[ratios.len() / 2]) / 2.0
}

/// Swaps there and back between the running policy and another, and prints each.
fn swaps(via: Via, count: usize, there_and_back: [&SwapRequest; 2]) -> Vec<SwapReport> {
    (0..count)
        .map(|n| {
            let request =
                SwapRequest { via, window_ms: 200, hold_ms: 600_000, ..there_and_back[n % 2].clone() };
            let report = swap(&request).unwrap();
            println!(
                "{via:?} {} -> {}: before {:.2} ms, across {:.2} ms, drain {:.2} ms, {} carried, flip {} ns",
                report.from,
                report.to,
                report.worst_before_ns.unwrap() as f64 / 1e6,
                report.worst_across_ns.unwrap() as f64 / 1e6,
                report.drain_ms,
                report.carried,
                report.flip_ns
            );
            report
        })
        .collect()
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn four_cpus_a_flip_does_not_add_delay() {
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let mut load = Threads::new();
    for n in 0..8 {
        load.hog(&format!("hog{n}"), None);
    }
    for n in 0..4 {
        load.add(&format!("sleeper{n}"), None, || thread::sleep(Duration::from_millis(3)));
    }
    load.assert_all_progress();

    let between = swaps(Via::Slots, 20, [&request("vtime"), &request("fifo")]);
    // The same policy again under another slot: what is left is the flip itself.
    let twin = SwapRequest { params: vec!["slice_us=20001".into()], ..request("fifo") };
    let same = swaps(Via::Slots, 20, [&twin, &request("fifo")]);
    let reloads = swaps(Via::Reload, 4, [&twin, &request("fifo")]);

    let outside = reloads.iter().map(|report| report.outside_ns).max().unwrap();
    let (between_ratio, same_ratio) = (median_ratio_of_pairs(&between), median_ratio(&same));
    println!(
        "worst delay across / before, median: fifo and vtime {between_ratio:.3}, fifo and fifo {same_ratio:.3} (20 \
         flips each); reload {:.3} (4), which leaves sched_ext for up to {:.1} ms",
        median_ratio(&reloads),
        outside as f64 / 1e6
    );
    assert!(between.iter().chain(&same).all(|report| report.lost == 0 && report.outside_ns == 0));
    assert!(same_ratio <= 1.10, "{same_ratio:.3}");
    // Between two policies a flip shows what the next one does with the tasks it takes over, too, and each build is
    // one sample of that (0.9 to 1.5 have been seen): this catches gross mistakes only.
    assert!(between_ratio <= 2.0, "{between_ratio:.3}");
    assert!(running.stop().0.success());
}
