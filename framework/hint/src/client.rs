// SPDX-License-Identifier: GPL-2.0-only
//! Asking the running scx_run.

use std::io::{self, Read as _, Write as _};
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Hint, OwnRequest, OwnResponse, SOCKET};

/// Longest that a call waits, a busy or stopped scx_run included.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer.
const ANSWER: usize = 4096;

/// Why a hint was not taken. A program can go on as if nothing had been: it is scheduled like any other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no scx_run is running")]
    NotRunning,
    /// It does not take any from this user.
    #[error(
        "the running scx_run takes hints of root's programs only; --user-hints lets it take those of all"
    )]
    NotAllowed,
    /// It is too busy, or stopped.
    #[error("the running scx_run has not answered within {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// It says why not.
    #[error("{0}")]
    Refused(String),
    /// Something else is wrong with the connection.
    #[error("asking the running scx_run: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning,
            // It took the call, and ended.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::NotRunning,
            io::ErrorKind::PermissionDenied => Error::NotAllowed,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::NoAnswer,
            _ => Error::Io(error),
        }
    }
}

/// Hints the calling thread alone.
pub fn hint_thread(hint: &Hint) -> Result<(), Error> {
    ask(&OwnRequest { thread: Some(this_thread()), hint: Some(hint.to_string()) }).map(drop)
}

/// Hints all threads of this process, and those that it starts later. Returns how many there are now.
pub fn hint_process(hint: &Hint) -> Result<usize, Error> {
    ask(&OwnRequest { thread: None, hint: Some(hint.to_string()) })
}

/// Takes the calling thread's hint away, if it has one.
pub fn clear_thread() -> Result<(), Error> {
    ask(&OwnRequest { thread: Some(this_thread()), hint: None }).map(drop)
}

/// Takes away the hints of all threads of this process. Returns how many had one.
pub fn clear_process() -> Result<usize, Error> {
    ask(&OwnRequest::default())
}

/// The directory of the running scx_run's sockets: `/run/scx_run`, or `$SCX_RUN_DIR`.
pub fn run_dir() -> PathBuf {
    std::env::var_os("SCX_RUN_DIR").map_or_else(|| "/run/scx_run".into(), PathBuf::from)
}

fn this_thread() -> i32 {
    // SAFETY: gettid takes no arguments.
    unsafe { libc::gettid() }
}

fn ask(request: &OwnRequest) -> Result<usize, Error> {
    ask_in(&run_dir(), request)
}

fn ask_in(dir: &Path, request: &OwnRequest) -> Result<usize, Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = connect(&dir.join(SOCKET))?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;

    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::NoAnswer);
        }
        stream.set_read_timeout(Some(left))?;
        let mut some = [0; 512];
        let read = stream.read(&mut some)?;
        if read == 0 || answer.len() > ANSWER {
            return Err(Error::Refused("the running scx_run ended before it had answered".into()));
        }
        answer.extend_from_slice(&some[..read]);
    }
    match serde_json::from_slice(&answer) {
        Ok(OwnResponse::Threads(threads)) => Ok(threads),
        Ok(OwnResponse::Error(why)) => Err(Error::Refused(why)),
        Err(_) => Err(Error::Refused("the running scx_run is of another version".into())),
    }
}

/// Unlike [`UnixStream::connect`] this does not wait while a scx_run that is stopped has many callers already.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain integers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    let path = path.as_os_str().as_bytes();
    // One byte is left for the end of the string.
    if path.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path of the socket is too long"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let length = offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
    // SAFETY: `address` is valid for reads of `length` bytes.
    let outcome = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length as _) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(fd.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("scx_hint-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn nobody_is_there() {
        let none = OwnRequest::default();
        assert!(matches!(ask_in(Path::new("/nonexistent"), &none), Err(Error::NotRunning)));
        let dir = dir("nobody");
        drop(UnixListener::bind(dir.join(SOCKET)).unwrap());
        assert!(matches!(ask_in(&dir, &none), Err(Error::NotRunning)), "one that was killed");
        let long = "x".repeat(200);
        assert!(matches!(ask_in(Path::new(&long), &none), Err(Error::Io(_))));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_that_does_not_answer_is_given_up() {
        let dir = dir("silent");
        let _silent = UnixListener::bind(dir.join(SOCKET)).unwrap();
        assert!(matches!(ask_in(&dir, &OwnRequest::default()), Err(Error::NoAnswer)));
        // More than it lets wait: whoever follows would block in connect.
        let _waiting: Vec<_> = (0..5000).map_while(|_| connect(&dir.join(SOCKET)).ok()).collect();
        assert!(matches!(ask_in(&dir, &OwnRequest::default()), Err(Error::NoAnswer)));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_it_says_comes_back() {
        let dir = dir("says");
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let answers = ["{\"threads\":3}\n", "{\"error\":\"no\"}\n", "what?\n", ""];
        let server = std::thread::spawn(move || {
            for answer in answers {
                let mut lines = BufReader::new(listener.accept().unwrap().0);
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                assert_eq!(line, "{\"hint\":\"class=batch\"}\n");
                lines.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let request = OwnRequest { thread: None, hint: Some("class=batch".into()) };
        assert_eq!(ask_in(&dir, &request).unwrap(), 3);
        for says in ["no", "of another version", "ended before"] {
            let error = ask_in(&dir, &request).unwrap_err();
            assert!(matches!(&error, Error::Refused(why) if why.contains(says)), "{error}");
        }
        server.join().unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
