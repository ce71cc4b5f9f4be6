// SPDX-License-Identifier: GPL-2.0-only
//! Starting scx_bench, reading what it wrote, and what the machine looks like afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use framework::kernel::KernelState;
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything takes on the slowest machine: only a hang gets here.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// Exit code when a part was not measured.
pub const INCOMPLETE: i32 = 3;
/// Exit code when it was interrupted.
pub const INTERRUPTED: i32 = 130;

const FAULTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faulty.bpf.o"));

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        thread::sleep(POLL);
    }
}

/// `scx_bench compare` of these contenders under these workloads.
pub fn compare(policies: &str, workloads: &str, runs: u32, seconds: f64) -> Bench {
    let (runs, seconds) = (runs.to_string(), seconds.to_string());
    let matrix = ["--policies", policies, "--workloads", workloads, "--runs", &runs, "--seconds", &seconds];
    Bench::new(&[&["compare"], matrix.as_slice()].concat())
}

/// A command line of scx_bench, with a folder for its output and, unless it says otherwise, its report.
pub struct Bench {
    pub command: Command,
    folder: TempDir,
}

impl Bench {
    pub fn new(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("scx_bench");
        command.args(args);
        if !args.contains(&"--out") {
            command.arg("--out").arg(folder.path().join("report"));
        }
        Bench { command, folder }
    }

    /// The same, started by another program, which is given the command line.
    pub fn wrapped_in(mut self, wrapper: &[&str]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.command.get_program()).args(self.command.get_args());
        self.command = command;
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Run {
        self.start().wait()
    }

    /// Starts it in the background.
    pub fn start(self) -> Running {
        let Bench { mut command, folder } = self;
        let output = |name: &str| File::create(folder.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        let enabled_before = KernelState::read().enable_seq.expect("this kernel counts");
        Running { child: Killed(command.spawn().expect("scx_bench is in PATH")), folder, enabled_before }
    }
}

/// A program that is killed when this is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Killed {
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain integers; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
}

/// scx_bench in the background.
pub struct Running {
    pub child: Killed,
    folder: TempDir,
    enabled_before: u64,
}

impl Running {
    /// Waits until it has put schedulers in charge this often since it was started.
    pub fn wait_attached(&mut self, times: u64) {
        eventually("schedulers are attached one after the other", || {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                panic!("it has ended with {status}: {}", read(&self.folder, "stderr"));
            }
            KernelState::read().enable_seq.unwrap() >= self.enabled_before + times
        });
    }

    pub fn wait(mut self) -> Run {
        let status = self.child.0.wait().unwrap();
        Run { status, folder: self.folder }
    }
}

/// What came of a run.
pub struct Run {
    pub status: ExitStatus,
    folder: TempDir,
}

impl Run {
    pub fn stdout(&self) -> String {
        read(&self.folder, "stdout")
    }

    pub fn stderr(&self) -> String {
        read(&self.folder, "stderr")
    }

    /// Where the report is.
    pub fn out(&self) -> PathBuf {
        self.folder.path().join("report")
    }

    /// It ended with this code, and the kernel's own scheduler is in charge.
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.stderr());
        assert_default_scheduler();
        self
    }

    pub fn report(&self) -> Report {
        let text = fs::read(self.out().join("report.json")).expect("there is a report");
        Report(serde_json::from_slice(&text).unwrap())
    }
}

fn read(folder: &TempDir, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(folder.path().join(name)).unwrap()).into_owned()
}

/// A report.json.
pub struct Report(pub Value);

impl Report {
    /// Contender, workload and round of each cell, in order.
    pub fn cells(&self) -> Vec<(&str, &str, u64)> {
        let cells = self.0["cells"].as_array().unwrap().iter();
        let cell = |cell| (text(cell, "contender"), text(cell, "workload"), number(cell, "round"));
        cells.map(cell).collect()
    }

    /// The number of cells of a contender.
    pub fn cells_of(&self, contender: &str) -> usize {
        self.cells().iter().filter(|cell| cell.0 == contender).count()
    }

    pub fn comparisons(&self) -> &[Value] {
        self.0["comparisons"].as_array().unwrap()
    }

    /// Names of the metrics that have been measured for a contender under a workload.
    pub fn metrics(&self, contender: &str, workload: &str) -> BTreeSet<&str> {
        let ours = self.comparisons().iter().filter(|one| {
            one["contender"] == contender && one["workload"] == workload && one["estimate"].is_number()
        });
        ours.map(|one| text(one, "metric")).collect()
    }

    /// What did not work, of a contender; "" for what is nobody's.
    pub fn failures(&self, contender: &str) -> Vec<&str> {
        let all = self.0["failures"].as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter(|one| one["contender"] == contender).map(|one| text(one, "message")).collect()
    }
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The kernel's own scheduler is in charge, and nobody is left who would attach another one.
pub fn assert_default_scheduler() {
    eventually("sched_ext is disabled", || KernelState::read().state == "disabled");
    assert_gone(&["scx_run", "scx_bench"]);
}

/// Processes with such names end.
pub fn assert_gone(names: &[&str]) {
    for name in names {
        eventually(&format!("{name} is gone"), || pids(name).is_empty());
    }
}

/// Processes whose names begin so, without those that have ended.
pub fn pids(name: &str) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let ours = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // PID (NAME) STATE ...
        let state = stat.rsplit(") ").next().unwrap_or_default();
        stat.split_once('(').is_some_and(|(_, rest)| rest.starts_with(name)) && !state.starts_with('Z')
    };
    all.filter_map(pid).filter(ours).collect()
}

/// What is in the folder for temporary files.
pub fn temporary_files() -> BTreeSet<PathBuf> {
    fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// fifo with a fault to order, as an object.
pub fn faulty() -> String {
    let path = Path::new("/root/faulty.bpf.o");
    fs::create_dir_all("/root").unwrap();
    fs::write(path, FAULTY).unwrap();
    path.display().to_string()
}
