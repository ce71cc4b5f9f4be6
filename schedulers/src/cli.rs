// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use framework::hints::duration;
use framework::latency::Per;
use framework::swap::Via;

/// Run a sched_ext policy on the whole machine, swap it live, see its latency.
#[derive(Debug, Parser)]
#[command(name = "scx_run", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replace the policy of the running scx_run
    Swap(SwapArgs),
    /// Hand the running scheduler to another process, such as one of a new version, while it goes on scheduling
    Upgrade {
        /// The scx_run that takes over; this one if it is not said
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End the running scx_run, or detach a scheduler that was kept (--keep) without one
    Stop,
    /// Say what is attached and in force, as the kernel and the running scx_run have it
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the built-in policies and their parameters
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the kernel verify a policy, without attaching anything
    Check {
        /// Name of a built-in policy, or path of a .bpf.o
        #[arg(value_name = "NAME|PATH")]
        policy: String,
        /// Configuration file of the policy, to be checked with it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether this kernel can run us and, if not, what to change
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what tasks need (deadline, slice, class), for policies that act on it
    ///
    /// A hint is kept by the running scx_run: it stays when the policy is swapped and goes when the task dies or
    /// scx_run ends. It replaces the task's former hint as a whole. --comm and --cgroup mean all threads that match
    /// at this moment: those that come later, and children, have no hint. --process means its later threads, too.
    ///
    /// A program that is started with SCX_HINT="class=latency deadline=5ms" in its environment has that hint, with its
    /// threads and children. See docs/writing-a-policy.md for that, and for programs that hint themselves.
    Hint(HintArgs),
    /// The load that ./scripts/scx_run shows a policy with: CPU hogs, sleepers and message passing
    Demo {
        /// How long it lasts
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Policy to run: name of a built-in one (see `scx_run list`), or path of a .bpf.o
    #[arg(long, value_name = "NAME|PATH", required_unless_present = "take_over")]
    pub policy: Option<String>,
    /// Set a parameter of the policy; repeatable
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
    /// Configuration file of the policy, if it takes one (see `scx_run list`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End after this time, such as 30s, 500ms, 2m
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print statistics this often
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "INTERVAL")]
    pub stats: Duration,
    /// Print JSON lines instead of text
    #[arg(long)]
    pub json: bool,
    /// Schedule only tasks of class SCHED_EXT, not all normal ones
    #[arg(short, long)]
    pub partial: bool,
    /// Attach the policy by itself, without the root scheduler: no slots, no live swap
    #[arg(long)]
    pub direct: bool,
    /// Leave the scheduler attached when scx_run ends, for whatever reason; BPF goes on alone
    #[arg(long)]
    pub keep: bool,
    /// Let programs of all users hint themselves (SCX_HINT, scx_hint), not only root's
    #[arg(long)]
    pub user_hints: bool,
    /// Take over the scheduler of the running scx_run, or one that was kept, without detaching it
    #[arg(long, conflicts_with_all = ["policy", "params", "config", "direct", "partial", "timeout", "ops"])]
    pub take_over: bool,
    /// Swap to a policy at a time after the start, such as vtime@5s; repeatable
    #[arg(long = "swap-to", value_name = "NAME@TIME", value_parser = swap_to)]
    pub swap_to: Vec<(String, Duration)>,
    /// How long a replaced policy stays loaded for a way back, for --swap-to
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub hold: Duration,
    /// Window in which --swap-to and --take-over measure the delay, before and across
    #[arg(long, value_parser = duration, default_value = "200ms")]
    pub window: Duration,
    /// If the kernel ends the policy, attach this one in its place
    #[arg(long, value_name = "NAME|PATH")]
    pub fallback: Option<String>,
    /// Longest a runnable task may wait before the kernel ends the policy (at most 30s)
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Break latency down, and report the ten worst
    #[arg(long, value_enum)]
    pub per: Option<PerArg>,
    /// Measure nothing: the policy runs at its bare cost
    #[arg(long)]
    pub no_latency: bool,
    /// Further sched_ext ops to attach the root with, for policies that will be swapped to (or `all`)
    #[arg(long, value_name = "OP,...", value_delimiter = ',')]
    pub ops: Vec<String>,
    /// Print the kernel's debug dump if it ends the policy
    #[arg(long)]
    pub dump: bool,
    /// Say more: the verifier's log when a policy does not load
    #[arg(short, long)]
    pub verbose: bool,
    /// Run this command under the policy and end with its exit status
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SwapArgs {
    /// Name of a built-in policy, or path of a .bpf.o
    #[arg(value_name = "NAME|PATH")]
    pub policy: String,
    /// Set a parameter of the policy; repeatable
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
    /// Configuration file of the policy, if it takes one (see `scx_run list`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// By slots, without leaving sched_ext, or by reload, the old way
    #[arg(long, value_enum, default_value = "slots")]
    pub via: ViaArg,
    /// How long the replaced policy stays loaded for a way back
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub hold: Duration,
    /// Window in which the delay is measured, before the flip and across it
    #[arg(long, value_parser = duration, default_value = "200ms")]
    pub window: Duration,
    /// Go back to the old policy by itself if a task waits longer than this before the hold is over
    #[arg(long, value_parser = duration)]
    pub max_delay: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct HintArgs {
    /// The thread with this id; for the id of a process its first thread
    #[arg(long, group = "whose", value_name = "PID")]
    pub pid: Option<i32>,
    /// All threads of the process with this id, and those that it will start
    #[arg(long, group = "whose", value_name = "PID")]
    pub process: Option<i32>,
    /// All threads of this name, as they are now; of a long name the first 15 bytes count
    #[arg(long, group = "whose", value_name = "NAME")]
    pub comm: Option<String>,
    /// All threads that are in this cgroup, or below it, now
    #[arg(long, group = "whose", value_name = "PATH")]
    pub cgroup: Option<String>,
    /// The hint: deadline=5ms (to have run that long after a wakeup), slice=1ms (to run at a time),
    /// class=latency|normal|batch
    #[arg(value_name = "KEY=VALUE", conflicts_with_all = ["list", "clear"])]
    pub hint: Vec<String>,
    /// List the threads that have a hint
    #[arg(long, conflicts_with = "clear")]
    pub list: bool,
    /// Take hints away: all, unless it is said whose
    #[arg(long)]
    pub clear: bool,
    /// Print JSON: the threads that have a hint now, or had the one that is gone
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ViaArg {
    Slots,
    Reload,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PerArg {
    Comm,
    Cgroup,
    Tgid,
}

impl From<ViaArg> for Via {
    fn from(via: ViaArg) -> Self {
        match via {
            ViaArg::Slots => Via::Slots,
            ViaArg::Reload => Via::Reload,
        }
    }
}

impl From<PerArg> for Per {
    fn from(per: PerArg) -> Self {
        match per {
            PerArg::Comm => Per::Comm,
            PerArg::Cgroup => Per::Cgroup,
            PerArg::Tgid => Per::Tgid,
        }
    }
}

/// Reads `NAME@TIME`.
fn swap_to(text: &str) -> Result<(String, Duration)> {
    let (name, time) =
        text.rsplit_once('@').with_context(|| format!("{text:?} is not of the form NAME@TIME"))?;
    Ok((name.to_owned(), duration(time)?))
}

/// A policy as the server has to see it: a path made absolute, a name as it is.
pub fn absolute(policy: &str) -> Result<String> {
    if policy.contains('/') || policy.ends_with(".o") {
        let path = std::path::absolute(Path::new(policy)).with_context(|| format!("the path {policy:?}"))?;
        return Ok(path.display().to_string());
    }
    Ok(policy.to_owned())
}

/// Whole milliseconds, rounded down.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn swap_to_takes_a_name_and_a_time() {
        assert_eq!(swap_to("vtime@5s").unwrap(), ("vtime".into(), Duration::from_secs(5)));
        assert!(swap_to("vtime").is_err());
    }
}
