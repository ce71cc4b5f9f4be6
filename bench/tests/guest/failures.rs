// SPDX-License-Identifier: GPL-2.0-only
//! What does not work is named, and the rest is measured.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::*;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn contenders_that_fail_are_named_and_the_others_measured() {
    let policies = format!(
        "fifo,broken=cmd:sh -c 'echo broken here; exit 3',\
         short=cmd:scx_run --policy fifo --stats 0 --duration 300ms,\
         faulty=cmd:scx_run --policy {} --param fault=1 --param after=200 --stats 0",
        faulty()
    );
    let report = compare(&policies, "mixed", 2, 0.5).run().ended_with(INCOMPLETE).report();
    assert_eq!(report.cells(), [("fifo", "mixed", 0), ("fifo", "mixed", 1)]);

    let of = |contender: &str, says: &[&str]| {
        let failures = report.failures(contender);
        assert!(!failures.is_empty(), "{contender} has not failed");
        for what in says {
            assert!(failures.iter().all(|failure| failure.contains(what)), "{what} is not in {failures:?}");
        }
        assert!(failures.last().unwrap().contains("left out from here"), "{failures:?}");
    };
    of("broken", &["broken ended with exit status: 3 before it attached", "broken here"]);
    assert_eq!(report.failures("broken").len(), 1, "it is not tried again");
    of("short", &["short ended with exit status: 0", "run-queue wait"]);
    of("faulty", &["faulty", "injected fault"]);
    assert_eq!(report.failures("fifo"), [""; 0]);
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn if_nothing_was_measured_it_says_why() {
    let run = compare("cmd:sh -c 'echo broken here; exit 3'", "pipe", 1, 0.2).run().ended_with(1);
    assert!(run.stderr().contains("scx_bench: nothing was measured: "), "{}", run.stderr());
    assert!(run.stderr().contains("broken here"), "{}", run.stderr());
    assert!(!run.out().join("report.json").exists());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_missing_program_is_named_and_the_others_measured() {
    let folder = tempfile::tempdir().unwrap();
    // Enough of a PATH for the rest.
    for program in ["sh", "scx_bench"] {
        symlink(which(program), folder.path().join(program)).unwrap();
    }
    let mut bench = compare("eevdf,fifo", "hackbench,pipe", 1, 0.2);
    bench.command.env("PATH", folder.path());
    let run = bench.run().ended_with(INCOMPLETE);
    let report = run.report();
    assert_eq!(report.cells(), [("eevdf", "pipe", 0), ("fifo", "pipe", 0)]);
    let message = "hackbench is not in PATH; install it (Debian: apt install rt-tests)";
    assert_eq!(report.failures(""), [message]);
    assert!(run.stderr().contains(&format!("scx_bench: hackbench: {message}\n")), "{}", run.stderr());
}

fn which(program: &str) -> String {
    let output = Command::new("which").arg(program).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn cpus_are_for_virtual_machines() {
    let run = Bench::new(&["compare", "--policies", "eevdf", "--cpus", "2"]).run().ended_with(1);
    let says = "--cpus 2 is for virtual machines; add --vm or --deterministic, or leave it out";
    assert_eq!(run.stderr(), format!("scx_bench: {says}\n"));
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn a_full_disk_is_named_and_the_summary_not_lost() {
    let small = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        let status = Command::new(args[0]).args(&args[1..]).arg(small.path()).status().unwrap();
        assert!(status.success(), "{args:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs"]);
    let out = small.path().to_str().unwrap();
    let pipe = ["compare", "--policies", "eevdf", "--workloads", "pipe", "--runs", "1", "--seconds", "0.2"];
    let run = Bench::new(&[&pipe, ["--out", out].as_slice()].concat()).run();
    let left = fs::read_dir(small.path()).unwrap().count();
    mount(&["umount"]);
    let run = run.ended_with(1);
    let last = run.stderr().lines().last().unwrap().to_owned();
    assert!(last.starts_with("scx_bench: cannot write ") && last.contains("no storage space"), "{last}");
    assert!(run.stdout().contains("per_switch"), "the summary is not lost: {}", run.stdout());
    assert_eq!(left, 0, "files are there in whole or not at all");
}
