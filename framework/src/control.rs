// SPDX-License-Identifier: GPL-2.0-only
//! The control socket: one JSON line asks, one JSON line answers; as many pairs as the client likes.
//!
//! Only root can open it. Beside it, `run.json` says who is running, so that the next start can tell what became of the
//! last one, and a second socket is for programs that hint themselves.

mod own;

use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::engine::LetGo;
use crate::hints::{HintRequest, Hinted};
use crate::policy::ConfigFile;
use crate::report::{Status, SwapReport, UpgradeReport};
use crate::swap::Via;

/// A swap as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapRequest {
    /// Name of a built-in policy or absolute path of an object.
    pub policy: String,
    /// `name=value` each.
    pub params: Vec<String>,
    /// Its configuration file.
    #[serde(default)]
    pub config: Option<ConfigFile>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// How things stand.
    Status,
    /// Swap the policy.
    Swap(SwapRequest),
    /// Give, take away or list hints.
    Hint(HintRequest),
    /// Hand over to another process, which runs this program.
    Upgrade(PathBuf),
    /// End and detach, also if the scheduler was to be kept.
    Stop,
    /// From a process that wants to take over: make it possible.
    Offer,
    /// From the same, when it is ready: let go.
    Release,
    /// From the same: it does not take over, and why. Also what the server makes of a hang-up.
    Withdraw(String),
    /// From the same: it has taken over.
    Taken(Box<UpgradeReport>),
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
    /// To `Upgrade`, when it is complete.
    Upgraded(Box<UpgradeReport>),
    /// To `Release`.
    Released(LetGo),
    /// It is done, and there is nothing to say.
    Done,
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

/// How long the last answers may take to be written.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
const SOCKET: &str = "control.sock";
const RUN_FILE: &str = "run.json";

pub use scx_hint::run_dir as dir;

/// The socket and its threads; dropping it removes the files.
pub struct Server {
    dir: PathBuf,
    /// The files are another process's by now.
    left: bool,
    /// Requests that have not been answered.
    pending: Arc<AtomicUsize>,
}

/// A socket that nobody knows of yet.
pub struct Unpublished {
    dir: PathBuf,
    user_hints: bool,
    /// The control socket, and the one for programs that hint themselves.
    listeners: Option<(UnixListener, UnixListener)>,
}

impl Unpublished {
    /// Makes the socket, beside that of a process that may still be running. `user_hints`: programs of all users may hint
    /// themselves.
    pub fn new(dir: &Path, user_hints: bool) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating {}", dir.display()))?;
        let socket = unpublished(dir);
        // One of a former process with this id.
        let _ = fs::remove_file(&socket);
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("creating {}", socket.display()))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protecting {}", socket.display()))?;
        // From here on what is made goes with this.
        let mut made = Unpublished { dir: dir.into(), user_hints, listeners: None };
        made.listeners = Some((listener, own::bind(&own::unpublished(dir), user_hints)?));
        Ok(made)
    }

    /// Puts it in the place of whatever was there, at once, and starts to answer: calls go to `calls`.
    pub fn publish(mut self, policy: &str, calls: Sender<Call>) -> Result<Server> {
        let dir = self.dir.clone();
        let socket = dir.join(SOCKET);
        fs::rename(unpublished(&dir), &socket).with_context(|| format!("creating {}", socket.display()))?;
        fs::rename(own::unpublished(&dir), dir.join(scx_hint::SOCKET))
            .context("creating the socket for hints")?;
        let (listener, own) = self.listeners.take().context("the socket is published already")?;
        let user_hints = self.user_hints;
        let server = Server { dir, left: false, pending: Arc::default() };
        let run = RunFile { pid: std::process::id(), policy: policy.into() };
        fs::write(server.dir.join(RUN_FILE), serde_json::to_vec(&run)?).context("writing run.json")?;
        let pending = server.pending.clone();
        let own_calls = calls.clone();
        thread::Builder::new()
            .name("hint-calls".into())
            .spawn(move || own::accept(&own, user_hints, &own_calls))?;
        thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &calls, &pending))?;
        Ok(server)
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Those that were published have another name. Nothing can be done about a file that cannot be removed.
        for file in [unpublished(&self.dir), own::unpublished(&self.dir)] {
            let _ = fs::remove_file(file);
        }
    }
}

fn unpublished(dir: &Path) -> PathBuf {
    dir.join(format!("control-{}.sock", std::process::id()))
}

impl Server {
    /// Starts to listen. Calls go to `calls`. Also returns what a former scx_run left behind, if it did not end
    /// in order.
    pub fn start(
        dir: &Path,
        policy: &str,
        user_hints: bool,
        calls: Sender<Call>,
    ) -> Result<(Self, Option<RunFile>)> {
        let socket = dir.join(SOCKET);
        if UnixStream::connect(&socket).is_ok() {
            bail!(
                "another scx_run is running (socket {}); use `scx_run swap` to change its policy",
                socket.display()
            );
        }
        let left_behind = read_run_file(dir);
        // It replaces a socket that refuses connections, which is what a killed scx_run leaves.
        Ok((Unpublished::new(dir, user_hints)?.publish(policy, calls)?, left_behind))
    }

    /// Leaves the files to the process that has taken over.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process is about to end, and whoever has been given an answer shall get it.
        let start = Instant::now();
        while self.pending.load(Ordering::Acquire) > 0 && start.elapsed() < LAST_ANSWERS {
            thread::sleep(Duration::from_millis(1));
        }
        if self.left {
            return;
        }
        for name in [SOCKET, scx_hint::SOCKET, RUN_FILE] {
            // Nothing can be done about a file that cannot be removed while ending.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

/// What the last scx_run wrote about itself, if it is still there.
pub fn read_run_file(dir: &Path) -> Option<RunFile> {
    serde_json::from_slice(&fs::read(dir.join(RUN_FILE)).ok()?).ok()
}

fn accept(listener: &UnixListener, calls: &Sender<Call>, pending: &Arc<AtomicUsize>) {
    for stream in listener.incoming().flatten() {
        let (calls, pending) = (calls.clone(), pending.clone());
        let body = move || serve(&stream, &calls, &pending);
        // A client that hangs up or talks nonsense is its own problem.
        let _ = thread::Builder::new().name("control-call".into()).spawn(body);
    }
}

fn serve(stream: &UnixStream, calls: &Sender<Call>, pending: &AtomicUsize) -> Result<()> {
    let mut taking_over = false;
    let outcome = converse(stream, calls, pending, &mut taking_over);
    if taking_over {
        let why = "the new scx_run ended before it had taken over".to_owned();
        calls.send((Request::Withdraw(why), bounded(1).0))?;
    }
    outcome
}

/// Answers until the client hangs up. `taking_over`: it has been offered the scheduler and has not said that it has it,
/// or does not want it.
fn converse(
    stream: &UnixStream,
    calls: &Sender<Call>,
    pending: &AtomicUsize,
    taking_over: &mut bool,
) -> Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let _pending = Pending::new(pending);
        let response = match serde_json::from_str(&line) {
            Ok(request) => {
                let offer = request == Request::Offer;
                if matches!(request, Request::Withdraw(_) | Request::Taken(_)) {
                    *taking_over = false;
                }
                let (reply, answer) = bounded(1);
                calls.send((request, reply))?;
                let response = answer.recv().unwrap_or_else(|_| Response::Error("scx_run is ending".into()));
                *taking_over |= offer && !matches!(response, Response::Error(_));
                response
            }
            Err(error) => Response::Error(format!("not a request: {error}")),
        };
        write_line(stream, &response)?;
        line.clear();
    }
    Ok(())
}

/// Counts a request for as long as it lives.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Pending(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn write_line(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The one who was asked has ended. A process that is killed takes connections until the last of its threads is gone.
#[derive(Debug, thiserror::Error)]
#[error("the running scx_run ended before it answered")]
pub struct Ended;

/// A connection to the running scx_run.
pub struct Conversation(BufReader<UnixStream>);

impl Conversation {
    /// Connects. `None` if no scx_run is running.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let socket = dir.join(SOCKET);
        match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Some(Conversation(BufReader::new(stream)))),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("{} is open to root only; run it with sudo", socket.display())
            }
            Err(_) => Ok(None),
        }
    }

    /// Asks, and waits for the answer. The error is [`Ended`] if the other one ends without an answer.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        let line = self.exchange(request).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ended.into(),
            _ => Error::new(error).context("asking the running scx_run"),
        })?;
        if line.is_empty() {
            bail!(Ended);
        }
        serde_json::from_str(&line).context("its answer makes no sense: is it of another version?")
    }

    fn exchange(&mut self, request: &Request) -> io::Result<String> {
        write_line(self.0.get_ref(), request)?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }
}

/// Asks the running scx_run. `None` if there is none.
pub fn call(dir: &Path, request: &Request) -> Result<Option<Response>> {
    Conversation::open(dir)?.map(|mut conversation| conversation.ask(request)).transpose()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crossbeam::channel::unbounded;

    #[test]
    fn a_call_is_answered_and_the_files_go_away() {
        let dir = std::env::temp_dir().join(format!("scx_run-control-{}", std::process::id()));
        let (calls, incoming) = unbounded::<Call>();
        let (server, left) = Server::start(&dir, "fifo", false, calls.clone()).unwrap();
        assert_eq!(left, None);
        thread::spawn(move || {
            for (request, reply) in incoming {
                let Request::Status = request else { panic!("{request:?}") };
                reply.send(Response::Error("no".into())).unwrap();
            }
        });
        let Some(Response::Error(message)) = call(&dir, &Request::Status).unwrap() else { panic!() };
        assert_eq!(message, "no");
        assert!(Server::start(&dir, "vtime", false, calls).is_err(), "one at a time");
        assert_eq!(read_run_file(&dir).unwrap().policy, "fifo");
        drop(server);
        assert!(call(&dir, &Request::Status).unwrap().is_none());
        assert_eq!(read_run_file(&dir), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn whoever_ends_before_it_answers_is_no_mystery() {
        let dir = std::env::temp_dir().join(format!("scx_run-ended-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        for bytes_it_reads in [0, 1] {
            let mut conversation = Conversation::open(&dir).unwrap().unwrap();
            let mut asked = listener.accept().unwrap().0;
            let dying = thread::spawn(move || asked.read_exact(&mut vec![0; bytes_it_reads]).unwrap());
            assert!(conversation.ask(&Request::Status).unwrap_err().is::<Ended>(), "{bytes_it_reads}");
            dying.join().unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn whoever_hangs_up_while_taking_over_withdraws() {
        let dir = std::env::temp_dir().join(format!("scx_run-takeover-{}", std::process::id()));
        let (calls, incoming) = unbounded::<Call>();
        let (old, _) = Server::start(&dir, "fifo", false, calls.clone()).unwrap();
        let mut conversation = Conversation::open(&dir).unwrap().unwrap();
        thread::spawn(move || {
            let (request, reply) = incoming.recv().unwrap();
            assert_eq!(request, Request::Offer);
            reply.send(Response::Done).unwrap();
            let (request, reply) = incoming.recv().unwrap();
            assert!(matches!(request, Request::Withdraw(_)), "{request:?}");
            drop(reply);
        });
        conversation.ask(&Request::Offer).unwrap();
        // Another socket takes the place of the first, whose owner leaves it.
        let (new_calls, new_incoming) = unbounded::<Call>();
        let new = Unpublished::new(&dir, true).unwrap().publish("vtime", new_calls).unwrap();
        drop(conversation);
        old.leave();
        assert_eq!(read_run_file(&dir).unwrap().policy, "vtime");
        thread::spawn(move || new_incoming.recv().unwrap().1.send(Response::Done).unwrap());
        assert!(matches!(call(&dir, &Request::Status).unwrap(), Some(Response::Done)));
        drop((new, calls));
        fs::remove_dir_all(&dir).unwrap();
    }
}
