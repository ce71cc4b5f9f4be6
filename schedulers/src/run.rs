// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run --policy`: attach, stay in the foreground, report.

use std::fmt::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender, after, bounded, never, select, tick, unbounded};
use framework::control::{self, Call, Request, Response, Server, SwapRequest};
use framework::engine::{Config, Engine, Event};
use framework::exit::ExitInfo;
use framework::hints::{HintRequest, Hints};
use framework::kernel::KernelState;
use framework::policy::ConfigFile;
use framework::report::SwapReport;
use framework::root::{all_ops, ops_for};
use framework::signals;
use framework::swap::Via;

use crate::CATALOGUE;
use crate::cli::{RunArgs, absolute, millis};
use crate::output::Output;
use crate::render;
use crate::upgrade::{self, Upgrade};

/// Exit code when the kernel ended the policy.
const ENDED_BY_KERNEL: u8 = 3;
/// How often to look whether it did.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// How long a command gets to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// Longest watchdog timeout the kernel takes.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a policy until it is told to end.
pub fn run(args: RunArgs) -> Result<ExitCode> {
    let signals = signals::listen()?;
    let (call_sender, calls) = unbounded();
    let (out, mut engine, server) =
        if args.take_over { take_over(&args, call_sender)? } else { start(&args, call_sender)? };
    let command = args.command.split_first().map(|(program, rest)| Load::start(program, rest)).transpose()?;
    let mut session = Session {
        args: &args,
        out: &out,
        engine: &mut engine,
        command,
        upgrade: None,
        start: Instant::now(),
        scripted: scripted(&args),
        outcome: Outcome::Done,
    };
    session.serve(&signals, &calls)?;
    let outcome = session.outcome;
    // Whoever is still waiting for an answer is told that it ends.
    drop(calls);
    let ended = if matches!(outcome, Outcome::HandedOver) {
        server.leave();
        None
    } else {
        let ended = end(&mut engine, outcome, &out)?;
        drop(server);
        ended
    };
    // The kernel may have been first without anybody having looked.
    let ended_unseen = ended.filter(|ended| ended.is_error() && !matches!(outcome, Outcome::EndedByKernel));
    if let Some(ended) = &ended_unseen {
        tell_dump(&args, ended, &out);
    }
    out.finish(report(&engine, args.json), &signals);
    if let Some(ended) = ended_unseen {
        bail!(ended.explain(&engine.policy().name));
    }
    Ok(match outcome {
        Outcome::Done | Outcome::HandedOver => ExitCode::SUCCESS,
        Outcome::Command(status) => exit_code(status),
        Outcome::EndedByKernel => ExitCode::from(ENDED_BY_KERNEL),
    })
}

/// Detaches the scheduler, unless it is to stay. Returns why it ended, as the kernel saw it.
fn end(engine: &mut Engine, outcome: Outcome, out: &Output) -> Result<Option<ExitInfo>> {
    if !engine.is_kept() || matches!(outcome, Outcome::EndedByKernel) {
        return engine.stop().map(Some);
    }
    engine.leave()?;
    out.note(&format!("policy {} stays in force; {}", engine.policy().name, render::ADOPT));
    Ok(None)
}

/// The kernel's debug dump, if it was asked for.
fn tell_dump(args: &RunArgs, info: &ExitInfo, out: &Output) {
    if args.dump {
        out.note(&format!("the kernel's debug dump:\n{}", info.dump.trim_end()));
    } else if !info.dump.is_empty() {
        out.note("run it with --dump for the kernel's debug dump");
    }
}

/// Attaches a scheduler.
fn start(args: &RunArgs, calls: Sender<Call>) -> Result<(Output, Engine, Server)> {
    let policy = absolute(args.policy.as_deref().context("--policy is missing")?)?;
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?;
    let before = KernelState::read();
    let remains = upgrade::look_for_kept()?;
    let prepared = Engine::prepare(config(args)?, &policy, &args.params, file)?;
    let (server, left_behind) = Server::start(&control::dir(), prepared.policy(), args.user_hints, calls)?;
    let out = Output::start(args.json)?;
    if let Some(kept) = remains {
        out.note(&format!("removed what was left of a scheduler that was kept ({})", kept.policies()));
    } else if let Some(left) = left_behind {
        out.note(&format!("found what a former scx_run left: {}", render::killed(&left)));
    }
    let engine = prepared.attach()?;
    let kernel = KernelState::read();
    out.note(&format!(
        "policy {} is in force: sched_ext {} -> {}, root {}",
        render::policy(engine.policy()),
        before.state,
        kernel.state,
        kernel.ops.as_deref().unwrap_or("unknown")
    ));
    Ok((out, engine, server))
}

/// Takes over a scheduler that is attached.
fn take_over(args: &RunArgs, calls: Sender<Call>) -> Result<(Output, Engine, Server)> {
    let (engine, server, report) = upgrade::take_over(config(args)?, args.window, calls)?;
    let out = Output::start(args.json)?;
    out.note(&format!("policy {} is in force, taken over", render::policy(engine.policy())));
    out.upgraded(&report);
    Ok((out, engine, server))
}

/// The swaps that were asked for, the next one last.
fn scripted(args: &RunArgs) -> Vec<(String, Duration)> {
    let mut scripted = args.swap_to.clone();
    scripted.sort_by_key(|(_, at)| *at);
    scripted.reverse();
    scripted
}

fn config(args: &RunArgs) -> Result<Config> {
    let timeout = args.timeout.unwrap_or_default();
    if timeout > MAX_TIMEOUT {
        bail!("--timeout is at most 30s: the kernel takes no longer one");
    }
    let extra_ops = if args.ops == ["all"] { all_ops() } else { ops_for(&args.ops)? };
    Ok(Config {
        catalogue: CATALOGUE,
        direct: args.direct,
        partial: args.partial,
        timeout_ms: u32::try_from(timeout.as_millis())?,
        extra_ops,
        measure: !args.no_latency,
        per: args.per.map(Into::into),
        keep: args.keep,
        user_hints: args.user_hints,
    })
}

/// How the session ended.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    Command(ExitStatus),
    EndedByKernel,
    /// Another process has the scheduler now.
    HandedOver,
}

struct Session<'a> {
    args: &'a RunArgs,
    out: &'a Output,
    engine: &'a mut Engine,
    command: Option<Load>,
    upgrade: Option<Upgrade>,
    start: Instant,
    /// Swaps that are still to be done, the next one last.
    scripted: Vec<(String, Duration)>,
    outcome: Outcome,
}

impl Session<'_> {
    /// The loop: everything that can happen while a policy runs.
    fn serve(&mut self, signals: &Receiver<()>, calls: &Receiver<Call>) -> Result<()> {
        let end = self.args.duration.map_or_else(never, after);
        let stats = if self.args.stats.is_zero() { never() } else { tick(self.args.stats) };
        let watch = tick(WATCH_PERIOD);
        let finished = self.command.as_ref().map_or_else(never, |load| load.finished.clone());

        loop {
            let due = self.engine.poll()?;
            self.tell_events();
            let next_swap = self.scripted.last().map(|(_, at)| at.saturating_sub(self.start.elapsed()));
            let upgrade_failed = self.upgrade.as_ref().map_or_else(never, |upgrade| upgrade.failed.clone());
            let wake = [due, next_swap].into_iter().flatten().min().map_or_else(never, after);
            select! {
                recv(signals) -> _ => {
                    self.stop_command();
                    return Ok(());
                }
                recv(end) -> _ => {
                    self.stop_command();
                    return Ok(());
                }
                recv(finished) -> status => {
                    self.command = None;
                    self.outcome = Outcome::Command(status.context("the command's end was not seen")??);
                    return Ok(());
                }
                recv(calls) -> call => {
                    if let Ok((request, reply)) = call && self.called(request, reply, calls)? {
                        return Ok(());
                    }
                }
                recv(upgrade_failed) -> why => {
                    self.withdraw(why.unwrap_or_else(|_| "it could not be started".into()))?;
                }
                recv(stats) -> _ => {
                    let sample = self.engine.tick()?;
                    if !self.args.no_latency {
                        self.out.interval(&self.engine.policy().name, &sample);
                    }
                }
                recv(watch) -> _ => {
                    if let Some(info) = self.engine.ended()? && !self.recover(&info)? {
                        self.stop_command();
                        return Ok(());
                    }
                }
                recv(wake) -> _ => {
                    if self.scripted.last().is_some_and(|(_, at)| *at <= self.start.elapsed())
                        && let Some((policy, _)) = self.scripted.pop()
                    {
                        self.scripted_swap(&policy)?;
                    }
                }
            }
        }
    }

    /// Does what is asked on the control socket. Returns whether the session ends with it.
    fn called(&mut self, request: Request, reply: Sender<Response>, calls: &Receiver<Call>) -> Result<bool> {
        match request {
            Request::Release => return self.let_go(&reply, calls),
            Request::Stop => {
                self.stop_command();
                self.engine.do_not_keep();
                // Whoever asked may be gone.
                let _ = reply.send(Response::Done);
                return Ok(true);
            }
            request => self.answer(request, reply),
        }
        Ok(false)
    }

    fn scripted_swap(&mut self, policy: &str) -> Result<()> {
        let request = SwapRequest {
            policy: absolute(policy)?,
            params: Vec::new(),
            config: None,
            via: if self.args.direct { Via::Reload } else { Via::Slots },
            hold_ms: millis(self.args.hold),
            window_ms: millis(self.args.window),
            max_delay_ms: None,
        };
        // The running policy goes on, and so does the run: what was asked for next may still work.
        if let Err(error) = self.engine.swap(&request, None) {
            self.out.note(&format!("no swap to {policy}: {error:#}"));
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, reply: Sender<Response>) {
        let outcome = match request {
            Request::Upgrade(binary) => match self.begin_upgrade(&binary, reply.clone()) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Offer => self.check_can_hand_over().and_then(|()| self.engine.offer()).map(|()| {
                let _ = reply.send(Response::Done);
            }),
            Request::Withdraw(why) => self.withdraw(why).map(|()| {
                let _ = reply.send(Response::Done);
            }),
            Request::Release | Request::Taken(_) | Request::Stop => Err(anyhow!("not now")),
            Request::Status => {
                // Whoever asked may be gone.
                let _ = reply.send(Response::Status(Box::new(self.engine.status())));
                return;
            }
            Request::Swap(request) => {
                let (done, report) = bounded(1);
                let outcome = self.engine.swap(&request, Some(done));
                if outcome.is_ok() {
                    thread::spawn(move || forward(&report, &reply));
                    return;
                }
                outcome
            }
            Request::Hint(request) => match self.engine.hints() {
                Ok(hints) => {
                    // It may have to look at every thread of the machine.
                    thread::spawn(move || reply.send(hint(&hints, &request)));
                    return;
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            let _ = reply.send(Response::Error(format!("{error:#}")));
        }
    }

    fn begin_upgrade(&mut self, binary: &Path, reply: Sender<Response>) -> Result<()> {
        if self.upgrade.is_some() {
            bail!("an upgrade is under way already");
        }
        self.check_can_hand_over()?;
        let arguments = upgrade::arguments(self.args, self.start.elapsed(), &self.scripted)?;
        self.upgrade = Some(Upgrade::start(binary, arguments, reply)?);
        Ok(())
    }

    fn check_can_hand_over(&self) -> Result<()> {
        if self.command.is_some() {
            bail!("this scx_run runs a command and ends with it, so it cannot hand over; wait for its end");
        }
        self.engine.check_can_hand_over()
    }

    /// Nobody takes over after all.
    fn withdraw(&mut self, why: String) -> Result<()> {
        self.engine.withdraw()?;
        let text = format!("no upgrade: {why}; the running scx_run goes on");
        self.out.note(&text);
        if let Some(upgrade) = self.upgrade.take() {
            // Whoever asked may be gone.
            let _ = upgrade.reply.send(Response::Error(text));
        }
        Ok(())
    }

    /// Lets go of the scheduler for the process that asks. Returns whether it has.
    fn let_go(&mut self, reply: &Sender<Response>, calls: &Receiver<Call>) -> Result<bool> {
        let response = match self.engine.let_go() {
            Ok(let_go) => Response::Released(let_go),
            Err(error) => {
                let _ = reply.send(Response::Error(format!("{error:#}")));
                return Ok(false);
            }
        };
        let _ = reply.send(response);
        let report = upgrade::wait_taken(calls);
        if let Some(upgrade) = self.upgrade.take() {
            let response = report.as_ref().map_or_else(
                |error| Response::Error(format!("{error:#}")),
                |report| Response::Upgraded(report.clone()),
            );
            let _ = upgrade.reply.send(response);
        }
        let report = report?;
        self.out.note(&format!("handed over to pid {}", report.to_pid));
        self.outcome = Outcome::HandedOver;
        Ok(true)
    }

    fn tell_events(&mut self) {
        for event in self.engine.events() {
            match event {
                Event::Swapped(report) => self.out.swapped(&report),
                Event::Note(text) => self.out.note(&text),
                Event::GoingBack(reason) => self.out.note(&format!("going back: {reason}")),
            }
        }
    }

    /// The kernel has ended the scheduler: say why, and go on with the fallback if there is one.
    fn recover(&mut self, info: &ExitInfo) -> Result<bool> {
        let policy = self.engine.policy().name.clone();
        if info.wants_restart() {
            self.out.note(&format!("{}; attaching again", info.explain(&policy)));
            self.engine.recover(None)?;
            return Ok(true);
        }
        self.out.note(&info.explain(&policy));
        tell_dump(self.args, info, self.out);
        self.outcome = if info.is_error() { Outcome::EndedByKernel } else { Outcome::Done };
        let Some(fallback) = self.args.fallback.as_deref().filter(|_| info.is_error()) else {
            return Ok(false);
        };
        self.engine.recover(Some(fallback)).with_context(|| format!("falling back to {fallback}"))?;
        self.out.note(&format!("fell back to policy {}", render::policy(self.engine.policy())));
        Ok(true)
    }

    fn stop_command(&mut self) {
        if let Some(load) = self.command.take() {
            load.stop();
        }
    }
}

fn hint(hints: &Hints, request: &HintRequest) -> Response {
    match hints.serve(request) {
        Ok(hinted) => Response::Hints(hinted),
        Err(error) => Response::Error(format!("{error:#}")),
    }
}

fn forward(report: &Receiver<Result<SwapReport, String>>, reply: &Sender<Response>) {
    let response = match report.recv() {
        Ok(Ok(report)) => Response::Swapped(Box::new(report)),
        Ok(Err(message)) => Response::Error(message),
        Err(_) => Response::Error("scx_run ended during the swap".into()),
    };
    // Whoever asked may be gone.
    let _ = reply.send(response);
}

/// The command that runs under the policy.
struct Load {
    pid: i32,
    finished: Receiver<std::io::Result<ExitStatus>>,
}

impl Load {
    fn start(program: &str, args: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        // Its own process group: a Ctrl-C reaches us first, and ends it through us.
        command.args(args).process_group(0);
        let mut child: Child = command.spawn().map_err(|error| anyhow!("cannot run {program}: {error}"))?;
        let pid = i32::try_from(child.id())?;
        let (sender, finished) = bounded(1);
        thread::spawn(move || sender.send(child.wait()));
        Ok(Load { pid, finished })
    }

    fn stop(self) {
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            // SAFETY: kill takes plain integers. The group is the command's own; its leader has not been waited
            // for as long as `finished` is silent, so the number is not another's.
            unsafe { libc::kill(-self.pid, signal) };
            if self.finished.recv_timeout(TERM_GRACE).is_ok() {
                return;
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// The final report: latency under each policy, in the order in which they ran.
fn report(engine: &Engine, json: bool) -> String {
    if json {
        let runs: Vec<_> = engine
            .runs()
            .iter()
            .map(|run| serde_json::json!({ "policy": run.policy, "latency": run.sample }))
            .collect();
        return format!(
            "{}\n",
            serde_json::json!({ "report": { "runs": runs, "swaps": engine.nr_swaps() } })
        );
    }
    let mut text = String::new();
    for run in engine.runs().iter().filter(|run| run.sample.duration_ns > 0) {
        let _ = writeln!(text, "\nlatency under {}\n{}", render::policy(&run.policy), run.sample);
    }
    text
}
