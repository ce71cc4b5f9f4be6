// SPDX-License-Identifier: GPL-2.0-only
//! The socket on which programs ask for themselves (`scx_hint`): a request hints the process that asks, and no other.
//!
//! Beside the control socket. Root can connect to it, and everybody else if scx_run was started so.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crossbeam::channel::{Sender, bounded};
use scx_hint::{Hint, OwnRequest, OwnResponse, PATIENCE};

use super::{Call, Request, Response, write_line};
use crate::hints::{Action, HintRequest, Target, numbers};

/// Longest request.
const REQUEST: usize = 512;
/// Programs that are served at a time; more of them wait.
const AT_A_TIME: usize = 16;
/// How long a program may take to ask, once it has connected.
const ASKING: Duration = Duration::from_millis(100);

/// Makes the socket, for nobody to know of yet.
pub(super) fn bind(path: &Path, user_hints: bool) -> Result<UnixListener> {
    // One of a former process with this id.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("creating {}", path.display()))?;
    let mode = if user_hints { 0o666 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("protecting {}", path.display()))?;
    if user_hints {
        let dir = path.parent().context("a socket is in a directory")?;
        let mode = fs::metadata(dir)?.permissions().mode() | 0o011;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .with_context(|| format!("letting all users into {}", dir.display()))?;
    }
    Ok(listener)
}

/// Serves programs until the process ends.
pub(super) fn accept(listener: &UnixListener, user_hints: bool, calls: &Sender<Call>) {
    let (free, places) = bounded(AT_A_TIME);
    for _ in 0..AT_A_TIME {
        let _ = free.send(());
    }
    for stream in listener.incoming().flatten() {
        let Ok(()) = places.recv() else { return };
        let (calls, freed) = (calls.clone(), free.clone());
        let body = move || {
            // A program that hangs up is its own problem.
            let _ = serve(&stream, user_hints, &calls);
            drop(stream);
            let _ = freed.send(());
        };
        if thread::Builder::new().name("hint-call".into()).spawn(body).is_err() {
            // The program finds itself hung up on.
            let _ = free.send(());
        }
    }
}

fn serve(stream: &UnixStream, user_hints: bool, calls: &Sender<Call>) -> Result<()> {
    stream.set_write_timeout(Some(ASKING))?;
    let line = read_line(stream)?;
    let outcome = hint_peer(stream, user_hints, &line, calls);
    write_line(stream, &outcome.unwrap_or_else(|error| OwnResponse::Error(format!("{error:#}"))))?;
    Ok(())
}

/// A line, or as much of it as a request may be long.
fn read_line(mut stream: &UnixStream) -> Result<Vec<u8>> {
    let deadline = Instant::now() + ASKING;
    let mut line = Vec::new();
    // What is not read would take the answer away with it as the connection is closed.
    let mut some = [0; 8 * REQUEST];
    while !line.ends_with(b"\n") && line.len() < REQUEST {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "it takes too long to ask");
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut some)?;
        ensure!(read > 0, "it has hung up");
        line.extend_from_slice(&some[..read]);
    }
    Ok(line)
}

fn hint_peer(
    stream: &UnixStream,
    user_hints: bool,
    line: &[u8],
    calls: &Sender<Call>,
) -> Result<OwnResponse> {
    let peer = peer(stream)?;
    if peer.uid != 0 && !user_hints {
        bail!("scx_run takes hints of root's programs only; --user-hints lets it take those of all");
    }
    ensure!(line.len() <= REQUEST, "not a request: it is longer than {REQUEST} bytes");
    let request: OwnRequest = serde_json::from_slice(line).context("not a request")?;
    let action = match request.hint {
        Some(text) => Action::Set(text.parse::<Hint>()?),
        None => Action::Clear,
    };
    let target = match request.thread {
        None => Target::Process(peer.pid),
        Some(thread) => Target::Pid(thread_of(peer.pid, thread)?),
    };
    // The process that has connected may be dead, and another have its number.
    if peer.uid != 0 && !is_of(peer.pid, peer.uid) {
        bail!("process {} is not, or not only, of user {}", peer.pid, peer.uid);
    }
    let (reply, answer) = bounded(1);
    calls.send((Request::Hint(HintRequest { target, action }), reply))?;
    match answer.recv_timeout(PATIENCE).context("scx_run is busy, or ending")? {
        Response::Hints(hinted) => Ok(OwnResponse::Threads(hinted.len())),
        Response::Error(why) => Ok(OwnResponse::Error(why)),
        _ => bail!("scx_run answered another question"),
    }
}

/// Who has connected, as this process knows it.
fn peer(stream: &UnixStream) -> Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: `peer` is valid for writes of `len` bytes.
    let outcome = unsafe {
        let option = (&raw mut peer).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, option, &mut len)
    };
    if outcome < 0 {
        return Err(std::io::Error::last_os_error()).context("asking who has connected");
    }
    if peer.pid <= 0 {
        bail!("the process that has connected cannot be seen from here");
    }
    Ok(peer)
}

/// The thread of a process that has this id in the process's own namespace.
fn thread_of(process: i32, thread: i32) -> Result<i32> {
    let found = numbers(&format!("/proc/{process}/task")).into_iter().find(|tid| {
        let ids = status_line(*tid, "NSpid:").unwrap_or_default();
        ids.split_whitespace().next_back() == Some(thread.to_string().as_str())
    });
    found.with_context(|| {
        format!("the process has no thread {thread}; a program can hint its own threads only")
    })
}

/// Whether a process is this user's, and runs with no other rights.
fn is_of(process: i32, user: u32) -> bool {
    let uids = status_line(process, "Uid:").unwrap_or_default();
    let mut uids = uids.split_whitespace().map(str::parse).peekable();
    uids.peek().is_some() && uids.all(|uid| uid == Ok(user))
}

fn status_line(task: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{task}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

/// Where the socket is until it is published.
pub(super) fn unpublished(dir: &Path) -> PathBuf {
    dir.join(format!("hints-{}.sock", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crossbeam::channel::unbounded;

    use super::*;

    #[test]
    fn a_program_hints_itself_and_no_other() {
        let (calls, incoming) = unbounded::<Call>();
        let me = std::process::id() as i32;
        // SAFETY: geteuid and gettid take no arguments.
        let (user, thread) = unsafe { (libc::geteuid(), libc::gettid()) };
        assert!(is_of(me, user) && !is_of(me, user + 1) && !is_of(i32::MAX, user));
        let server = thread::spawn(move || {
            let mut asked = Vec::new();
            for (request, reply) in incoming {
                let Request::Hint(request) = request else { panic!("{request:?}") };
                asked.push(request);
                reply.send(Response::Hints(Vec::new())).unwrap();
            }
            asked
        });
        let ask = |line: &str| {
            let (program, scx_run) = UnixStream::pair().unwrap();
            (&program).write_all(line.as_bytes()).unwrap();
            serve(&scx_run, true, &calls).unwrap();
            drop(scx_run);
            let mut answer = String::new();
            (&program).read_to_string(&mut answer).unwrap();
            answer
        };
        assert_eq!(ask("{\"hint\":\"class=batch\"}\n"), "{\"threads\":0}\n");
        assert_eq!(ask(&format!("{{\"thread\":{thread}}}\n")), "{\"threads\":0}\n");
        for (wrong, says) in [
            ("{\"thread\":1}\n", "a program can hint its own threads only"),
            ("{\"hint\":\"class=rt\"}\n", "use latency, normal or batch"),
            ("{\"pid\":1}\n", "unknown field"),
            ("status\n", "not a request"),
        ] {
            let answer = ask(wrong);
            assert!(answer.contains("error") && answer.contains(says), "{answer}");
        }
        let long = ask(&format!("{{\"hint\":\"{}\"}}\n", "x".repeat(600)));
        assert!(long.contains("not a request"), "{long}");
        drop(calls);
        let hint = "class=batch".parse().unwrap();
        let expected = [
            HintRequest { target: Target::Process(me), action: Action::Set(hint) },
            HintRequest { target: Target::Pid(thread), action: Action::Clear },
        ];
        assert_eq!(server.join().unwrap(), expected);
    }
}
