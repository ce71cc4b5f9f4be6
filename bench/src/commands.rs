// SPDX-License-Identifier: GPL-2.0-only
//! The commands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::analysis::Document;
use crate::analysis::against::{Against, against};
use crate::cli::{CompareArgs, CostArgs, ReportArgs, ScaleArgs, SwapArgs};
use crate::collect::Placed;
use crate::contender::{Contender, Scheduler, parse_list};
use crate::job::{Job, SwapHow, SwapVia, Task};
use crate::machine::deterministic_spins_per_us;
use crate::model::{Kind, Report};
use crate::place::{Place, Wishes};
use crate::plan::{Matrix, families, specs};
use crate::programs::{built_in_policies, find_program, scx_run};
use crate::report;
use crate::session::Session;
use crate::swapping;
use crate::workload::{self, pipes::PINNED_UP_TO};

/// Exit code when a report is worse than the one it was compared with.
const WORSE: u8 = 4;
/// Seconds a workload.
const SECONDS: f64 = 10.0;
/// The same where each of them is a thousand million instructions to emulate.
const DETERMINISTIC_SECONDS: f64 = 1.0;

/// `scx_bench compare`.
pub fn compare(args: CompareArgs) -> Result<ExitCode> {
    let default = if args.place.deterministic { DETERMINISTIC_SECONDS } else { SECONDS };
    let matrix = Matrix {
        contenders: contenders(&args.policies)?,
        families: families(&args.workloads)?,
        runs: if args.place.deterministic { args.seeds } else { args.runs },
        seed: args.common.seed,
        seconds: args.seconds.unwrap_or(default),
        probes: true,
    };
    let (place, why) = Place::choose(Wishes {
        cpus: args.place.cpus,
        kernel: args.common.kernel.clone(),
        vm: args.place.vm,
        deterministic: args.place.deterministic,
        files: files(&matrix),
    })?;
    let jobs = matrix.jobs(&place)?;
    session(Kind::Compare, &args.common, &place, &why, &matrix, matrix.cells()).run(jobs)
}

/// `scx_bench cost`.
pub fn cost(args: CostArgs) -> Result<ExitCode> {
    let matrix = Matrix {
        contenders: contenders(&args.policies)?,
        families: families(&["pipe".into(), "cost".into()])?,
        runs: args.seeds,
        seed: args.common.seed,
        seconds: args.seconds,
        probes: false,
    };
    let (place, why) = Place::choose(Wishes {
        cpus: Some(1),
        kernel: args.common.kernel.clone(),
        deterministic: true,
        files: files(&matrix),
        ..Wishes::default()
    })?;
    let jobs = matrix.jobs(&place)?;
    let mut session = session(Kind::Cost, &args.common, &place, &why, &matrix, matrix.cells());
    // In this mode, and on one CPU, a nanosecond is an instruction.
    for metric in session.workloads.iter_mut().flat_map(|workload| &mut workload.metrics) {
        metric.unit = "instructions".into();
    }
    session.run(jobs)
}

/// `scx_bench scale`.
pub fn scale(args: ScaleArgs) -> Result<ExitCode> {
    let matrix = Matrix {
        contenders: contenders(&args.policies)?,
        families: families(&args.workloads)?,
        runs: args.seeds,
        seed: args.common.seed,
        seconds: args.seconds,
        probes: true,
    };
    let (place, why) = Place::choose(Wishes {
        kernel: args.common.kernel.clone(),
        vm: true,
        deterministic: !args.throughput,
        files: files(&matrix),
        ..Wishes::default()
    })?;
    let (mut jobs, mut cells) = (Vec::new(), 0);
    for cpus in &args.cpus {
        let matrix = if args.throughput { matrix.clone() } else { matrix.within_reach(*cpus) };
        jobs.extend(matrix.jobs(&place.with_cpus(*cpus))?);
        cells += matrix.cells();
    }
    if cells == 0 {
        bail!("pinned takes for ever on more than {PINNED_UP_TO} CPUs in deterministic mode; ask for fewer");
    }
    session(Kind::Scale, &args.common, &place, &why, &matrix, cells).run(jobs)
}

/// `scx_bench swap`.
pub fn swap(args: SwapArgs) -> Result<ExitCode> {
    let policies = built_in_policies()?;
    let pairs = args.pairs.iter().map(|pair| parse_pair(pair, &policies)).collect::<Result<Vec<_>>>()?;
    let ways: Vec<&str> =
        args.via.iter().flat_map(|text| text.split(',')).filter(|way| !way.is_empty()).collect();
    let mut vias = Vec::new();
    for way in ways {
        vias.extend(vias_of(way, &pairs)?);
    }
    if vias.is_empty() {
        bail!("no way to swap; name some, such as --via slots,reload");
    }
    let programs = vias.iter().flat_map(|via| match &via.how {
        SwapHow::Ask { policies, .. } => policies.iter().map(PathBuf::from).collect::<Vec<_>>(),
        SwapHow::Restart { commands, .. } => commands.iter().flatten().map(PathBuf::from).collect(),
    });
    let (place, why) = Place::choose(Wishes {
        cpus: args.place.cpus,
        kernel: args.common.kernel.clone(),
        vm: args.place.vm,
        deterministic: args.place.deterministic,
        files: programs.filter(|file| file.is_absolute() && file.is_file()).collect(),
    })?;
    let cells = vias.len() as u64 * u64::from(args.swaps);
    let labels = vias.iter().map(|via| via.label.clone()).collect();
    let job = Job {
        task: Task::Swaps { vias, swaps: args.swaps },
        rounds: 1,
        warm_up_round: false,
        seed: args.common.seed,
        seconds: 0.0,
        probes: false,
        spins_per_us: args.place.deterministic.then(|| deterministic_spins_per_us(place.cpus())),
    };
    let session = Session {
        kind: Kind::Swap,
        common: &args.common,
        place: &place,
        why: &why,
        contenders: labels,
        workloads: Vec::new(),
        runs: args.swaps,
        seconds: swapping::WATCHED.as_secs_f64(),
        cells,
    };
    session.run(vec![Placed { job, place: place.clone(), contender: None }])
}

fn parse_pair(text: &str, policies: &[String]) -> Result<[String; 2]> {
    let (from, to) =
        text.split_once(':').with_context(|| format!("{text:?} is not of the form POLICY:POLICY"))?;
    let policy = |name: &str| -> Result<String> {
        let contender: Contender = format!("policy={name}").parse()?;
        contender.check(policies)?;
        Ok(if policies.iter().any(|have| have == name) {
            name.to_owned()
        } else {
            std::path::absolute(name)?.display().to_string()
        })
    };
    Ok([policy(from)?, policy(to)?])
}

/// The ways that a word of --via stands for: one for each pair, or one between two commands.
fn vias_of(way: &str, pairs: &[[String; 2]]) -> Result<Vec<SwapVia>> {
    let label = |[from, to]: &[String; 2]| {
        if pairs.len() > 1 { format!("{way} {from}:{to}") } else { way.to_owned() }
    };
    let start = |policy: &str| -> Result<Vec<String>> {
        let scx_run = scx_run()?.display().to_string();
        Ok([&scx_run, "--policy", policy, "--no-latency", "--stats", "0"].map(str::to_owned).to_vec())
    };
    match way {
        "slots" | "reload" => pairs
            .iter()
            .map(|pair| {
                let how =
                    SwapHow::Ask { start: start(&pair[0])?, policies: pair.clone(), reload: way == "reload" };
                Ok(SwapVia { label: label(pair), how })
            })
            .collect(),
        "restart" => pairs
            .iter()
            .map(|pair| {
                Ok(SwapVia {
                    label: label(pair),
                    how: SwapHow::Restart {
                        names: pair.clone(),
                        commands: [start(&pair[0])?, start(&pair[1])?],
                    },
                })
            })
            .collect(),
        commands => {
            let (from, to) = commands
                .split_once('>')
                .with_context(|| format!("no way {way:?}: it is slots, reload, restart or 'cmd:A>cmd:B'"))?;
            Ok(vec![SwapVia {
                label: way.into(),
                how: SwapHow::Restart {
                    names: [from, to].map(str::to_owned),
                    commands: [command(from)?, command(to)?],
                },
            }])
        }
    }
}

fn command(text: &str) -> Result<Vec<String>> {
    let contender: Contender = text.trim().parse()?;
    if matches!(contender.scheduler, Scheduler::Command(_)) {
        contender.check(&[])?;
    }
    match contender.absolute()?.scheduler {
        Scheduler::Command(words) => Ok(words),
        _ => bail!("{text:?} is no command: write 'cmd:A>cmd:B'"),
    }
}

/// `scx_bench report`.
pub fn report(args: &ReportArgs) -> Result<ExitCode> {
    let reports = args
        .reports
        .iter()
        .map(|path| Ok((path.clone(), report::json::read(path)?)))
        .collect::<Result<Vec<(PathBuf, Report)>>>()?;
    if let Some(baseline) = &args.against {
        let [(_, current)] = reports.as_slice() else { bail!("--against takes one report to compare") };
        return compare_with(current, &report::json::read(baseline)?, args.json);
    }
    let written = match reports.as_slice() {
        [(path, only)] => {
            let folder = if path.is_dir() { path.clone() } else { parent(path) };
            report::write(args.out.as_deref().unwrap_or(&folder), &Document::new(only.clone()))?
        }
        several => {
            let labelled = several.iter().map(|(path, report)| (path.display().to_string(), report.clone()));
            report::write_side_by_side(
                args.out.as_deref().unwrap_or(Path::new("report")),
                labelled.collect(),
            )?
        }
    };
    if let Some(page) = written.first() {
        println!("{}", page.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| ".".into(), Path::to_path_buf)
}

/// Says what has become worse.
fn compare_with(current: &Report, baseline: &Report, json: bool) -> Result<ExitCode> {
    let Against { regressions, missing } = against(current, baseline);
    if json {
        println!("{}", serde_json::json!({ "regressions": regressions, "missing": missing }));
    } else {
        for regression in &regressions {
            let c = &regression.comparison;
            let interval =
                c.interval.map_or(String::new(), |i| format!(" (95 %: {:.3} to {:.3})", i.low, i.high));
            println!(
                "worse: {} {}, {}, {} CPUs: {} {unit} instead of {} {unit}, {}x{interval}",
                c.workload,
                c.metric,
                c.contender,
                c.cpus,
                number(c.estimate),
                number(regression.was),
                c.ratio.map_or("?".into(), |ratio| format!("{ratio:.3}")),
                unit = c.unit,
            );
        }
        for what in &missing {
            println!("missing: {what}");
        }
        println!("{} metrics are worse, {} are missing", regressions.len(), missing.len());
    }
    Ok(if regressions.is_empty() && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WORSE) })
}

fn number(value: Option<f64>) -> String {
    value.map_or("?".into(), |value| format!("{value:.4}"))
}

/// `scx_bench list`.
pub fn list(json: bool) -> Result<ExitCode> {
    let all = workload::all().iter().map(|workload| (workload.spec(), workload.missing()));
    if json {
        let all: Vec<_> =
            all.map(|(spec, missing)| serde_json::json!({ "workload": spec, "missing": missing })).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (spec, missing) in all {
        println!("{}: {}", spec.name, spec.description);
        for metric in &spec.metrics {
            let better = match metric.better {
                crate::model::Better::Lower => "lower is better",
                crate::model::Better::Higher => "higher is better",
                crate::model::Better::Neither => "neither way is better",
            };
            println!("    {:<20} {:<12} {better}", metric.name, metric.unit);
        }
        if let Some(missing) = missing {
            println!("    missing here: {missing}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn contenders(texts: &[String]) -> Result<Vec<Contender>> {
    let policies = built_in_policies()?;
    let contenders = parse_list(texts)?;
    contenders.iter().try_for_each(|contender| contender.check(&policies))?;
    contenders.into_iter().map(Contender::absolute).collect()
}

/// What a guest needs besides what every guest has.
fn files(matrix: &Matrix) -> Vec<PathBuf> {
    let chosen = |name: &str| matrix.families.iter().flatten().any(|member| member == name);
    let programs = workload::all().iter().filter(|workload| chosen(&workload.spec().name));
    let programs = programs.flat_map(|workload| workload.programs()).filter_map(|name| find_program(name));
    matrix.contenders.iter().flat_map(Contender::files).chain(programs).collect()
}

fn session<'a>(
    kind: Kind,
    common: &'a crate::cli::Common,
    place: &'a Place,
    why: &'a str,
    matrix: &Matrix,
    cells: u64,
) -> Session<'a> {
    Session {
        kind,
        common,
        place,
        why,
        contenders: matrix.contenders.iter().map(|contender| contender.label.clone()).collect(),
        workloads: specs(&matrix.families),
        runs: matrix.runs,
        seconds: matrix.seconds,
        cells,
    }
}
