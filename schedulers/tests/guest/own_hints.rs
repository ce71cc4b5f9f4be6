// SPDX-License-Identifier: GPL-2.0-only
//! Programs that hint themselves: by their environment, and by a call.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use framework::control::SwapRequest;
use framework::environ::EnvironStatus;
use framework::hints::{Hinted, Scope};
use framework::swap::Via;
use scx_hint::{Error, VARIABLE};

use crate::hints::hint;
use crate::support::*;
use crate::upgrade::kill;

/// A user who is not root.
const USER: u32 = 1000;
const URGENT: &str = "class=latency deadline=5ms";
/// Says to this program what it is to be: see [`a_program`].
const ROLE: &str = "SCX_TEST_ROLE";

/// A program, killed when this is dropped.
struct Program(Child);

impl Program {
    /// One that sleeps, with a value of the variable.
    fn sleep(value: &str) -> Self {
        Self::start(Command::new("sleep").arg("600").env(VARIABLE, value))
    }

    fn start(command: &mut Command) -> Self {
        Program(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn is_hinted(&self) -> bool {
        !of(self.pid()).is_empty()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hints of a process.
fn of(process: i32) -> Vec<Hinted> {
    hint(&["--list"]).into_iter().filter(|hinted| hinted.tgid == process).collect()
}

fn threads(process: i32) -> BTreeSet<i32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

fn pids(hinted: &[Hinted]) -> BTreeSet<i32> {
    hinted.iter().map(|hinted| hinted.pid).collect()
}

fn environ() -> EnvironStatus {
    status().environ.unwrap()
}

fn executes(process: &Program, program: &str) {
    let path = format!("/proc/{}/cmdline", process.pid());
    eventually(program, || fs::read_to_string(&path).unwrap().starts_with(program));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn programs_are_hinted_by_their_environment() {
    let before = Program::sleep("deadline=7ms");
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    eventually("one that was there before is hinted", || before.is_hinted());
    let hinted = &of(before.pid())[0];
    assert_eq!((hinted.hint.deadline_ns, hinted.scope), (Some(7_000_000), Scope::Environment));

    // The first to have a value; from then on it is known.
    let first = Program::sleep(URGENT);
    eventually("the first one is hinted", || first.is_hinted());
    assert_eq!(of(first.pid())[0].hint, URGENT.parse().unwrap());
    let shell = Program::start(Command::new("sh").args(["-c", "sleep 600; true"]).env(VARIABLE, URGENT));
    let others = [before.pid(), first.pid()];
    let children = || -> Vec<_> {
        let all = hint(&["--list"]).into_iter();
        all.filter(|one| one.comm == "sleep" && !others.contains(&one.pid)).collect()
    };
    eventually("its child is hinted", || shell.is_hinted() && children().len() == 1);
    let stripped = ["-c", "exec env -u SCX_HINT sleep 600"];
    let stripped = Program::start(Command::new("sh").args(stripped).env(VARIABLE, URGENT));
    executes(&stripped, "sleep");
    assert!(!stripped.is_hinted(), "its environment says nothing");
    // All threads, those of the test's harness as well as those that it starts.
    let mut threaded = Role::play("threads", None, Some("class=batch slice=2ms"));
    assert_eq!(threaded.says(), "ready");
    eventually("all threads are hinted", || {
        pids(&of(threaded.pid())) == threads(threaded.pid()) && of(threaded.pid()).len() >= 4
    });

    let list = hint(&["--list"]);
    for next in [request("vtime"), SwapRequest { via: Via::Reload, ..request("fifo_percpu") }] {
        swap(&next).unwrap();
        assert_eq!(hint(&["--list"]), list, "under {}", next.policy);
    }
    let text = stdout(&scx_run(&["hint", "--list"]));
    assert!(text.contains("deadline 5.00 ms, class latency (SCX_HINT)"), "{text}");

    // What is said by hand comes after what the environment has said.
    hint(&["--pid", &first.pid().to_string(), "slice=1ms"]);
    assert_eq!(
        (of(first.pid())[0].hint.slice_ns, of(first.pid())[0].scope),
        (Some(1_000_000), Scope::Thread)
    );
    assert_eq!(
        hint(&["--clear", "--process", &threaded.pid().to_string()]).len(),
        threads(threaded.pid()).len()
    );
    assert_eq!(of(threaded.pid()), []);

    let (one, other) = (Program::sleep("class=rt"), Program::sleep("class=rt"));
    let long = Program::sleep(&format!("class=batch{}", " ".repeat(200)));
    eventually("they are read", || environ().malformed >= 3);
    assert!(!one.is_hinted() && !other.is_hinted() && !long.is_hinted());
    let said = running.stderr();
    assert_eq!(said.matches("is no hint: there is no class \"rt\"").count(), 1, "{said}");
    assert_eq!(said.matches("is no hint: it is too long").count(), 1, "{said}");
    let text = stdout(&scx_run(&["status"]));
    assert!(text.contains("programs hinted") && text.contains("malformed"), "{text}");

    drop((before, first));
    assert!(hint(&["--list"]).iter().all(|hinted| !others.contains(&hinted.pid)));
    children().iter().for_each(|child| kill(child.pid as u32));
    drop(shell);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn the_environment_of_users_counts_if_they_may_hint() {
    let sleep = |program: &str| {
        Program::start(Command::new(program).arg("600").uid(USER).gid(USER).env(VARIABLE, URGENT))
    };
    let before = sleep("sleep");
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    eventually("it is seen", || environ().refused == 1);
    let after = sleep("sleep");
    let roots = Program::sleep(URGENT);
    eventually("root's is hinted", || roots.is_hinted());
    assert!(!before.is_hinted() && !after.is_hinted());
    assert_eq!(environ().refused, 2);
    let said = running.stderr();
    assert!(said.contains("(sleep) does not count") && said.contains("--user-hints"), "{said}");
    assert!(running.stop().0.success());

    let running = Running::start(&["--policy", "fifo", "--stats", "0", "--user-hints"]);
    let later = sleep("sleep");
    eventually("all are hinted", || [&before, &after, &later, &roots].iter().all(|one| one.is_hinted()));
    // The environment of a setuid program is its caller's, who is not the one whom it acts for.
    fs::create_dir_all("/tmp/setuid").unwrap();
    fs::copy("/usr/bin/busybox", "/tmp/setuid/sleep").unwrap();
    fs::set_permissions("/tmp/setuid/sleep", fs::Permissions::from_mode(0o4755)).unwrap();
    let setuid = sleep("/tmp/setuid/sleep");
    eventually("the setuid one is seen", || environ().refused == 1);
    assert!(!setuid.is_hinted());
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn hints_in_the_environment_outlive_the_process_that_read_them() {
    let first = Running::start(&["--policy", "fifo", "--stats", "0", "--user-hints", "--keep"]);
    let cleanup = StopWhoever;
    let (cleared, kept) = (Program::sleep(URGENT), Program::sleep(URGENT));
    eventually("both are hinted", || cleared.is_hinted() && kept.is_hinted());
    hint(&["--clear", "--pid", &cleared.pid().to_string()]);
    let report = upgrade().unwrap();
    assert!(first.wait().0.success());
    assert!(kept.is_hinted() && !cleared.is_hinted());
    // A known value: it is there as soon as the program is.
    let after = Program::start(Command::new("sleep").arg("600").uid(USER).env(VARIABLE, URGENT));
    executes(&after, "sleep");
    assert!(after.is_hinted() && !cleared.is_hinted());
    let other = Program::sleep("class=batch");
    eventually("another value is read", || other.is_hinted());

    // Nobody is there to read, and nobody hands hints on.
    kill(report.to_pid);
    let meanwhile = Program::sleep("slice=3ms");
    let adopted = Running::start(&["--take-over", "--stats", "0"]);
    eventually("it is found", || meanwhile.is_hinted());
    assert!([&kept, &after, &other].iter().all(|one| one.is_hinted()));
    drop(cleanup);
    assert!(adopted.wait().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_program_hints_itself() {
    let urgent = URGENT.parse().unwrap();
    assert!(matches!(scx_hint::hint_thread(&urgent), Err(Error::NotRunning)));
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let me = std::process::id() as i32;
    scx_hint::hint_thread(&urgent).unwrap();
    // SAFETY: gettid takes no arguments.
    let this_thread = unsafe { libc::gettid() };
    let hinted = of(me);
    assert_eq!(
        (pids(&hinted), hinted[0].hint, hinted[0].scope),
        ([this_thread].into(), urgent, Scope::Thread)
    );
    scx_hint::clear_thread().unwrap();
    assert_eq!(of(me), []);

    let threads_now = threads(me).len();
    assert_eq!(scx_hint::hint_process(&urgent).unwrap(), threads_now);
    let (begun, has_begun) = channel();
    let (end, ends) = channel::<()>();
    let late = thread::spawn(move || {
        begun.send(()).unwrap();
        let _ = ends.recv();
    });
    has_begun.recv().unwrap();
    assert_eq!(of(me).len(), threads_now + 1, "one that was started later is hinted, too");
    let child = Program::start(Command::new("sleep").arg("600"));
    executes(&child, "sleep");
    assert!(!child.is_hinted(), "another process is not");
    assert_eq!(scx_hint::clear_process().unwrap(), threads_now + 1);
    assert_eq!(of(me), []);
    drop(end);
    late.join().unwrap();

    let error = scx_hint::hint_thread(&scx_hint::Hint { slice_ns: Some(1), ..urgent }).unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if why.contains("out of range")), "{error}");
    running.signal(libc::SIGSTOP);
    assert!(matches!(scx_hint::hint_thread(&urgent), Err(Error::NoAnswer)));
    running.signal(libc::SIGCONT);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_user_s_program_hints_itself_if_it_may() {
    let outcome = || {
        let mut program = Role::play("hint", Some(USER), None);
        let says = program.says();
        (program, says)
    };
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let (refused, says) = outcome();
    assert!(says.contains("NotAllowed"), "{says}");
    assert_eq!(of(refused.pid()), []);
    assert!(running.stop().0.success());

    let running = Running::start(&["--policy", "fifo", "--stats", "0", "--user-hints"]);
    let (accepted, says) = outcome();
    assert!(says.starts_with("Ok("), "{says}");
    assert_eq!(pids(&of(accepted.pid())), threads(accepted.pid()));
    // Root's other business is still root's.
    let status = Command::new("scx_run").arg("status").uid(USER).gid(USER).output().unwrap();
    assert!(
        !status.status.success() && stderr(&status).contains("is open to root only"),
        "{}",
        stderr(&status)
    );
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

/// This program in another role: see [`a_program`].
struct Role {
    child: Program,
    lines: BufReader<std::process::ChildStdout>,
    // It ends when this is closed.
    _stdin: ChildStdin,
}

impl Role {
    fn play(role: &str, user: Option<u32>, value: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "own_hints::a_program",
            "--exact",
            "--nocapture",
            "--test-threads=1",
            "--include-ignored",
        ]);
        command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
        value.map(|value| command.env(VARIABLE, value));
        user.map(|user| command.uid(user).gid(user));
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Role { child: Program(child), lines: BufReader::new(stdout), _stdin: stdin }
    }

    fn pid(&self) -> i32 {
        self.child.pid()
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, says)) = line.split_once("says: ") {
                return says.trim_end().to_owned();
            }
            line.clear();
        }
        panic!("it has ended");
    }
}

/// No test: the programs that the others start.
#[test]
#[ignore = "a part of other tests"]
fn a_program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut load = Threads::new();
    for _ in 0..3 {
        load.add("resting", None, || thread::sleep(std::time::Duration::from_millis(10)));
    }
    load.assert_all_progress();
    match role.as_str() {
        "threads" => println!("says: ready"),
        "hint" => println!("says: {:?}", scx_hint::hint_process(&URGENT.parse().unwrap())),
        other => panic!("{other}"),
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
