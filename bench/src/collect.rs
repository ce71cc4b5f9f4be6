// SPDX-License-Identifier: GPL-2.0-only
//! Runs jobs where they are to be run, and collects what they tell.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use crossbeam::channel::{Receiver, Sender, select, unbounded};

use crate::job::{Event, Job};
use crate::place::Place;
use crate::programs::{end_with_us, last_lines};
use crate::progress::Progress;

/// How often a job is begun: an emulated kernel with many CPUs sometimes does not survive its boot.
const MAX_ATTEMPTS: u32 = 3;

/// A job and where it is done.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What to do.
    pub job: Job,
    /// Where.
    pub place: Place,
    /// Name of the contender, if the job does not have it.
    pub contender: Option<String>,
}

/// What came of jobs.
#[derive(Debug)]
pub struct Collected {
    /// What each job told, in the order of the jobs.
    pub events: Vec<Vec<Event>>,
    /// How jobs went wrong that did not get to their end, by number.
    pub broken: Vec<(usize, String)>,
    /// Whether the user stopped it.
    pub interrupted: bool,
}

enum News {
    Told(usize, Box<Event>),
    Ended(usize, Result<(), String>),
}

/// Does jobs, `parallel` at a time. A signal ends those that run and leaves out the rest.
pub fn run(
    jobs: &[Placed],
    parallel: usize,
    signals: &Receiver<()>,
    progress: &mut Progress,
) -> Result<Collected> {
    let (sender, news) = unbounded();
    // Theirs, since they may be ended before they can tidy up.
    let scratch = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let mut collected =
        Collected { events: vec![Vec::new(); jobs.len()], broken: Vec::new(), interrupted: false };
    let mut waiting: VecDeque<usize> = (0..jobs.len()).collect();
    let mut attempts = vec![0; jobs.len()];
    let mut running: Vec<(usize, i32)> = Vec::new();
    loop {
        while running.len() < parallel && !collected.interrupted {
            let Some(next) = waiting.pop_front() else { break };
            running.push((next, start(next, &jobs[next], attempts[next], scratch.path(), &sender)?));
            attempts[next] += 1;
        }
        if running.is_empty() {
            return Ok(collected);
        }
        select! {
            recv(signals) -> _ => {
                // The first asks them to end in order; scripts/vm takes a second one as an order to stop at once.
                collected.interrupted = true;
                progress.note("interrupted: what was measured so far is kept");
                for (_, pid) in &running {
                    interrupt(*pid);
                }
            }
            recv(news) -> news => match news.context("the threads that listen are gone")? {
                News::Told(job, mut event) => {
                    if let Some(label) = &jobs[job].contender {
                        event.set_contender(label);
                    }
                    progress.event(&event);
                    collected.events[job].push(*event);
                }
                News::Ended(job, outcome) => {
                    running.retain(|(number, _)| *number != job);
                    let (Err(message), false) = (outcome, collected.interrupted) else { continue };
                    progress.note(&message);
                    if collected.events[job].is_empty() && attempts[job] < MAX_ATTEMPTS {
                        progress.note("it had not begun to measure; trying once more");
                        waiting.push_front(job);
                    } else {
                        collected.broken.push((job, message));
                    }
                }
            }
        }
    }
}

/// Starts a job and a thread that listens to it. Returns its process id.
fn start(number: usize, placed: &Placed, attempt: u32, scratch: &Path, news: &Sender<News>) -> Result<i32> {
    let mut command = placed.place.command(&placed.job, attempt)?;
    let errors = tempfile::tempfile().context("cannot make a temporary file")?;
    // Its own process group: a Ctrl-C reaches us first, and ends it through us.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    if placed.place == Place::Host {
        command.env("TMPDIR", scratch);
    }
    end_with_us(&mut command, libc::SIGTERM);
    command.stderr(errors.try_clone().context("cannot duplicate a descriptor")?);
    let child = spawn(&mut command)?;
    let pid = i32::try_from(child.id())?;
    let news = news.clone();
    let listen = move || {
        let outcome = listen(number, child, errors, &news).map_err(|error| format!("{error:#}"));
        // Without a receiver nobody wants to know.
        let _ = news.send(News::Ended(number, outcome));
    };
    thread::Builder::new().name("listen".into()).spawn(listen).context("cannot start a thread")?;
    Ok(pid)
}

fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().display().to_string();
    command.spawn().with_context(|| format!("cannot run {program}"))
}

fn listen(number: usize, mut child: Child, errors: File, news: &Sender<News>) -> Result<()> {
    let stdout = child.stdout.take().context("there is no pipe to it")?;
    let mut done = false;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what was measured")?;
        let Ok(event) = serde_json::from_str(&line) else {
            bail!("cannot understand what was measured: {line}")
        };
        done |= event == Event::Done;
        let _ = news.send(News::Told(number, Box::new(event)));
    }
    let status = child.wait().context("cannot wait for the measuring")?;
    if done && status.success() {
        return Ok(());
    }
    bail!("the measuring ended early ({status}); {}", last_words(errors))
}

/// The last lines of what it said on stderr.
fn last_words(mut errors: File) -> String {
    const LINES: usize = 4;
    let mut text = String::new();
    let read = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_string(&mut text));
    let lines = last_lines(&text, LINES);
    match read {
        Ok(_) if !lines.is_empty() => {
            format!("it said: {}", lines.join("\n  "))
        }
        _ => "it said nothing".into(),
    }
}

fn interrupt(pid: i32) {
    // SAFETY: kill takes plain integers. A process that has ended a moment ago is known as running until that is
    // told; its number is not another's so soon.
    unsafe { libc::kill(pid, libc::SIGINT) };
}
