// SPDX-License-Identifier: GPL-2.0-only
//! The same with an agent for each CPU.

use std::fs;

use super::*;

const PER_CPU: &[&str] = &[
    "--policy",
    "agent_fifo",
    "--param",
    "per_cpu=1",
    "--param",
    PATIENT,
    "--param",
    "slice_us=2000",
    "--stats",
    "0",
];

const EDF: &[&str] = &["--policy", "agent_edf", "--param", "per_cpu=1", "--param", PATIENT, "--stats", "0"];

fn cpus() -> usize {
    thread::available_parallelism().unwrap().get()
}

/// Two hogs on each CPU, so that each agent has to decide.
fn hogs_everywhere() -> Threads {
    let mut load = Threads::new();
    for cpu in (0..cpus()).chain(0..cpus()) {
        load.hog("hog", Some(cpu));
    }
    load
}

/// Every agent decides from here on. Only on an agent's own CPU does BPF carry out what it has decided.
fn assert_each_decides() {
    let load = hogs_everywhere();
    let before = agent();
    eventually("each agent decides", || agent().fewest > before.fewest + 10);
    load.assert_all_progress();
    drop(load);
}

/// The CPUs that each agent's thread may use.
fn homes(pid: i32) -> Vec<(String, String)> {
    let mut homes = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = task.unwrap().path();
        // Threads that answer on the control socket come and go.
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        let Some(cpu) = name.trim().strip_prefix("agent_fifo/") else { continue };
        let status = fs::read_to_string(path.join("status")).unwrap();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        homes.push((cpu.to_owned(), allowed.trim().to_owned()));
    }
    homes
}

fn assert_all_at_home(pid: i32) {
    eventually("each agent's thread is kept to its CPU", || {
        let homes = homes(pid);
        homes.len() == cpus() && homes.iter().all(|(cpu, allowed)| cpu == allowed)
    });
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn loads_run_to_their_end_and_each_cpu_s_agent_decides() {
    loads_run_to_their_end_under(PER_CPU, |running| {
        assert_all_at_home(running.pid());
        assert_each_decides();
        assert_eq!(agent().agents as usize, cpus(), "{:?}", agent());
    });
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_cpu_with_nothing_to_run_takes_what_waits_for_another_s_agent() {
    let running = Running::start(PER_CPU);
    // Born on one CPU, where their parent is kept, and then free to go: the others have nothing to run.
    let mut load = Threads::new();
    load.hog("keeper", Some(0));
    for _ in 0..cpus() {
        load.hog("hog", None);
    }
    load.assert_all_progress();
    eventually("idle CPUs take what waits or are given it", || {
        let status = agent();
        status.stolen + status.direct > 0
    });
    println!("{:?}", agent());
    drop(load);
    assert_accounted_for();
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn tasks_run_on_while_all_agents_are_stopped() {
    let running = Running::start(&["--policy", "agent_fifo", "--param", "per_cpu=1", "--stats", "0"]);
    let load = load();
    let hogs = hogs_everywhere();
    running.signal(libc::SIGSTOP);
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        load.assert_all_progress();
        hogs.assert_all_progress();
        assert!(KernelState::read().enabled());
    }
    running.signal(libc::SIGCONT);
    let stopped = agent();
    assert!(stopped.undelegated > 0 && stopped.overdue > 0, "BPF has scheduled: {stopped:?}");
    drop((load, hogs));
    assert_each_decides();
    assert_accounted_for();
    println!("{:?}", agent());
    assert!(agent().longest_silence_ns > 8_000_000_000, "{:?}", agent());
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn agents_that_are_killed_leave_the_machine_working() {
    let running = Running::start(PER_CPU);
    let hogs = hogs_everywhere();
    hogs.assert_all_progress();
    running.signal(libc::SIGKILL);
    running.wait();
    assert_default_scheduler();
    hogs.assert_all_progress();
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn rings_that_are_too_small_lose_no_task() {
    let running = Running::start(&[PER_CPU, &["--param", "ring=8"]].concat());
    to_the_end("hackbench", &["-g", "4", "-l", "50"]);
    let after = agent();
    assert!(after.ring_full > 0 && after.silences > 0, "the rings were too small: {after:?}");
    assert_accounted_for();
    assert!(KernelState::read().enabled());
    assert_each_decides();
    assert_accounted_for();
    println!("{:?}", agent());
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_agent_leaves_with_its_cpu_and_comes_back() {
    let running = Running::start(PER_CPU);
    let mut stress = Background::start(
        "stress-ng",
        &["--cpu", "2", "--switch", "2", "--fork", "1", "--affinity", "2", "--timeout", "1h"],
    );
    let load = load();
    let all = agent().agents;
    for _ in 0..2 {
        // Some of these may run on no other CPU: the kernel moves them.
        let hogs = hogs_everywhere();
        let offline = Offline::take(2);
        eventually("its agent is gone", || agent().agents == all - 1);
        load.assert_all_progress();
        hogs.assert_all_progress();
        drop(hogs);
        drop(offline);
        eventually("its agent is back", || agent().agents == all && agent().answering);
        assert_all_at_home(running.pid());
        assert_each_decides();
    }
    stress.assert_running();
    drop((stress, load));
    assert_accounted_for();
    println!("{:?}", agent());
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn swaps_from_one_model_to_the_other_lose_nobody() {
    let running = Running::start(&["--policy", "vtime", "--stats", "0", "--no-latency"]);
    let mut stress =
        Background::start("stress-ng", &["--switch", "4", "--cpu", "2", "--fork", "1", "--timeout", "1h"]);
    let load = load();
    let before = KernelState::read();
    let mut carried = 0;
    // Loading takes most of the time: the kernel verifies at leisure what others wait for.
    for n in 0..4 {
        let (policy, per_cpu) = [("agent_fifo", "1"), ("vtime", ""), ("agent_fifo", "0")][n % 3];
        let mut params = vec!["slice_us=2000".to_owned()];
        if !per_cpu.is_empty() {
            params.extend([format!("per_cpu={per_cpu}"), PATIENT.to_owned()]);
        }
        let report = swap(&SwapRequest { hold_ms: 600_000, params, ..request(policy) }).unwrap();
        assert_eq!((report.to.as_str(), report.lost, report.outside_ns), (policy, 0, 0), "swap {n}");
        carried += report.carried;
        match per_cpu {
            "1" => assert_each_decides(),
            _ => load.assert_all_progress(),
        }
    }
    println!("4 swaps, {carried} tasks carried over");
    assert_eq!(KernelState::read().enable_seq, before.enable_seq);
    stress.assert_running();
    drop((stress, load));
    assert_eq!(agent().agents as usize, cpus(), "{:?}", agent());
    assert_accounted_for();
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn any_agent_s_policy_can_have_one_for_each_cpu() {
    let running = Running::start(EDF);
    to_the_end("stress-ng", &["--switch", "2", "--cpu", "2", "--timeout", "3s"]);
    assert_each_decides();
    assert_accounted_for();
    println!("{:?}", agent());
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn an_earlier_deadline_starves_nobody_who_was_given_a_cpu_before() {
    let running = Running::start(&[EDF, &["--no-latency"]].concat());
    // Each wakeup overtakes somebody, and the hogs never leave the CPUs alone.
    let mut load = hogs_everywhere();
    for n in 0..6 * cpus() {
        load.add("sleep", None, move || {
            thread::sleep(Duration::from_millis(1 + n as u64 % 7));
            (0..100).for_each(|_| spin());
        });
    }
    for _ in 0..10 {
        load.assert_all_progress();
        thread::sleep(Duration::from_secs(1));
    }
    drop(load);
    assert_accounted_for();
    assert!(running.stop().0.success());
}
