// SPDX-License-Identifier: GPL-2.0-only
//! Text for people.

use std::fmt::Write as _;

use framework::agent::AgentStatus;
use framework::control::RunFile;
use framework::kernel::KernelState;
use framework::latency::{Sample, duration};
use framework::policy::PolicyInForce;
use framework::report::{Status, SwapReport};
use framework::swap::Via;

/// A policy with the parameters in force.
pub fn policy(policy: &PolicyInForce) -> String {
    let params: Vec<_> = policy.params.iter().map(|p| format!("{}={}", p.name, p.value)).collect();
    if params.is_empty() { policy.name.clone() } else { format!("{} ({})", policy.name, params.join(", ")) }
}

/// One line of live statistics.
pub fn interval(policy: &str, sample: &Sample) -> String {
    let per_second = |n: u64| n as f64 * 1e9 / sample.duration_ns.max(1) as f64;
    let percentile = |p| sample.wakeup.percentile(p).map_or_else(|| "-".into(), duration);
    format!(
        "{policy:<12} {:>8.0} switches/s  wakeup latency p50 {:>8} p99 {:>8}  longest wait {:>8}  {:>6.0} migrations/s",
        per_second(sample.switches),
        percentile(50.0),
        percentile(99.0),
        duration(sample.wait.max()),
        per_second(sample.migrations),
    )
}

/// The lines of a swap's report.
pub fn swap(report: &SwapReport) -> String {
    let delay = |ns: Option<u64>| ns.map_or_else(|| "not measured".into(), duration);
    let via = match report.via {
        Via::Slots => "slots",
        Via::Reload => "reload",
    };
    let mut text = format!("swapped {} -> {} via {via}\n", report.from, report.to);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<28}{value}");
    };
    line("verify", format!("{:.1} ms", report.verify_ms));
    line("flip", format!("{} ns", report.flip_ns));
    line("drain", format!("{:.2} ms", report.drain_ms));
    line("tasks carried over", report.carried.to_string());
    line("tasks lost", report.lost.to_string());
    line(
        "worst scheduling delay",
        format!(
            "{} in the {:.0} ms before, {} in the {:.0} ms across the flip",
            delay(report.worst_before_ns),
            report.window_ms,
            delay(report.worst_across_ns),
            report.window_ms
        ),
    );
    line("time outside sched_ext", format!("{} ns", report.outside_ns));
    if let Some(reason) = &report.undone {
        line("undone", reason.clone());
    }
    text
}

/// Status with a scx_run running.
pub fn status(status: &Status) -> String {
    let mut text = kernel(&status.kernel);
    let _ = writeln!(
        text,
        "scx_run    pid {}, up {:.0} s, {} mode, {}",
        status.pid, status.uptime_s, status.mode, status.phase
    );
    for slot in &status.slots {
        let _ = writeln!(
            text,
            "slot {}     {:<9}{}, epoch {}",
            slot.slot,
            slot.role,
            policy(&slot.policy),
            slot.policy.epoch
        );
        if let Some(status) = &slot.agent {
            text.push_str(&agent(status));
        }
    }
    let _ = writeln!(text, "swaps      {}", status.nr_swaps);
    for swap in status.swaps.iter().rev().take(5) {
        let undone = if swap.undone.is_some() { ", undone" } else { "" };
        let _ = writeln!(
            text,
            "  {} -> {}: flip {} ns, drain {:.2} ms, {} carried over, {} lost, {} ns outside{undone}",
            swap.from, swap.to, swap.flip_ns, swap.drain_ms, swap.carried, swap.lost, swap.outside_ns
        );
    }
    text
}

/// What an agent has done.
pub fn agent(status: &AgentStatus) -> String {
    let refused = [
        ("stale", status.stale),
        ("gone", status.gone),
        ("not queued", status.not_queued),
        ("not allowed", status.not_allowed),
        ("offline", status.offline),
        ("aborted", status.aborted),
    ];
    let refused: Vec<_> =
        refused.iter().filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
    let refused = if refused.is_empty() { "none".into() } else { refused.join(", ") };
    format!(
        "agent      {}; {} queued = {} decided + {} overdue + {} left + {} waiting; refused: {refused}; \
         {} scheduled without it; {} silences, longest {}\n\
         \x20          message to agent p50 {} p99 {}, agent to transactions carried out p50 {} p99 {}\n",
        if status.answering { "answers" } else { "is not asked" },
        status.queued,
        status.committed,
        status.overdue,
        status.left,
        status.waiting,
        status.undelegated,
        status.silences,
        duration(status.longest_silence_ns),
        duration(status.message_p50_ns),
        duration(status.message_p99_ns),
        duration(status.decision_p50_ns),
        duration(status.decision_p99_ns),
    )
}

/// Status without one.
pub fn no_scx_run(state: &KernelState, left: Option<&RunFile>) -> String {
    let mut text = kernel(state);
    match left {
        Some(run) => {
            let _ = writeln!(text, "scx_run    not running; {}", killed(run));
        }
        None => text.push_str("scx_run    not running\n"),
    }
    text
}

/// What became of a scx_run that left its files behind.
pub fn killed(run: &RunFile) -> String {
    format!(
        "the last one (pid {}, policy {}) was killed, and the kernel's default scheduler took over",
        run.pid, run.policy
    )
}

fn kernel(state: &KernelState) -> String {
    let mut text = format!("sched_ext  {}", state.state);
    if let Some(ops) = &state.ops {
        let _ = write!(text, ", root {ops}");
    }
    if let Some(seq) = state.enable_seq {
        let _ = write!(text, ", enabled {seq} times since boot");
    }
    if let Some(rejected) = state.nr_rejected {
        let _ = write!(text, ", {rejected} rejected");
    }
    text.push('\n');
    let events: Vec<_> =
        state.events.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if !events.is_empty() {
        let _ = writeln!(text, "events     {}", events.join(", "));
    }
    text
}
