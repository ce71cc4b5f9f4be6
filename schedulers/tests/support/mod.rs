// SPDX-License-Identifier: GPL-2.0-only
//! What the tests in a VM share: starting scx_run, talking to it, loads, and what the kernel says.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod cgroups;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use framework::control::{self, Request, Response, SwapRequest};
use framework::kernel::KernelState;
use framework::pins;
use framework::report::{Status, SwapReport, UpgradeReport};
use framework::swap::Via;

/// Far longer than anything takes on the slowest machine: only a hang gets here.
const PATIENCE: Duration = Duration::from_secs(120);

/// Test policies, by name.
const OBJECTS: &[(&str, &[u8])] = &[
    ("faulty", include_bytes!(concat!(env!("OUT_DIR"), "/faulty.bpf.o"))),
    ("unverifiable", include_bytes!(concat!(env!("OUT_DIR"), "/unverifiable.bpf.o"))),
    ("opless", include_bytes!(concat!(env!("OUT_DIR"), "/opless.bpf.o"))),
    ("polite", include_bytes!(concat!(env!("OUT_DIR"), "/polite.bpf.o"))),
    ("ticker", include_bytes!(concat!(env!("OUT_DIR"), "/ticker.bpf.o"))),
];

/// Path of a test policy's object, written out.
pub fn object(name: &str) -> String {
    let (_, bytes) = OBJECTS.iter().find(|(have, _)| *have == name).expect("a test policy");
    let path = std::env::temp_dir().join(format!("{name}.bpf.o"));
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How often the threads of a process have gone to sleep, of those that are still there.
pub fn sleeps(pid: impl std::fmt::Display) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let switches = |status: String| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    statuses.filter_map(switches).sum()
}

/// Runs scx_run to its end.
pub fn scx_run(args: &[&str]) -> Output {
    Command::new("scx_run").args(args).output().expect("scx_run is in PATH")
}

/// Names of all built-in policies.
pub fn policies() -> Vec<String> {
    let output = scx_run(&["list", "--json"]);
    let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    list.iter().map(|policy| policy["name"].as_str().unwrap().to_owned()).collect()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where the background scx_run's output goes.
fn output(stream: &str) -> PathBuf {
    std::env::temp_dir().join(format!("scx_run.{stream}"))
}

/// A scx_run in the background. Ends it when dropped.
pub struct Running(Child);

impl Running {
    /// Starts scx_run and waits until it is in charge.
    pub fn start(args: &[&str]) -> Self {
        // A file, not a pipe: nobody reads until the end, and what does not fit in a pipe would be dropped.
        Self::start_with(args, fs::File::create(output("out")).unwrap().into())
    }

    /// Like `start`, with this for its stdout.
    pub fn start_with(args: &[&str], stdout: Stdio) -> Self {
        let child = Command::new("scx_run")
            .args(args)
            // For when the kernel ends it: what it says is shown by the test that fails.
            .arg("--dump")
            .stdout(stdout)
            .stderr(fs::File::create(output("err")).unwrap())
            .spawn()
            .expect("scx_run is in PATH");
        let mut running = Running(child);
        eventually("scx_run answers", || {
            if let Some(status) = running.0.try_wait().unwrap() {
                let text = fs::read_to_string(output("err")).unwrap();
                panic!("scx_run {args:?} ended with {status}: {text}");
            }
            matches!(control::call(&control::dir(), &Request::Status), Ok(Some(_)))
        });
        running
    }

    /// What it has written on stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(output("err")).unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain integers; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits for its end: status, stdout, stderr.
    pub fn wait(mut self) -> (ExitStatus, String, String) {
        let status = self.0.wait().unwrap();
        // Nothing, if stdout was not a file.
        let stdout = fs::read_to_string(output("out")).unwrap_or_default();
        (status, stdout, fs::read_to_string(output("err")).unwrap())
    }

    /// Ends it in order.
    pub fn stop(self) -> (ExitStatus, String, String) {
        self.signal(libc::SIGTERM);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.signal(libc::SIGTERM);
            // The test may have stopped it, and failed before it let it go on.
            self.signal(libc::SIGCONT);
            let _ = self.0.wait();
        }
        if thread::panicking() {
            eprintln!("scx_run said: {}", self.stderr());
        }
    }
}

pub fn status() -> Status {
    match control::call(&control::dir(), &Request::Status).unwrap() {
        Some(Response::Status(status)) => *status,
        other => panic!("no status: {other:?}"),
    }
}

pub fn request(policy: &str) -> SwapRequest {
    SwapRequest {
        policy: policy.into(),
        params: Vec::new(),
        config: None,
        via: Via::Slots,
        hold_ms: 0,
        window_ms: 0,
        max_delay_ms: None,
    }
}

/// Asks for a swap and waits until it is complete.
pub fn swap(request: &SwapRequest) -> Result<SwapReport, String> {
    match control::call(&control::dir(), &Request::Swap(request.clone())).unwrap() {
        Some(Response::Swapped(report)) => Ok(*report),
        Some(Response::Error(message)) => Err(message),
        other => panic!("no answer to a swap: {other:?}"),
    }
}

/// Where scx_run is.
pub fn program() -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    let found = path.split(':').map(|dir| Path::new(dir).join("scx_run")).find(|path| path.exists());
    found.expect("scx_run is in PATH")
}

/// Asks for an upgrade to the same program, and waits until it is complete.
pub fn upgrade() -> Result<UpgradeReport, String> {
    match control::call(&control::dir(), &Request::Upgrade(program())).unwrap() {
        Some(Response::Upgraded(report)) => Ok(*report),
        Some(Response::Error(message)) => Err(message),
        other => panic!("no answer to an upgrade: {other:?}"),
    }
}

/// Ends whichever scx_run has taken over in the meantime, and what was kept.
pub struct StopWhoever;

impl Drop for StopWhoever {
    fn drop(&mut self) {
        let output = scx_run(&["stop"]);
        if !thread::panicking() {
            assert!(output.status.success(), "{}", stderr(&output));
            assert_default_scheduler();
            assert!(pins::kept().unwrap().is_none(), "nothing is left");
            assert!(!Path::new("/sys/fs/bpf/scx_run").exists(), "nothing is left");
        }
    }
}

/// The policy that decides, by name.
pub fn active() -> String {
    let status = status();
    let active: Vec<_> = status.slots.iter().filter(|slot| slot.role == "active").collect();
    assert_eq!(active.len(), 1, "one policy decides: {:?}", status.slots);
    active[0].policy.name.clone()
}

/// The kernel's own scheduler is in charge and new threads run.
pub fn assert_default_scheduler() {
    eventually("sched_ext is disabled", || KernelState::read().state == "disabled");
    assert!(thread::spawn(|| true).join().unwrap());
}

/// Threads that do something all the time, each counting what it does.
pub struct Threads {
    stop: Arc<AtomicBool>,
    pub counts: Vec<Arc<AtomicU64>>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub fn new() -> Self {
        Threads { stop: Arc::default(), counts: Vec::new(), handles: Vec::new() }
    }

    /// Adds a thread called `name` that runs `step` until it is stopped, on `cpu` if one is given.
    pub fn add(&mut self, name: &str, cpu: Option<usize>, step: impl FnMut() + Send + 'static) {
        self.add_after(name, cpu, || (), step);
    }

    /// The same, once it has prepared itself.
    pub fn add_after(
        &mut self,
        name: &str,
        cpu: Option<usize>,
        prepare: impl FnOnce() + Send + 'static,
        mut step: impl FnMut() + Send + 'static,
    ) {
        let (stop, count) = (self.stop.clone(), Arc::new(AtomicU64::new(0)));
        self.counts.push(count.clone());
        let (in_place, placed) = mpsc::channel();
        let body = move || {
            if let Some(cpu) = cpu {
                pin(cpu);
            }
            prepare();
            // Who is tied to no CPU is not waited for.
            let _ = in_place.send(());
            while !stop.load(Ordering::Relaxed) {
                step();
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        self.handles.push(thread::Builder::new().name(name.into()).spawn(body).unwrap());
        if cpu.is_some() {
            // Its CPU may be about to go offline, and then it were too late.
            placed.recv().expect("the thread is where it should be");
        }
    }

    /// A CPU hog.
    pub fn hog(&mut self, name: &str, cpu: Option<usize>) {
        self.add(name, cpu, spin);
    }

    pub fn progress(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Every thread gets on from here.
    pub fn assert_all_progress(&self) {
        let before = self.progress();
        eventually("every thread makes progress", || {
            self.progress().iter().zip(&before).all(|(now, before)| now > before)
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

/// A few microseconds of computing.
pub fn spin() {
    for n in 0..1000 {
        std::hint::black_box(n);
    }
}

/// Ties the calling thread to a CPU.
pub fn pin(cpu: usize) {
    // SAFETY: all-zeroes is an empty cpu_set_t; `cpu` is small.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

/// Allows the calling thread CPUs `from` to `to`.
pub fn allow(from: usize, to: usize) {
    allow_thread(0, from, to);
}

/// Allows a thread CPUs `from` to `to`; 0 is the calling one.
pub fn allow_thread(thread: libc::pid_t, from: usize, to: usize) {
    // SAFETY: all-zeroes is an empty cpu_set_t; the numbers are small.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (from..=to).for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        assert_eq!(libc::sched_setaffinity(thread, size_of_val(&set), &set), 0);
    }
}

/// Sets the nice value of the calling thread.
pub fn nice(value: i32) {
    // SAFETY: setpriority takes plain integers; 0 is the calling thread.
    assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) }, 0);
}

/// Makes the calling thread one of the real-time class.
pub fn real_time() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` is valid for reads; 0 is the calling thread.
    assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) }, 0);
}

/// CPU time of the calling thread, ns.
pub fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A CPU that is offline until this is dropped.
pub struct Offline(String);

impl Offline {
    pub fn take(cpu: usize) -> Self {
        let switch = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        fs::write(&switch, "0").unwrap();
        Offline(switch)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        fs::write(&self.0, "1").unwrap();
    }
}

/// A command that runs until it is dropped.
pub struct Background {
    child: Child,
    /// What it prints; a file without a name.
    output: File,
}

impl Background {
    pub fn start(program: &str, args: &[&str]) -> Self {
        use std::os::unix::process::CommandExt as _;
        let output = unnamed_file();
        let child = Command::new(program)
            .args(args)
            .process_group(0)
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Background { child, output }
    }

    /// Fails if it has ended, with what it said.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let mut said = String::new();
            self.output.rewind().and_then(|()| self.output.read_to_string(&mut said)).unwrap();
            panic!("the load has ended, {status}: {said}");
        }
    }
}

fn unnamed_file() -> File {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("background.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).append(true).create_new(true).open(&path).unwrap();
    fs::remove_file(path).unwrap();
    file
}

impl Drop for Background {
    fn drop(&mut self) {
        // SAFETY: kill takes plain integers; the group's leader has not been waited for.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// Reads the kernel's state over and over; counts readings that are not `enabled`.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, u64)>>,
}

impl Watcher {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = thread::spawn(move || {
            let (mut readings, mut bad) = (0, 0);
            while !flag.load(Ordering::Relaxed) {
                readings += 1;
                bad += u64::from(!KernelState::read().enabled());
                thread::sleep(Duration::from_millis(2));
            }
            (readings, bad)
        });
        Watcher { stop, thread: Some(thread) }
    }

    pub fn finish(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The kernel's trace of scheduling events, on while it lives.
pub struct Trace(PathBuf);

impl Trace {
    /// Traces these events of the `sched` group.
    pub fn start(events: &[&str]) -> Self {
        let trace = Trace("/sys/kernel/tracing".into());
        trace.write("tracing_on", "0");
        trace.write("events/enable", "0");
        trace.write("buffer_size_kb", "8192");
        trace.write("trace", "");
        for event in events {
            trace.write(&format!("events/sched/{event}/enable"), "1");
        }
        trace.write("tracing_on", "1");
        trace
    }

    /// Keeps the latest `kib` KiB of each CPU only: under a load, to read it takes long.
    pub fn short(self, kib: usize) -> Self {
        self.write("buffer_size_kb", &kib.to_string());
        self
    }

    /// Stops and returns what was traced, a line an event.
    pub fn stop(self) -> Vec<String> {
        self.write("tracing_on", "0");
        let text = fs::read_to_string(self.0.join("trace")).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.write("tracing_on", "0");
        self.write("events/enable", "0");
    }
}

/// The value of `key=` in a traced event.
pub fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// CPU and time, in seconds, of a line of the trace: `comm-pid [cpu] flags time: event: ...`.
pub fn place(line: &str) -> Option<(usize, f64)> {
    let mut words = line.split_whitespace().skip_while(|word| !word.starts_with('['));
    let cpu = words.next()?.trim_matches(['[', ']']).parse().ok()?;
    Some((cpu, words.nth(1)?.trim_end_matches(':').parse().ok()?))
}
