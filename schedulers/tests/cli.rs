// SPDX-License-Identifier: GPL-2.0-only
//! Mistakes on the command line: one clear line, an exit code other than 0. Needs no kernel.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn scx_run(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("scx_run").unwrap().env("SCX_RUN_DIR", "/nonexistent/scx_run").args(args).assert()
}

/// One line that says this, and failure.
fn refused(args: &[&str], says: &str) {
    scx_run(args)
        .failure()
        .stderr(contains(says).and(predicate::function(|text: &str| text.trim_end().lines().count() == 1)));
}

#[test]
fn policies_that_cannot_be() {
    refused(&["--policy", "fifa"], "there is no policy \"fifa\"; built in are ");
    refused(&["--policy", "./none.bpf.o"], "No such file or directory");
    refused(&["--policy", "./Cargo.toml"], "is no BPF object");
    refused(&["check", "fifa"], "built in are");
}

#[test]
fn nobody_to_talk_to() {
    refused(&["swap", "vtime"], "no scx_run is running; start one with: scx_run --policy vtime");
    scx_run(&["status"]).success().stdout(contains("scx_run    not running"));
}

#[test]
fn upgrades_that_cannot_be() {
    refused(&["upgrade"], "no scx_run is running; start one with: scx_run --policy NAME");
    refused(
        &["upgrade", "--binary", "/no/such"],
        "cannot run /no/such; --binary takes the path of a scx_run",
    );
    refused(&["upgrade", "--binary", "/"], "cannot run /; --binary takes");
    refused(&["upgrade", "--binary", "/bin/true"], "/bin/true is no scx_run (its --version does not say so)");
    refused(&["stop"], "there is nothing to stop: no scx_run is running, and no scheduler was kept");
    refused(&["--take-over"], "there is no scheduler to take over; start one with: scx_run --policy NAME");
    refused(
        &["--policy", "fifo", "--keep", "--direct"],
        "--keep needs the root scheduler; leave out --direct",
    );
    for fixed in
        [&["--policy", "fifo"][..], &["--param", "slice_us=5000"], &["--partial"], &["--ops", "tick"]]
    {
        scx_run(&[&["--take-over"], fixed].concat()).failure().stderr(contains("cannot be used with"));
    }
}

#[test]
fn hints_that_cannot_be() {
    let me = &std::process::id().to_string();
    refused(
        &["hint", "--pid", me, "deadline=5ms"],
        "no scx_run is running; start one with: scx_run --policy agent_edf",
    );
    refused(&["hint", "--list"], "no scx_run is running; start one with: scx_run --policy agent_edf");
    refused(&["hint", "--clear"], "no scx_run is running; start one with: scx_run --policy agent_edf");
    refused(&["hint", "--pid", "2147483647", "deadline=5ms"], "there is no task with the id 2147483647");
    refused(&["hint", "--comm", "nobody-at-all", "slice=1ms"], "no thread is called \"nobody-at-all\"");
    refused(&["hint", "--cgroup", "/no/such", "slice=1ms"], "no thread is in a cgroup \"/no/such\"");
    refused(
        &["hint", "--pid", me, "deadline=soon"],
        "deadline: \"soon\" is no duration, such as 30s or 500ms",
    );
    refused(&["hint", "--pid", me, "slice=5"], "slice=5 is out of range: 100us to 1s");
    refused(&["hint", "--pid", me, "class=rt"], "there is no class \"rt\": use latency, normal or batch");
    refused(&["hint", "--pid", me, "nice=5"], "there is no hint \"nice\": use deadline=5ms");
    refused(&["hint", "--pid", me], "there is no hint to give: add deadline=5ms");
    refused(
        &["hint", "deadline=5ms"],
        "whose hint is it? say --pid PID, --process PID, --comm NAME or --cgroup PATH",
    );
    scx_run(&["hint", "--pid", "1", "--comm", "init", "slice=1ms"])
        .failure()
        .stderr(contains("cannot be used"));
    refused(&["hint", "--process", "2147483647", "slice=1ms"], "there is no process with the id 2147483647");
    scx_run(&["hint", "--help"])
        .success()
        .stdout(contains("those that come later, and children").and(contains("SCX_HINT=")));
}

#[test]
fn configurations_that_cannot_be() {
    let path = std::env::temp_dir().join(format!("wrong-{}.toml", std::process::id()));
    std::fs::write(&path, "# a comment\n[[layer]]\nname = \"a\"\ncpu = \"0\"\n").unwrap();
    let wrong = path.to_str().unwrap();
    for command in [&["--policy", "layers"][..], &["check", "layers"], &["swap", "layers"]] {
        let with = |file| [command, &["--config", file]].concat();
        refused(
            &with("/no/such.toml"),
            "cannot read the configuration /no/such.toml: No such file or directory",
        );
    }
    for command in [&["--policy", "layers"][..], &["check", "layers"]] {
        let with = |file| [command, &["--config", file]].concat();
        refused(
            &with(wrong),
            &format!("{wrong}: line 4: unknown field `cpu`, expected one of `name`, `match`"),
        );
    }
    refused(&["check", "fifo", "--config", wrong], "fifo takes no configuration file: leave out --config");
    refused(&["--policy", "vtime", "--config", wrong], "vtime takes no configuration file");
    scx_run(&["--take-over", "--config", wrong]).failure().stderr(contains("cannot be used with"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn options_that_make_no_sense() {
    scx_run(&["--policy", "fifo", "--duration", "soon"]).failure().stderr(contains("is no duration"));
    scx_run(&["--policy", "fifo", "--swap-to", "vtime"]).failure().stderr(contains("NAME@TIME"));
    refused(&["--policy", "fifo", "--timeout", "31s"], "--timeout is at most 30s");
    refused(&["--policy", "fifo", "--ops", "sub_attach"], "run the policy with --direct");
    scx_run(&[]).failure();
    scx_run(&["swap"]).failure().stderr(contains("NAME|PATH"));
}

#[test]
fn list_describes_each_policy_and_parameter() {
    scx_run(&["list"]).success().stdout(
        contains("fifo          one shared queue")
            .and(contains("slice_us    u64 us = 20000 (100 to 1000000)"))
            .and(contains("vtime         weighted fair shares"))
            .and(contains("balance       a fair queue per last-level cache"))
            .and(contains("  --config FILE: TOML: rules that assign tasks to layers")),
    );
    let json = scx_run(&["list", "--json"]).success().get_output().stdout.clone();
    let policies: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let percpu = policies.as_array().unwrap().iter().find(|policy| policy["name"] == "fifo_percpu").unwrap();
    let steal = &percpu["params"][1];
    assert_eq!((steal["name"].as_str(), steal["max"].as_u64()), (Some("steal"), Some(1)));
}

#[test]
fn help_names_every_command() {
    let help = scx_run(&["--help"]).success();
    for command in ["swap", "upgrade", "stop", "status", "list", "check", "doctor", "hint", "demo"] {
        let text = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
        assert!(text.contains(command), "{command}");
    }
}

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_on_policies_shows_a_slow_path_as_it_is() {
    let page = read("../docs/writing-a-policy.md");
    let shown = page.split("```rust\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(read("balance/slow_path.rs").contains(shown), "{shown}");
}

#[test]
fn the_page_on_policies_shows_the_call_that_is_compiled() {
    let page = read("../docs/writing-a-policy.md");
    let shown = page.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let compiled = read("../framework/hint/src/lib.rs").replace("//! ", "");
    assert!(compiled.contains(shown), "{shown}");
}

#[test]
fn the_page_on_policies_shows_requests_that_are_understood() {
    let page = read("../docs/writing-a-policy.md");
    let lines: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `{")?.split_once('`')).collect();
    let lines: Vec<_> = lines.iter().map(|(line, _)| format!("{{{line}")).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in &lines[..3] {
        let request: scx_hint::OwnRequest = serde_json::from_str(line).unwrap();
        request.hint.map(|hint| hint.parse::<scx_hint::Hint>().unwrap());
    }
    for line in &lines[3..] {
        serde_json::from_str::<scx_hint::OwnResponse>(line).unwrap();
    }
    let variable = page.split("SCX_HINT=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    variable.parse::<scx_hint::Hint>().unwrap();
}

#[test]
fn the_page_on_agents_shows_the_policy_as_it_is() {
    let page = read("../docs/writing-an-agent-policy.md");
    let shown = |language: &str| {
        let block = page.split(&format!("```{language}\n")).nth(1).unwrap();
        block.split("```").next().unwrap().trim_end().to_owned()
    };
    let half = read("agent_fifo/mod.rs");
    assert_eq!(shown("c"), read("agent_fifo/agent_fifo.bpf.c").trim_end());
    assert_eq!(shown("rust"), half.split("#[cfg(test)]").next().unwrap().trim_end());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_of_ours() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_scx_run"))
        .arg("list")
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert_eq!(said, "");
}
