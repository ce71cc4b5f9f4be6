// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Compare scheduling policies under load, so that a repeat gives the same answer.
#[derive(Debug, Parser)]
#[command(name = "scx_bench", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure contenders under workloads, in turns, and say what differs and how surely
    Compare(CompareArgs),
    /// Measure what tasks feel when one scheduler is replaced by another
    Swap(SwapArgs),
    /// Count instructions: a wakeup, a context switch, a process, each op (deterministic, one CPU)
    Cost(CostArgs),
    /// Measure cost and latency as CPUs and tasks grow, in virtual machines
    Scale(ScaleArgs),
    /// Render reports again, several side by side, or compare one with an earlier one
    Report(ReportArgs),
    /// List the workloads with their metrics, and what is missing on this machine
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Does the measuring; scx_bench starts it itself
    #[command(hide = true)]
    Measure { job: String },
}

/// Where and into what, for all commands that measure.
#[derive(Debug, Args)]
pub struct Common {
    /// Folder for the report
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
    /// Print report.json on stdout instead of the summary
    #[arg(long)]
    pub json: bool,
    /// Kernel of the virtual machine: a series such as 6.18 or 7.3, or an image
    #[arg(long, value_name = "SERIES|PATH")]
    pub kernel: Option<String>,
    /// Seed of the first run; the others count on
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Where to measure, for commands that leave the choice.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// Count instructions instead of time: virtual machines that repeat exactly
    #[arg(long)]
    pub deterministic: bool,
    /// CPUs of the virtual machine [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cpus: Option<u32>,
    /// Use a virtual machine even where this kernel would do
    #[arg(long)]
    pub vm: bool,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Contenders, the baseline first: eevdf, POLICY, direct:POLICY, 'cmd:COMMAND'; LABEL=CONTENDER renames one,
    /// a comma of a command's own is written \,
    #[arg(long, required = true, value_name = "CONTENDER,...")]
    pub policies: Vec<String>,
    /// Workloads or families of them (see `scx_bench list`)
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "schbench,stress-ng,mixed,pipe",
        value_name = "NAME,..."
    )]
    pub workloads: Vec<String>,
    /// Rounds, in each of which every contender has its turn under every workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "seeds")]
    pub runs: u32,
    /// Seconds that each workload is measured in a round; a family shares them [default: 10, deterministic: 1]
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Seeds, in deterministic mode the runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), requires = "deterministic")]
    pub seeds: u32,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct SwapArgs {
    /// Policies to swap between, there and back
    #[arg(long, value_delimiter = ',', default_value = "fifo:vtime", value_name = "A:B,...")]
    pub pairs: Vec<String>,
    /// Ways: slots, reload, restart (end one scx_run, start another), or 'cmd:A>cmd:B' for anyone's schedulers
    #[arg(long, default_value = "slots,reload,restart", value_name = "WAY,...")]
    pub via: Vec<String>,
    /// Swaps of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub swaps: u32,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct CostArgs {
    /// Contenders, the baseline first, as for `compare`
    #[arg(
        long,
        default_value = "eevdf,direct:fifo,fifo,fifo_percpu,direct:vtime,vtime",
        value_name = "CONTENDER,..."
    )]
    pub policies: Vec<String>,
    /// Seeds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,
    /// Seconds of guest time for each workload
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub seconds: f64,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Contenders, the baseline first, as for `compare`
    #[arg(long, default_value = "eevdf,fifo,fifo_percpu,vtime", value_name = "CONTENDER,...")]
    pub policies: Vec<String>,
    /// Numbers of virtual CPUs
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cpus: Vec<u32>,
    /// Workloads; their threads grow with the CPUs (deterministic: pinned up to 32 CPUs)
    #[arg(long, value_delimiter = ',', default_value = "pipes,pinned", value_name = "NAME,...")]
    pub workloads: Vec<String>,
    /// Seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,
    /// Seconds of guest time for each workload
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub seconds: f64,
    /// Measure time instead of counting instructions: shows where CPUs wait for each other, if KVM is there
    #[arg(long)]
    pub throughput: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folders of reports, or their report.json
    #[arg(required = true, value_name = "DIR")]
    pub reports: Vec<PathBuf>,
    /// Folder for the page [default: that of the report; for several: report]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compare with an earlier report and exit with 4 if anything has become worse
    #[arg(long, value_name = "BASELINE.json")]
    pub against: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("wants seconds from 0.01 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
