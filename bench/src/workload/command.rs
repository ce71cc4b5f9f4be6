// SPDX-License-Identifier: GPL-2.0-only
//! Runs programs outside: in a process group of their own, with a time limit, and nothing left over.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Context, find_program};
use crate::programs::{end_with_us, last_lines};

/// What a program may take longer than its nominal time, under a contender that does badly.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a failed program's output that go into the error message.
const LAST_LINES: usize = 5;

/// What a program wrote.
#[derive(Debug)]
pub struct Output {
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Runs `program` in the scratch folder. It is killed if it takes a minute longer than `nominal`.
///
/// Fails if it cannot be started, does not end in time, or does not exit with 0.
pub fn run(context: &Context<'_>, nominal: Duration, program: &str, args: &[String]) -> Result<Output> {
    let (out, err) = (context.scratch.join("stdout"), context.scratch.join("stderr"));
    let status = run_into(&context.scratch, &out, &err, nominal + PATIENCE, program, args)?;
    let output = Output { stdout: read(&out)?, stderr: read(&err)? };
    if !status.success() {
        bail!("{program} failed ({status}): {}", last_words(&output));
    }
    Ok(output)
}

/// Runs `program` again and again until `seconds` are over, at least once, and returns the mean of what
/// `parse` finds in each output.
pub fn repeat(
    context: &Context<'_>,
    program: &str,
    args: &[String],
    parse: impl Fn(&Output) -> Result<f64>,
) -> Result<f64> {
    let (begun, mut sum, mut runs) = (Instant::now(), 0.0, 0u32);
    while runs == 0 || begun.elapsed() < context.seconds {
        sum += parse(&run(context, Duration::ZERO, program, args)?)?;
        runs += 1;
    }
    Ok(sum / f64::from(runs))
}

/// What [`missing`](super::Workload::missing) says about a program in a Debian package.
pub fn missing(program: &str, package: &str) -> Option<String> {
    if find_program(program).is_some() {
        return None;
    }
    Some(format!("{program} is not in PATH; install it (Debian: apt install {package})"))
}

/// Arguments out of words.
pub fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

// Output goes to files: whatever its amount, the program never waits for us to read.
fn run_into(
    folder: &Path,
    out: &Path,
    err: &Path,
    limit: Duration,
    program: &str,
    args: &[String],
) -> Result<ExitStatus> {
    let create = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(create(out)?).stderr(create(err)?);
    Group::start(&mut command)
        .with_context(|| format!("cannot start {program}"))?
        .wait(limit)
        .with_context(|| format!("waiting for {program}"))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_words(output: &Output) -> String {
    let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    last_lines(text, LAST_LINES).into_iter().map(str::trim_start).collect::<Vec<_>>().join(" | ")
}

/// Leaders of the groups that run. Locked while one is started, and for ever by [`end_all`].
static LEADERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn leaders() -> MutexGuard<'static, BTreeSet<u32>> {
    LEADERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill_group(leader: u32) {
    // SAFETY: kill takes plain integers; the group is ours as long as its leader has not been waited for.
    unsafe { libc::kill(-leader.cast_signed(), libc::SIGKILL) };
}

/// Ends this process, and all programs with what they have started: the death signal reaches their leaders only, and
/// hackbench's children, which wait for each other, would stay.
pub fn end_all(status: i32) -> ! {
    let leaders = leaders();
    leaders.iter().copied().for_each(kill_group);
    std::process::exit(status)
}

/// A program and what it starts, killed when this is dropped.
pub struct Group(Child);

impl Group {
    /// Starts a program as the leader of a process group. It dies with the thread that started it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0);
        end_with_us(command, libc::SIGKILL);
        let mut leaders = leaders();
        let group = command.spawn().map(Self)?;
        leaders.insert(group.id());
        Ok(group)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the leader has ended; what it left behind is killed.
    fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        if !ends_within(self.id(), limit)? {
            bail!("it was killed, for it had not ended after {} s", limit.as_secs());
        }
        Ok(self.end()?)
    }

    /// Kills all of it, without waiting for its end.
    pub fn kill(&self) {
        if leaders().contains(&self.id()) {
            kill_group(self.id());
        }
    }

    /// Kills what is there and waits for the leader, whose number may be somebody else's after that.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        leaders().remove(&self.id());
        self.0.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It has been sent a signal that cannot be caught; an error means that it is gone already.
        let _ = self.end();
    }
}

/// Waits for a child to end, without waiting for it as a parent does.
fn ends_within(pid: u32, limit: Duration) -> io::Result<bool> {
    // SAFETY: plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis().try_into().unwrap_or(i32::MAX)) };
        match ready {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<(ExitStatus, Output)> {
        let dir = tempfile::tempdir()?;
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        let status = run_into(dir.path(), &out, &err, limit, "sh", &args(&["-c", script]))?;
        Ok((status, Output { stdout: read(&out)?, stderr: read(&err)? }))
    }

    #[test]
    fn output_and_status() {
        let (status, output) = sh("echo one; echo two >&2; exit 3", PATIENCE).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn an_overrun_is_killed() {
        let error = sh("sleep 30 & sleep 30", Duration::from_millis(100)).unwrap_err();
        assert!(format!("{error:#}").contains("killed"), "{error:#}");
    }

    #[test]
    fn nothing_is_left_behind() {
        let (_, output) = sh("sleep 30 & echo $!", PATIENCE).unwrap();
        let left = format!("/proc/{}/stat", output.stdout.trim());
        for _ in 0..100 {
            match fs::read_to_string(&left) {
                Ok(stat) if !stat.contains(") Z ") => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        panic!("the background process goes on");
    }

    #[test]
    fn a_program_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            run_into(dir.path(), &dir.path().join("o"), &dir.path().join("e"), PATIENCE, "no-such", &[]);
        assert!(format!("{:#}", error.unwrap_err()).contains("cannot start no-such"));
    }

    #[test]
    fn the_last_lines_of_a_failure() {
        let output = Output { stdout: "a\n".into(), stderr: "1\n2\n\n3\n4\n5\n6\n".into() };
        assert_eq!(last_words(&output), "2 | 3 | 4 | 5 | 6");
        assert_eq!(last_words(&Output { stderr: " \n".into(), ..output }), "a");
    }
}
