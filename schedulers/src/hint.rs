// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run hint`: what tasks need, told to the policies of the running scx_run.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use framework::control::{self, Request, Response};
use framework::hints::{Action, Class, HOW, Hint, HintRequest, Hinted, Scope, Target};
use framework::latency;

use crate::cli::HintArgs;
use crate::client::nobody;

pub fn hint(args: &HintArgs) -> Result<ExitCode> {
    let request = HintRequest { target: target(args), action: action(args)? };
    // A mistake is the same mistake whether anybody runs or not.
    request.target.check()?;
    let action = request.action.clone();
    let hinted = match control::call(&control::dir(), &Request::Hint(request))? {
        Some(Response::Hints(hinted)) => hinted,
        Some(Response::Error(message)) => bail!(message),
        Some(_) => bail!("the running scx_run answered another question"),
        None => return Err(nobody("scx_run --policy agent_edf")),
    };
    if args.json {
        println!("{}", serde_json::to_string(&hinted)?);
    } else {
        print!("{}", render(&action, &hinted));
    }
    Ok(ExitCode::SUCCESS)
}

fn target(args: &HintArgs) -> Target {
    let pid = args.pid.map(Target::Pid);
    let process = args.process.map(Target::Process);
    let comm = args.comm.clone().map(Target::Comm);
    let cgroup = args.cgroup.clone().map(Target::Cgroup);
    pid.or(process).or(comm).or(cgroup).unwrap_or(Target::All)
}

fn action(args: &HintArgs) -> Result<Action> {
    if args.list {
        return Ok(Action::List);
    }
    if args.clear {
        return Ok(Action::Clear);
    }
    if args.hint.is_empty() {
        bail!("there is no hint to give: add {HOW}; or say --clear or --list");
    }
    let hint = Hint::parse(args.hint.iter().map(String::as_str))?;
    if target(args) == Target::All {
        bail!("whose hint is it? say --pid PID, --process PID, --comm NAME or --cgroup PATH");
    }
    Ok(Action::Set(hint))
}

fn render(action: &Action, hinted: &[Hinted]) -> String {
    let threads = match hinted.len() {
        1 => "1 thread".into(),
        n => format!("{n} threads"),
    };
    match action {
        Action::Set(hint) => return format!("{threads}: {}\n", describe(hint)),
        Action::Clear => return format!("{threads}: no hint any more\n"),
        Action::List if hinted.is_empty() => return "no thread has a hint\n".into(),
        Action::List => {}
    }
    let mut text = String::new();
    for Hinted { pid, tgid, comm, hint, scope } in hinted {
        let whose = match scope {
            Scope::Thread => "",
            Scope::Process => " (its process)",
            Scope::Environment => " (SCX_HINT)",
        };
        let _ = writeln!(text, "{pid:>8}  {comm:<16}of {tgid:<8}  {}{whose}", describe(hint));
    }
    text
}

fn describe(hint: &Hint) -> String {
    let time = |name, ns: Option<u64>| ns.map(|ns| format!("{name} {}", latency::duration(ns)));
    let class = match hint.class {
        Class::Normal => None,
        Class::Latency => Some("class latency".to_owned()),
        Class::Batch => Some("class batch".to_owned()),
    };
    let said: Vec<_> = [time("deadline", hint.deadline_ns), time("slice", hint.slice_ns), class]
        .into_iter()
        .flatten()
        .collect();
    if said.is_empty() { "class normal".into() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_described() {
        let hint = "class=latency deadline=5ms slice=100us".parse().unwrap();
        assert_eq!(describe(&hint), "deadline 5.00 ms, slice 100 us, class latency");
        assert_eq!(describe(&"class=normal".parse().unwrap()), "class normal");
    }
}
