// SPDX-License-Identifier: GPL-2.0-only
//! Text for people.

use std::fmt::Write as _;

use framework::agent::{AgentStatus, Stages};
use framework::control::RunFile;
use framework::environ::EnvironStatus;
use framework::kernel::KernelState;
use framework::latency::{Sample, duration};
use framework::pins::{Kept, KeptSlot};
use framework::policy::PolicyInForce;
use framework::report::{Status, SwapReport, UpgradeReport};
use framework::slow_path::SlowPathStatus;
use framework::swap::Via;

/// A policy with the parameters in force.
pub fn policy(policy: &PolicyInForce) -> String {
    let config = policy.config.iter().map(|file| format!("config {}", file.path));
    let params = policy.params.iter().map(|p| format!("{}={}", p.name, p.value));
    let params: Vec<_> = config.chain(params).collect();
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

/// The lines of a hand-over's report.
pub fn upgrade(report: &UpgradeReport) -> String {
    let delay = |ns: Option<u64>| ns.map_or_else(|| "not measured".into(), duration);
    let from = report.from_pid.map_or_else(|| "no process".into(), |pid| format!("pid {pid}"));
    let mut text = format!(
        "took over {} from {from} ({}) -> pid {} ({})\n",
        report.policy, report.from_version, report.to_pid, report.to_version
    );
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<28}{value}");
    };
    line("loaded beside it in", format!("{:.1} ms", report.load_ms));
    if let Some(ns) = report.without_agent_ns {
        line("BPF decided alone for", format!("{:.2} ms", ns as f64 / 1e6));
        line("tasks with their state", report.restored.to_string());
    }
    if let Some(ns) = report.without_process_ns {
        line("no process watched for", format!("{:.2} ms", ns as f64 / 1e6));
    }
    line("tasks lost", report.lost.to_string());
    line(
        "worst scheduling delay",
        format!(
            "{} in the {:.0} ms before, {} in the {:.0} ms across the hand-over",
            delay(report.worst_before_ns),
            report.window_ms,
            delay(report.worst_across_ns),
            report.window_ms
        ),
    );
    line("time outside sched_ext", format!("{} ns", report.outside_ns));
    text
}

/// Status with a scx_run running.
pub fn status(status: &Status) -> String {
    let mut text = kernel(&status.kernel);
    let _ = writeln!(
        text,
        "scx_run    pid {}, up {:.0} s, {} mode, {}{}",
        status.pid,
        status.uptime_s,
        status.mode,
        status.phase,
        if status.keep { ", kept when it ends" } else { "" }
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
        if let Some(status) = &slot.slow_path {
            text.push_str(&slow_path(status));
        }
        if !slot.counts.is_empty() {
            let counts: Vec<_> = slot.counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            let _ = writeln!(text, "counts     {}", counts.join(", "));
        }
    }
    text.push_str(&status.environ.as_ref().map(environ).unwrap_or_default());
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

/// What has come of hints in the environment, if there were any.
fn environ(status: &EnvironStatus) -> String {
    let more = [
        (
            status.refused,
            if status.user_hints { "refused (setuid)" } else { "refused (no --user-hints, or setuid)" },
        ),
        (status.malformed, "malformed"),
        (status.lost, "lost"),
    ];
    let more: String = more.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    if status.given == 0 && more.is_empty() {
        return more;
    }
    format!("SCX_HINT   {} programs hinted{more}\n", status.given)
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
    let answers = match status.agents {
        0 | 1 => "answers".into(),
        several => format!("{several} answer, none has decided less than {}", status.fewest),
    };
    format!(
        "agent      {}; {} queued = {} decided + {} overdue{} + {} left + {} waiting; refused: {refused}; \
         {} on idle CPUs at once, {} scheduled without it; {} silences, longest {}\n\
         \x20          message to agent p50 {} p99 {}, agent to transactions carried out p50 {} p99 {}\n{}",
        if status.answering { answers } else { "is not asked".into() },
        status.queued,
        status.committed,
        status.overdue,
        if status.stolen > 0 { format!(" + {} stolen", status.stolen) } else { String::new() },
        status.left,
        status.waiting,
        status.direct,
        status.undelegated,
        status.silences,
        duration(status.longest_silence_ns),
        duration(status.message_p50_ns),
        duration(status.message_p99_ns),
        duration(status.decision_p50_ns),
        duration(status.decision_p99_ns),
        status.stages.as_ref().map(stages).unwrap_or_default()
    )
}

/// What a slow path has done.
fn slow_path(status: &SlowPathStatus) -> String {
    match &status.last_failure {
        Some(why) => {
            format!("slow path  {} rounds, {} failed: {why}\n", status.rounds, status.failures)
        }
        None => format!("slow path  {} rounds\n", status.rounds),
    }
}

/// The way of a wakeup through an agent.
fn stages(stages: &Stages) -> String {
    let total = stages.message_ns + stages.seen_ns + stages.committed_ns + stages.running_ns;
    format!(
        "           wakeup to running {} = {} message written + {} agent sees it + {} transaction carried out + {} task \
         runs (means of {} wakeups)\n",
        duration(total),
        duration(stages.message_ns),
        duration(stages.seen_ns),
        duration(stages.committed_ns),
        duration(stages.running_ns),
        stages.count,
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

/// Status of a scheduler without a process.
pub fn kept(state: &KernelState, kept: &Kept) -> String {
    let mut text = kernel(state);
    if kept.attached() {
        text.push_str("scx_run    not running; the scheduler was kept: no scx_run decides, BPF alone\n");
    } else {
        text.push_str("scx_run    not running; a scheduler was kept, which the kernel has ended since\n");
    }
    let _ = writeln!(text, "kept       by pid {}, version {}; {ADOPT}", kept.pid, kept.version);
    for (slot, KeptSlot { policy: one, .. }) in &kept.slots {
        let _ = writeln!(text, "slot {slot}     {}, epoch {}", policy(one), one.epoch);
    }
    text
}

/// What can be done about a scheduler without a process.
pub const ADOPT: &str = "`scx_run --take-over` takes it over, `scx_run stop` detaches it";

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
