// SPDX-License-Identifier: GPL-2.0-only
//! Handing over to another process (`scx_run upgrade`), and taking over from one or from none (`--take-over`).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;
use crossbeam::channel::{Receiver, Sender, bounded};
use framework::control::{self, Call, Conversation, Ended, Request, Response, Server, Unpublished};
use framework::engine::{Config, Engine, LetGo};
use framework::pins::{self, Kept};
use framework::report::UpgradeReport;

use crate::cli::{RunArgs, absolute};
use crate::render;

/// How long the new process may take to load everything. Verifying takes seconds on a loaded machine.
const LOAD_PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take, once we have let go, to say that it is in charge.
const TAKE_PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it has ended.
const CHILD_PERIOD: Duration = Duration::from_millis(20);

/// An upgrade that somebody has asked for.
pub struct Upgrade {
    /// Where the outcome goes.
    pub reply: Sender<Response>,
    /// Says why if the new process ends before it has taken over.
    pub failed: Receiver<String>,
}

impl Upgrade {
    /// Starts the new process, which then asks for the scheduler.
    pub fn start(binary: &Path, arguments: Vec<String>, reply: Sender<Response>) -> Result<Self> {
        let (failure, failed) = bounded(1);
        let binary = binary.to_owned();
        thread::Builder::new()
            .name("upgrade".into())
            .spawn(move || {
                let why = run(&binary, &arguments).unwrap_or_else(|error| format!("{error:#}"));
                // Nobody listens if it went well, or if the new process has said itself why it did not.
                let _ = failure.send(why);
            })
            .context("starting a thread")?;
        Ok(Upgrade { reply, failed })
    }
}

/// Fails if this is no program that could take over.
pub fn check_binary(binary: &Path) -> Result<()> {
    let cannot = format!("cannot run {}; --binary takes the path of a scx_run", binary.display());
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output().context(cannot)?;
    if !output.stdout.starts_with(b"scx_run ") {
        bail!(
            "{} is no scx_run (its --version does not say so); --binary takes the path of one",
            binary.display()
        );
    }
    Ok(())
}

/// Runs the new process. Returns how it ended, which it should not do while this process lives.
fn run(binary: &Path, arguments: &[String]) -> Result<String> {
    let shown = binary.display();
    let mut child: Child = Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(format!("{shown} ended ({status}) before it had taken over"));
        }
        if start.elapsed() > LOAD_PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("{shown} has not taken over within {} s", LOAD_PATIENCE.as_secs());
        }
        thread::sleep(CHILD_PERIOD);
    }
}

/// Arguments that make another scx_run go on as this one does, after the time it has run.
pub fn arguments(args: &RunArgs, ran: Duration, scripted: &[(String, Duration)]) -> Result<Vec<String>> {
    let time = |duration: Duration| format!("{}ns", duration.as_nanos());
    let mut all = vec!["--take-over".to_owned()];
    let mut option = |name: &str, value: String| all.extend([name.to_owned(), value]);
    option("--stats", time(args.stats));
    option("--hold", time(args.hold));
    option("--window", time(args.window));
    if let Some(duration) = args.duration {
        option("--duration", time(duration.saturating_sub(ran)));
    }
    for (policy, at) in scripted {
        option("--swap-to", format!("{}@{}", absolute(policy)?, time(at.saturating_sub(ran))));
    }
    if let Some(fallback) = &args.fallback {
        option("--fallback", absolute(fallback)?);
    }
    if let Some(per) = args.per.and_then(|per| per.to_possible_value()) {
        option("--per", per.get_name().to_owned());
    }
    let flags = [
        (args.json, "--json"),
        (args.no_latency, "--no-latency"),
        (args.dump, "--dump"),
        (args.verbose, "--verbose"),
        (args.keep, "--keep"),
        (args.user_hints, "--user-hints"),
    ];
    all.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    Ok(all)
}

/// Waits until the new process says that it has taken over.
pub fn wait_taken(calls: &Receiver<Call>) -> Result<Box<UpgradeReport>> {
    let deadline = Instant::now() + TAKE_PATIENCE;
    while let Ok((request, reply)) = calls.recv_deadline(deadline) {
        // Whoever asks may be gone.
        match request {
            Request::Taken(report) => {
                let _ = reply.send(Response::Done);
                return Ok(report);
            }
            Request::Withdraw(why) => bail!("{why}; the scheduler stays attached: {}", render::ADOPT),
            _ => {
                let _ = reply.send(Response::Error("scx_run is handing over; try again".into()));
            }
        }
    }
    bail!("the new scx_run does not say whether it has taken over; ask it with: scx_run status")
}

/// Looks for a scheduler that was kept: whoever wants to attach another one has to know. Returns the remains of one
/// that has ended, which it removes.
pub fn look_for_kept() -> Result<Option<Kept>> {
    if Conversation::open(&control::dir())?.is_some() {
        // The one who runs it will be named.
        return Ok(None);
    }
    let remains = pins::remove_remains()?;
    if let Some(kept) = pins::kept()? {
        bail!(
            "a scheduler is attached that was kept (policy {}, by pid {}), and no scx_run decides; {}",
            kept.policies(),
            kept.pid,
            render::ADOPT
        );
    }
    Ok(remains)
}

/// Takes over the scheduler of the running scx_run, or one that was kept.
pub fn take_over(
    config: Config,
    window: Duration,
    calls: Sender<Call>,
) -> Result<(Engine, Server, Box<UpgradeReport>)> {
    let Some(mut old) = offer()? else {
        return load_and_take(config, window, calls, || Ok(None));
    };
    let outcome = load_and_take(config, window, calls, || match ask(&mut old, &Request::Release)? {
        Response::Released(let_go) => Ok(Some(let_go)),
        _ => bail!("the running scx_run answered another question"),
    });
    // It goes on, or ends: there is nothing to be done if it is gone already.
    let _ = match &outcome {
        Ok((_, _, report)) => old.ask(&Request::Taken(report.clone())),
        Err(error) => old.ask(&Request::Withdraw(format!("{error:#}"))),
    };
    outcome
}

/// Has the running scx_run get ready to hand over. `None` if there is none: who is about to end does not count.
fn offer() -> Result<Option<Conversation>> {
    let Some(mut running) = Conversation::open(&control::dir())? else { return Ok(None) };
    match ask(&mut running, &Request::Offer) {
        Ok(_) => Ok(Some(running)),
        Err(error) if error.is::<Ended>() => Ok(None),
        Err(error) => Err(error),
    }
}

fn load_and_take(
    config: Config,
    window: Duration,
    calls: Sender<Call>,
    let_go: impl FnOnce() -> Result<Option<LetGo>>,
) -> Result<(Engine, Server, Box<UpgradeReport>)> {
    let user_hints = config.user_hints;
    let adopted = Engine::adopt(config)?;
    let socket = Unpublished::new(&control::dir(), user_hints)?;
    let mut server = Err(anyhow::anyhow!("not in charge"));
    let (engine, report) =
        adopted.take_over(window, let_go, |policy| server = socket.publish(policy, calls))?;
    Ok((engine, server?, Box::new(report)))
}

fn ask(running: &mut Conversation, request: &Request) -> Result<Response> {
    match running.ask(request)? {
        Response::Error(message) => bail!(message),
        response => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_new_process_is_started_like_the_old_one() {
        let old = Cli::try_parse_from([
            "scx_run",
            "--policy",
            "fifo",
            "--param",
            "slice_us=5000",
            "--duration",
            "30s",
            "--json",
            "--keep",
            "--user-hints",
            "--per",
            "comm",
            "--fallback",
            "vtime",
            "--stats",
            "0",
            "--swap-to",
            "vtime@20s",
        ])
        .unwrap();
        let scripted = [("vtime".to_owned(), Duration::from_secs(20))];
        let arguments = arguments(&old.run, Duration::from_secs(10), &scripted).unwrap();
        let new = Cli::try_parse_from(["scx_run".to_owned()].into_iter().chain(arguments)).unwrap().run;
        assert!(
            new.take_over
                && new.json
                && new.keep
                && new.user_hints
                && !new.no_latency
                && new.policy.is_none()
        );
        assert_eq!(new.duration, Some(Duration::from_secs(20)));
        assert_eq!(new.swap_to, [("vtime".to_owned(), Duration::from_secs(10))]);
        assert_eq!((new.fallback.as_deref(), new.stats), (Some("vtime"), Duration::ZERO));
        assert!(matches!(new.per, Some(crate::cli::PerArg::Comm)));
    }
}
