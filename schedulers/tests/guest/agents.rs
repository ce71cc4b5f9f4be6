// SPDX-License-Identifier: GPL-2.0-only
//! Policies that a process decides for: loads get on, and the machine does not care what becomes of that process.

mod per_cpu;

use std::process::Command;
use std::thread;
use std::time::Duration;

use framework::agent::AgentStatus;
use framework::control::SwapRequest;
use framework::engine::{Config, Engine};
use framework::kernel::KernelState;

use crate::support::*;
use crate::unruly;

/// In emulation virtual CPUs take turns, so an agent that is woken may have to wait for far longer than 20 ms.
const PATIENT: &str = "agent_timeout_us=1000000";
const AGENT_FIFO: &[&str] =
    &["--policy", "agent_fifo", "--param", PATIENT, "--param", "slice_us=2000", "--stats", "0"];
const SHINJUKU: &[&str] = &["--policy", "shinjuku", "--param", PATIENT, "--stats", "0"];

fn agent() -> AgentStatus {
    let slots = status().slots;
    let active = slots.into_iter().find(|slot| slot.role == "active").expect("a policy decides");
    active.agent.expect("a process decides for it")
}

/// Every task that was queued for a decision is accounted for. Counters are read one after the other, so it may take
/// some readings until nothing moves meanwhile.
fn assert_accounted_for() {
    eventually("messages = decisions + fallbacks + departures", || agent().is_balanced());
}

/// A hog, one that may not leave its CPU, and a sleeper.
fn load() -> Threads {
    let mut load = Threads::new();
    load.hog("hog", None);
    load.hog("pinned", Some(1));
    load.add("sleep", None, || thread::sleep(Duration::from_millis(1)));
    load
}

/// More hogs than CPUs, so that somebody always waits for a decision.
fn contention() -> Threads {
    let mut load = Threads::new();
    for _ in 0..=thread::available_parallelism().unwrap().get() {
        load.hog("hog", None);
    }
    load
}

fn to_the_end(program: &str, args: &[&str]) {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", stderr(&output));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn loads_run_to_their_end_under_an_agent() {
    for args in [AGENT_FIFO, SHINJUKU] {
        loads_run_to_their_end_under(args, |_| ());
    }
    // It attaches the policies itself.
    let schbench = ["--workloads", "schbench", "--runs", "1", "--seconds", "2", "--out", "/tmp/schbench"];
    to_the_end("scx_bench", &[&["compare", "--policies", "agent_fifo,shinjuku"], &schbench[..]].concat());
}

/// `also`: what else has to hold while the policy is still in force.
fn loads_run_to_their_end_under(args: &[&str], also: impl FnOnce(&Running)) {
    let before = KernelState::read().enable_seq.unwrap();
    let running = Running::start(args);
    to_the_end("stress-ng", &["--switch", "4", "--cpu", "2", "--timeout", "4s"]);
    to_the_end("stress-ng", &["--fork", "4", "--fork-ops", "500", "--timeout", "60s"]);
    to_the_end("hackbench", &["-g", "2", "-l", "50"]);
    also(&running);
    let after = agent();
    assert!(after.answering && after.committed > 1000, "the agent has decided: {after:?}");
    assert_accounted_for();
    let kernel = KernelState::read();
    assert_eq!((kernel.enabled(), kernel.enable_seq), (true, Some(before + 1)), "never left sched_ext");
    println!("{args:?}: {:?}", agent());
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn idle_cpus_are_given_without_asking_unless_that_is_switched_off() {
    let running = Running::start(AGENT_FIFO);
    let mut load = Threads::new();
    load.add("free", None, || thread::sleep(Duration::from_millis(1)));
    load.add("pinned", Some(1), || thread::sleep(Duration::from_millis(1)));
    eventually("wakeups go to idle CPUs at once", || agent().direct > 200);
    assert_eq!(agent().stages, None);

    let always = ["fast_path=0", "stages=1", PATIENT];
    let params = always.map(str::to_owned).to_vec();
    swap(&SwapRequest { params, ..request("agent_fifo") }).unwrap();
    eventually("wakeups are measured", || agent().stages.is_some_and(|stages| stages.count > 200));
    let asked = agent();
    assert!(asked.direct == 0 && asked.committed > 200, "{asked:?}");
    let stages = asked.stages.unwrap();
    let each = [stages.message_ns, stages.seen_ns, stages.committed_ns, stages.running_ns];
    assert!(each.iter().all(|ns| *ns > 0), "{stages:?}");
    drop(load);
    assert_accounted_for();
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_that_lets_tasks_wait_sleeps() {
    // It gives a CPU one task at a time, so that somebody waits at every context switch.
    let running =
        Running::start(&["--policy", "agent_edf", "--param", PATIENT, "--stats", "0", "--no-latency"]);
    let load = contention();
    eventually("the agent decides", || agent().committed > 100);
    let (slept, decided) = (sleeps(running.pid()), agent().committed);
    thread::sleep(Duration::from_secs(2));
    let (slept, decided) = (sleeps(running.pid()).saturating_sub(slept), agent().committed - decided);
    println!("{decided} decisions, {slept} sleeps");
    assert!(decided > 0 && slept < 4 * decided + 100, "{decided} decisions, {slept} sleeps");
    drop(load);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_that_answers_may_let_tasks_wait() {
    // 64 slices of 100 ms on four CPUs: a task waits for more than the timeout, in order.
    let params = ["slice_us=100000", PATIENT, "max_wait_us=20000000"];
    let params = params.iter().flat_map(|param| ["--param", param]);
    let args: Vec<_> = ["--policy", "agent_fifo", "--stats", "0"].into_iter().chain(params).collect();
    // The machine that emulates this one may itself stop for longer than the timeout now and then.
    let mut rounds = (0..3).map(|_| {
        let running = Running::start(&args);
        to_the_end("stress-ng", &["--cpu", "64", "--timeout", "6s"]);
        let after = agent();
        assert_accounted_for();
        assert!(running.stop().0.success());
        println!("{after:?}");
        (after.overdue, after.silences)
    });
    assert!(rounds.any(|taken_over| taken_over == (0, 0)), "BPF has taken over each time");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn tasks_run_on_while_the_agent_is_stopped() {
    let running = Running::start(&["--policy", "agent_fifo", "--stats", "0"]);
    let load = load();
    load.assert_all_progress();
    running.signal(libc::SIGSTOP);
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        load.assert_all_progress();
        assert!(KernelState::read().enabled());
    }
    running.signal(libc::SIGCONT);
    let stopped = agent();
    assert!(stopped.undelegated > 0 && stopped.overdue > 0, "BPF has scheduled: {stopped:?}");
    let more = contention();
    eventually("the agent decides again", || agent().committed > stopped.committed);
    drop(more);
    assert!(agent().longest_silence_ns > 8_000_000_000, "{:?}", agent());
    drop(load);
    assert_accounted_for();
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_that_is_killed_leaves_the_machine_working() {
    let running = Running::start(AGENT_FIFO);
    let mut load = Threads::new();
    load.hog("hog", None);
    load.assert_all_progress();
    running.signal(libc::SIGKILL);
    running.wait();
    assert_default_scheduler();
    load.assert_all_progress();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_ring_that_is_too_small_loses_no_task() {
    let running = Running::start(&[AGENT_FIFO, &["--param", "ring=8"]].concat());
    to_the_end("hackbench", &["-g", "4", "-l", "50"]);
    let after = agent();
    assert!(after.ring_full > 0 && after.silences > 0, "the ring was too small: {after:?}");
    assert_accounted_for();
    assert!(KernelState::read().enabled());
    // On an idle machine there is nothing to decide: wakeups get their CPUs without asking.
    let load = contention();
    let committed = agent().committed;
    eventually("the agent decides again", || agent().committed > committed);
    drop(load);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_between_a_kernel_s_policy_and_an_agent_s_lose_nobody() {
    let swaps: usize = std::env::var("SCX_TEST_SWAPS").map_or(20, |number| number.parse().unwrap());
    let running = Running::start(&["--policy", "vtime", "--stats", "0", "--no-latency"]);
    let mut stress =
        Background::start("stress-ng", &["--switch", "4", "--cpu", "2", "--fork", "1", "--timeout", "1h"]);
    let load = load();
    load.assert_all_progress();
    let before = KernelState::read();
    let mut carried = 0;
    for n in 0..swaps {
        let policy = ["agent_fifo", "vtime"][n % 2];
        let params = vec!["slice_us=2000".into()];
        let report = swap(&SwapRequest { hold_ms: 600_000, params, ..request(policy) }).unwrap();
        assert_eq!((report.to.as_str(), report.lost, report.outside_ns), (policy, 0, 0), "swap {n}");
        carried += report.carried;
    }
    println!("{swaps} swaps, {carried} tasks carried over");
    load.assert_all_progress();
    assert_eq!(KernelState::read().enable_seq, before.enable_seq);
    stress.assert_running();
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_held_policy_is_told_of_a_cpu_that_comes_back() {
    let running = Running::start(AGENT_FIFO);
    let offline = Offline::take(2);
    swap(&SwapRequest { hold_ms: 600_000, ..request("vtime") }).unwrap();
    drop(offline);
    let params = vec!["slice_us=2000".into(), PATIENT.into()];
    let back = swap(&SwapRequest { params, ..request("agent_fifo") }).unwrap();
    assert_eq!(back.verify_ms, 0.0, "it was held");
    let before = agent();
    let mut load = Threads::new();
    load.hog("one", Some(2));
    load.hog("other", Some(2));
    load.assert_all_progress();
    eventually("the agent decides for them", || agent().committed > before.committed + 20);
    assert_eq!(agent().offline, before.offline, "it could: {:?}", agent());
    drop(load);
    assert_accounted_for();
    assert!(running.stop().0.success());
}

/// An engine in this process, with a policy of the test's. Loads are other processes then: this one is the agent.
struct Unruly(Engine);

impl Unruly {
    fn start(params: &[&str]) -> Self {
        Self::start_with(params, Duration::ZERO)
    }

    /// `timeout`: the kernel's patience with tasks that wait, 0 for the usual.
    fn start_with(params: &[&str], timeout: Duration) -> Self {
        framework::capture_libbpf_log();
        let config = Config {
            catalogue: unruly::CATALOGUE,
            direct: false,
            partial: false,
            timeout_ms: timeout.as_millis() as u32,
            extra_ops: Default::default(),
            measure: false,
            per: None,
            keep: false,
            user_hints: false,
        };
        let params: Vec<_> = params.iter().map(|param| (*param).to_owned()).collect();
        Unruly(Engine::prepare(config, "unruly", &params, None).unwrap().attach().unwrap())
    }

    fn status(&self) -> AgentStatus {
        self.0.status().slots[0].agent.unwrap()
    }

    fn end(mut self) -> AgentStatus {
        let status = self.status();
        assert!(KernelState::read().enabled());
        let ended = self.0.stop().unwrap();
        assert!(!ended.is_error(), "{}", ended.explain("unruly"));
        status
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_that_takes_200_ms_for_a_decision_keeps_nobody_waiting() {
    let unruly = Unruly::start(&["burn_ms=200"]);
    to_the_end("stress-ng", &["--switch", "2", "--cpu", "2", "--timeout", "4s"]);
    to_the_end("stress-ng", &["--fork", "2", "--fork-ops", "100", "--taskset", "1", "--timeout", "60s"]);
    eventually("all are accounted for", || unruly.status().is_balanced());
    let status = unruly.end();
    assert!(status.silences > 0 && status.undelegated > 0, "{status:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn wrong_transactions_are_refused_and_counted() {
    let unruly = Unruly::start(&["wrong=1", PATIENT]);
    let load = [
        Background::start("stress-ng", &["--switch", "2", "--fork", "2", "--timeout", "1h"]),
        Background::start("stress-ng", &["--switch", "2", "--taskset", "1", "--timeout", "1h"]),
    ];
    eventually("each kind of wrong transaction was tried", || {
        let status = unruly.status();
        [status.stale, status.gone, status.not_allowed, status.offline, status.aborted].iter().all(|n| *n > 0)
    });
    to_the_end("hackbench", &["-g", "1", "-l", "20"]);
    drop(load);
    eventually("all are accounted for", || unruly.status().is_balanced());
    let status = unruly.end();
    assert!(status.committed > 0, "{status:?}");
    println!("{status:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn tasks_that_an_agent_forgets_run_all_the_same() {
    // The others keep all CPUs busy, so no CPU ever looks for work.
    let unruly = Unruly::start(&["forget=1", "max_wait_us=300000", PATIENT]);
    let mut hogs = Background::start("stress-ng", &["--cpu", "16", "--timeout", "1h"]);
    thread::sleep(Duration::from_secs(2));
    to_the_end("stress-ng", &["--switch", "8", "--timeout", "4s"]);
    hogs.assert_running();
    drop(hogs);
    eventually("all are accounted for", || unruly.status().is_balanced());
    let status = unruly.end();
    assert!(status.overdue > 0, "{status:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn who_is_overtaken_all_the_time_gets_a_turn() {
    // The kernel ends a scheduler under which somebody waits for longer.
    let params = ["preempt=1", "max_wait_us=300000", "per_cpu=1", PATIENT];
    let unruly = Unruly::start_with(&params, Duration::from_secs(10));
    let cpus = thread::available_parallelism().unwrap().get();
    let hogs: Vec<_> = (0..cpus)
        .map(|cpu| Background::start("taskset", &["-c", &cpu.to_string(), "stress-ng", "--cpu", "3"]))
        .collect();
    thread::sleep(Duration::from_secs(20));
    drop(hogs);
    eventually("all are accounted for", || unruly.status().is_balanced());
    let status = unruly.end();
    assert!(status.committed > 1000, "{status:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn what_a_policy_leaves_runs_though_the_agent_keeps_all_cpus_busy() {
    let running = Running::start(&["--policy", "vtime", "--stats", "0", "--no-latency", "--timeout", "10s"]);
    let mut hogs = Background::start("stress-ng", &["--cpu", "12", "--timeout", "1h"]);
    thread::sleep(Duration::from_secs(1));
    for policy in ["agent_fifo", "vtime"] {
        let report = swap(&SwapRequest { hold_ms: 600_000, ..request(policy) }).unwrap();
        assert_eq!((report.to.as_str(), report.lost), (policy, 0));
    }
    hogs.assert_running();
    assert!(running.stop().0.success());
}
