// SPDX-License-Identifier: GPL-2.0-only
//! Mistakes on the command line: one clear line, an exit code other than 0. And reports out of reports. Needs no
//! kernel.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

use support::scx_bench;

/// Exit code of `report --against` if something has become worse.
const WORSE: i32 = 4;

/// In a folder of its own: nothing may be left in ours.
fn bench(args: &[&str]) -> Assert {
    let dir = tempfile::tempdir().unwrap();
    scx_bench().current_dir(&dir).args(args).assert()
}

/// One line that says this, and failure.
fn refused(args: &[&str], says: &str) {
    bench(args)
        .failure()
        .stderr(contains(says).and(predicate::function(|text: &str| text.trim_end().lines().count() == 1)));
}

/// An option that clap refuses: the first line says this, its help follows.
fn no_such_option(args: &[&str], says: &str) {
    bench(args).failure().stderr(
        contains(says)
            .and(predicate::function(|text: &str| text.lines().next().unwrap().starts_with("error: "))),
    );
}

fn compare(policies: &str, says: &str) {
    refused(&["compare", "--policies", policies], says);
}

#[test]
fn contenders_that_cannot_be() {
    compare("fifo,fifa", "no contender \"fifa\": it is eevdf, a policy (");
    compare("direct:fifa", "no contender \"fifa\"");
    compare("fifo,eevdf,fifo", "\"fifo\" is there twice; give one another name, such as again=fifo");
    compare("fifo,./none.bpf.o", "there is no file \"./none.bpf.o\"");
    compare("cmd:no-such-scheduler --fast", "there is no program \"no-such-scheduler\"");
    compare("cmd:", "cmd: wants a command, such as");
    compare("cmd:sh -c 'exit", "the quotes in \"sh -c 'exit\" do not match");
    compare(",", "no contender; name some, such as");
    refused(&["cost", "--policies", "fifa"], "no contender \"fifa\"");
    refused(&["scale", "--policies", "fifa"], "no contender \"fifa\"");
}

#[test]
fn workloads_that_cannot_be() {
    refused(
        &["compare", "--policies", "fifo", "--workloads", "pipe,pip"],
        "no workload \"pip\"; there are schbench, stress-ng, ",
    );
    refused(&["scale", "--workloads", "pip"], "no workload \"pip\"");
}

#[test]
fn options_that_make_no_sense() {
    for command in ["compare", "cost", "scale"] {
        no_such_option(&[command, "--policies", "fifo", "--seconds", "0"], "wants seconds from 0.01 to 3600");
        no_such_option(&[command, "--policies", "fifo", "--cpus", "0"], "'--cpus");
    }
    no_such_option(&["compare", "--policies", "fifo", "--seconds", "long"], "wants seconds");
    no_such_option(&["compare", "--policies", "fifo", "--runs", "0"], "'--runs <RUNS>'");
    no_such_option(&["compare", "--policies", "fifo", "--seeds", "3"], "required");
    bench(&["compare", "--policies", "fifo", "--seeds", "3"]).failure().stderr(contains("--deterministic"));
    no_such_option(&["compare", "--policies", "fifo", "--seeds", "3", "--runs", "3"], "cannot be used with");
    no_such_option(&["compare"], "required");
    no_such_option(&["swap", "--swaps", "0"], "'--swaps <SWAPS>'");
    refused(&["measure", "{}"], "no job");
    bench(&[]).failure().stderr(contains("Usage"));
}

#[test]
fn swaps_that_cannot_be() {
    refused(&["swap", "--pairs", "fifo"], "\"fifo\" is not of the form POLICY:POLICY");
    refused(&["swap", "--pairs", "fifo:fifa"], "no contender \"fifa\"");
    refused(
        &["swap", "--via", "nonsense"],
        "no way \"nonsense\": it is slots, reload, restart or 'cmd:A>cmd:B'",
    );
    refused(&["swap", "--via", ","], "no way to swap; name some, such as --via slots,reload");
    refused(&["swap", "--via", "fifo>vtime"], "\"fifo\" is no command: write 'cmd:A>cmd:B'");
    refused(
        &["swap", "--via", "cmd:true>cmd:no-such-scheduler"],
        "there is no program \"no-such-scheduler\"",
    );
}

#[test]
fn folders_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("report").display().to_string();
    refused(
        &["compare", "--policies", "eevdf", "--workloads", "pipe", "--out", &below],
        &format!("cannot make the folder {below}"),
    );
    refused(&["swap", "--out", &below], &format!("cannot make the folder {below}"));
    let report = Folder::new(&example());
    refused(&["report", report.path(), "--out", &below], "cannot make the folder");
    // procfs takes no new files, whoever asks.
    refused(&["cost", "--out", "/proc"], "cannot write into /proc");
}

#[test]
fn reports_that_cannot_be_read() {
    let good = Folder::new(&example());
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    refused(&["report", empty], &format!("cannot read {empty}/report.json: No such file"));
    refused(&["report", good.path(), empty], "No such file");
    let against = |baseline: &str, says: &str| refused(&["report", good.path(), "--against", baseline], says);
    against("/none.json", "cannot read /none.json: No such file");
    let bad = |content: &[u8], says: &str| {
        let bad = Folder::empty();
        fs::write(bad.file("report.json"), content).unwrap();
        refused(&["report", bad.path()], says);
        against(bad.path(), says);
    };
    bad(b"", "is not a report of scx_bench");
    bad(b"schema: 1", "is not a report of scx_bench");
    bad(b"{\"schema\": 1}", "is not a report of scx_bench: missing field");
    bad(b"[1, 2]", "is not a report of scx_bench");
    bad(b"\xff\xfe\x00", "is not a report of scx_bench");
    let mut other = example();
    other["schema"] = json!(99);
    bad(other.to_string().as_bytes(), "has format 99, this scx_bench reads format 1: measure again");
    let twice = ["report", good.path(), good.path(), "--against", good.path()];
    refused(&twice, "--against takes one report to compare");
}

#[test]
fn list_names_every_workload_and_metric() {
    let json = bench(&["list", "--json"]).success().get_output().stdout.clone();
    let all: Vec<Value> = serde_json::from_slice(&json).unwrap();
    let text = String::from_utf8(bench(&["list"]).success().get_output().stdout.clone()).unwrap();
    let mut names: Vec<&str> = Vec::new();
    for entry in &all {
        let spec = &entry["workload"];
        let name = spec["name"].as_str().unwrap();
        names.push(name);
        let head = format!("{name}: {}\n", spec["description"].as_str().unwrap());
        let body = text.split_once(&head).unwrap_or_else(|| panic!("{head} is not in:\n{text}")).1;
        let mut lines = body.lines();
        let metrics = spec["metrics"].as_array().unwrap();
        assert!(!metrics.is_empty(), "{name} measures nothing");
        for metric in metrics {
            let line: Vec<_> = lines.next().unwrap().split_whitespace().collect();
            // A share has no unit.
            let words = ["name", "unit", "better"].map(|key| metric[key].as_str().unwrap());
            let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            assert!(line.starts_with(&words), "{line:?} is not {words:?}");
        }
        // What is missing is the same in both, and says how to get it.
        if let Some(missing) = entry["missing"].as_str() {
            assert!(missing.contains("; "), "cause and cure: {missing}");
            assert_eq!(lines.next().unwrap().trim(), format!("missing here: {missing}"));
        }
    }
    assert!(names.len() > 20, "{names:?}");
    for name in
        ["schbench-half", "stress-ng-switch", "hackbench", "pipe", "mixed", "fairness-cgroup", "cost-ops"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[test]
fn help_names_every_command() {
    let help = bench(&["--help"]).success();
    let text = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    for command in ["compare", "swap", "cost", "scale", "report", "list"] {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is not in:\n{text}");
    }
}

#[test]
fn a_report_is_rendered_again() {
    let from = Folder::new(&example());
    let to = Folder::empty();
    let page = to.file("index.html").display().to_string();
    bench(&["report", from.path(), "--out", to.path()]).success().stdout(format!("{page}\n"));
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("fifo") && html.contains("per_switch") && html.contains("an example of a failure"));
    let markdown = fs::read_to_string(to.file("report.md")).unwrap();
    assert!(markdown.contains("fifo") && markdown.contains("pipe"), "{markdown}");
    // What was measured, and what follows from it, is as it was.
    let again: Value = serde_json::from_slice(&fs::read(to.file("report.json")).unwrap()).unwrap();
    assert_eq!(again, example());

    // Without --out it goes where the report is.
    bench(&["report", from.file("report.json").to_str().unwrap()]).success();
    assert_eq!(fs::read(from.file("index.html")).unwrap(), fs::read(to.file("index.html")).unwrap());
}

#[test]
fn reports_side_by_side() {
    let (one, other, to) = (Folder::new(&example()), Folder::new(&example()), Folder::empty());
    bench(&["report", one.path(), other.path(), "--out", to.path()]).success();
    let markdown = fs::read_to_string(to.file("report.md")).unwrap();
    for path in [one.path(), other.path()] {
        assert!(markdown.contains(path), "{path} is not in:\n{markdown}");
    }
    assert!(to.file("index.html").exists());
}

#[test]
fn a_report_against_itself_is_no_worse() {
    let report = Folder::new(&measured(1.0));
    bench(&["report", report.path(), "--against", report.path()])
        .success()
        .stdout("0 metrics are worse, 0 are missing\n");
}

#[test]
fn what_has_become_worse_is_named() {
    let (slow, fast) = (Folder::new(&measured(1.0)), Folder::new(&measured(0.8)));
    bench(&["report", slow.path(), "--against", fast.path()]).code(WORSE).stdout(
        contains("worse: pipe per_switch, fifo, 4 CPUs: ")
            .and(contains("1.25"))
            .and(contains("1 metrics are worse, 0 are missing")),
    );
    let json = bench(&["report", slow.path(), "--against", fast.path(), "--json"]).code(WORSE);
    let said: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!(said["regressions"].as_array().unwrap().len(), 1);
    assert_eq!(said["regressions"][0]["contender"], "fifo");
    assert_eq!(said["regressions"][0]["metric"], "per_switch");

    // The other way round it has become better.
    bench(&["report", fast.path(), "--against", slow.path()]).success();
}

#[test]
fn what_is_not_measured_any_more_is_named() {
    let then = measured(1.0);
    let mut now = then.clone();
    now["cells"].as_array_mut().unwrap().retain(|cell| cell["contender"] != "fifo");
    let (now, then) = (Folder::new(&now), Folder::new(&then));
    bench(&["report", now.path(), "--against", then.path()])
        .code(WORSE)
        .stdout(contains("missing: fifo, pipe per_switch, 4 CPUs").and(contains("1 are missing")));
}

/// A folder, with a report.json in it or without.
struct Folder(tempfile::TempDir);

impl Folder {
    fn empty() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn new(report: &Value) -> Self {
        let folder = Folder::empty();
        fs::write(folder.file("report.json"), report.to_string()).unwrap();
        folder
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The example that the page on the format ends with.
fn example() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report-json.md");
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    serde_json::from_str(block.expect("the page has an example")).unwrap()
}

/// Two contenders and ten runs. fifo's switches take `factor` times as long as they would.
fn measured(factor: f64) -> Value {
    let mut report = example();
    let cell = |contender: &str, round: u64, value: f64| {
        json!({ "contender": contender, "workload": "pipe", "cpus": 4, "round": round, "seed": 1 + round,
                "values": { "per_switch": value }, "histograms": {} })
    };
    // The runs vary a little, as runs do.
    let noise = |round: u64| (round * 7 % 10) as f64;
    let cells = (0..10).flat_map(|round| {
        let fifo = factor * (1500.0 + noise(round));
        [cell("kernel", round, 1400.0 + noise(round + 3)), cell("fifo", round, fifo)]
    });
    report["cells"] = cells.collect();
    report["failures"] = json!([]);
    report
}

/// A `scripts/vm` whose machine dies before it measures, and notes what it was asked for.
fn dying_machine(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let script = dir.join("vm");
    let asked = dir.join("asked");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >>{}\necho 'vm: error: the guest died' >&2\nexit 125\n",
        asked.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn a_machine_that_dies_before_it_measures_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["compare", "--policies", "eevdf", "--workloads", "pipe", "--deterministic", "--seeds", "1"];
    let mut bench = scx_bench();
    bench.current_dir(&dir).env("SCX_VM_SCRIPT", dying_machine(dir.path())).args(args);
    bench.assert().code(1).stderr(
        contains("trying once more")
            .count(2)
            .and(contains("nothing was measured: the measuring ended early"))
            .and(contains("the guest died")),
    );
    let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
    let attempts: Vec<bool> =
        asked.lines().map(|line| line.contains("--append scx_bench.attempt=")).collect();
    assert_eq!(attempts, [false, true, true], "each but the first boots a little differently");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_of_ours() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_scx_bench"))
        .arg("list")
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert_eq!(said, "");
}
