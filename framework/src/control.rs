// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: one JSON line asks, one JSON line answers.
//!
//! It lies in a directory that only root can enter. Beside it, `run.json` says who is running, so that the next
//! start can tell what became of the last one.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::hints::{HintRequest, Hinted};
use crate::report::{Status, SwapReport};
use crate::swap::Via;

/// A swap as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapRequest {
    /// Name of a built-in policy or absolute path of an object.
    pub policy: String,
    /// `name=value` each.
    pub params: Vec<String>,
    /// How.
    pub via: Via,
    /// How long the old policy stays loaded, ms.
    pub hold_ms: u64,
    /// Length of the measuring windows, ms.
    pub window_ms: u64,
    /// Scheduling delay beyond which the old policy comes back, ms.
    pub max_delay_ms: Option<u64>,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// How things stand.
    Status,
    /// Swap the policy.
    Swap(SwapRequest),
    /// Give, take away or list hints.
    Hint(HintRequest),
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Swap`, when it is complete.
    Swapped(Box<SwapReport>),
    /// To `Hint`: the threads that have a hint, or had the one that is gone.
    Hints(Vec<Hinted>),
    /// It did not work: one line that says why.
    Error(String),
}

/// A request and where its answer goes.
pub type Call = (Request, Sender<Response>);

/// Who runs, as `run.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// Process id.
    pub pid: u32,
    /// Policy it was started with.
    pub policy: String,
}

/// The directory of the socket: `/run/scx_run`, or `$SCX_RUN_DIR`.
pub fn dir() -> PathBuf {
    std::env::var_os("SCX_RUN_DIR").map_or_else(|| "/run/scx_run".into(), PathBuf::from)
}

/// The socket and its threads; dropping it removes the files.
pub struct Server {
    dir: PathBuf,
}

impl Server {
    /// Starts to listen. Calls go to `calls`. Also returns what a former scx_run left behind, if it did not end
    /// in order.
    pub fn start(dir: &Path, policy: &str, calls: Sender<Call>) -> Result<(Self, Option<RunFile>)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating {}", dir.display()))?;
        let socket = dir.join("control.sock");
        if UnixStream::connect(&socket).is_ok() {
            bail!(
                "another scx_run is running (socket {}); use `scx_run swap` to change its policy",
                socket.display()
            );
        }
        let left_behind = read_run_file(dir);
        // A socket that refuses connections is what a killed scx_run leaves.
        let _ = fs::remove_file(&socket);
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("creating {}", socket.display()))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protecting {}", socket.display()))?;
        let run = RunFile { pid: std::process::id(), policy: policy.into() };
        fs::write(dir.join("run.json"), serde_json::to_vec(&run)?).context("writing run.json")?;
        thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &calls))?;
        Ok((Server { dir: dir.into() }, left_behind))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for name in ["control.sock", "run.json"] {
            // Nothing can be done about a file that cannot be removed while ending.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

/// What the last scx_run wrote about itself, if it is still there.
pub fn read_run_file(dir: &Path) -> Option<RunFile> {
    serde_json::from_slice(&fs::read(dir.join("run.json")).ok()?).ok()
}

fn accept(listener: &UnixListener, calls: &Sender<Call>) {
    for stream in listener.incoming().flatten() {
        let calls = calls.clone();
        // A client that hangs up or talks nonsense is its own problem.
        let _ = thread::Builder::new().name("control-call".into()).spawn(move || serve(&stream, &calls));
    }
}

fn serve(stream: &UnixStream, calls: &Sender<Call>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answer) = bounded(1);
            calls.send((request, reply))?;
            answer.recv().unwrap_or_else(|_| Response::Error("scx_run is ending".into()))
        }
        Err(error) => Response::Error(format!("not a request: {error}")),
    };
    write_line(stream, &response)
}

fn write_line(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Asks the running scx_run. `None` if there is none.
pub fn call(dir: &Path, request: &Request) -> Result<Option<Response>> {
    let socket = dir.join("control.sock");
    let stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("{} is open to root only; run it with sudo", socket.display())
        }
        Err(_) => return Ok(None),
    };
    write_line(&stream, request).context("asking the running scx_run")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("reading its answer")?;
    if line.is_empty() {
        bail!("the running scx_run ended before it answered");
    }
    Ok(Some(serde_json::from_str(&line).context("its answer makes no sense: is it of another version?")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::unbounded;

    #[test]
    fn a_call_is_answered_and_the_files_go_away() {
        let dir = std::env::temp_dir().join(format!("scx_run-control-{}", std::process::id()));
        let (calls, incoming) = unbounded::<Call>();
        let (server, left) = Server::start(&dir, "fifo", calls.clone()).unwrap();
        assert_eq!(left, None);
        thread::spawn(move || {
            for (request, reply) in incoming {
                let Request::Status = request else { panic!("{request:?}") };
                reply.send(Response::Error("no".into())).unwrap();
            }
        });
        let Some(Response::Error(message)) = call(&dir, &Request::Status).unwrap() else { panic!() };
        assert_eq!(message, "no");
        assert!(Server::start(&dir, "vtime", calls).is_err(), "one at a time");
        assert_eq!(read_run_file(&dir).unwrap().policy, "fifo");
        drop(server);
        assert!(call(&dir, &Request::Status).unwrap().is_none());
        assert_eq!(read_run_file(&dir), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
