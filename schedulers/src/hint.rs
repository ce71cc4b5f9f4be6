// SPDX-License-Identifier: GPL-2.0-only
//! `scx_run hint`: what tasks need, told to the policies of the running scx_run.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use framework::control::{self, Request, Response};
use framework::hints::{Action, Class, Hint, HintRequest, Hinted, Target};
use framework::latency;

use crate::cli::{HintArgs, duration};
use crate::client::nobody;

/// What a hint may say, and how.
const HOW: &str = "deadline=5ms, slice=1ms, class=latency|normal|batch";
/// Shorter ones than this no policy can keep, ns.
const SHORTEST: u64 = 100_000;
const DEADLINES: RangeInclusive<u64> = SHORTEST..=3_600_000_000_000;
const SLICES: RangeInclusive<u64> = SHORTEST..=1_000_000_000;

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
    let comm = args.comm.clone().map(Target::Comm);
    let cgroup = args.cgroup.clone().map(Target::Cgroup);
    pid.or(comm).or(cgroup).unwrap_or(Target::All)
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
    let hint = parse(&args.hint)?;
    if target(args) == Target::All {
        bail!("whose hint is it? say --pid PID, --comm NAME or --cgroup PATH");
    }
    Ok(Action::Set(hint))
}

fn parse(assignments: &[String]) -> Result<Hint> {
    let (mut deadline, mut slice, mut class) = (None, None, None);
    for text in assignments {
        let Some((key, value)) = text.split_once('=') else { bail!("{text:?} is no hint: use {HOW}") };
        let twice = match key {
            "deadline" => deadline.replace(time(key, value, &DEADLINES)?).is_some(),
            "slice" => slice.replace(time(key, value, &SLICES)?).is_some(),
            "class" => class.replace(class_of(value)?).is_some(),
            _ => bail!("there is no hint {key:?}: use {HOW}"),
        };
        if twice {
            bail!("{key} is given twice");
        }
    }
    Ok(Hint { deadline_ns: deadline, slice_ns: slice, class: class.unwrap_or_default() })
}

fn time(key: &str, value: &str, range: &RangeInclusive<u64>) -> Result<u64> {
    let ns = duration(value).with_context(|| key.to_owned())?.as_nanos();
    let ns = u64::try_from(ns).unwrap_or(u64::MAX);
    if !range.contains(&ns) {
        let [least, most] = [*range.start(), *range.end()].map(text);
        bail!("{key}={value} is out of range: {least} to {most}");
    }
    Ok(ns)
}

/// A bound as one would write it.
fn text(ns: u64) -> String {
    match ns / 1_000_000_000 {
        0 => format!("{}us", ns / 1000),
        3600 => "1h".into(),
        s => format!("{s}s"),
    }
}

fn class_of(value: &str) -> Result<Class> {
    Ok(match value {
        "latency" => Class::Latency,
        "normal" => Class::Normal,
        "batch" => Class::Batch,
        _ => bail!("there is no class {value:?}: use latency, normal or batch"),
    })
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
    for Hinted { pid, tgid, comm, hint } in hinted {
        let _ = writeln!(text, "{pid:>8}  {comm:<16}of {tgid:<8}  {}", describe(hint));
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

    fn parsed(text: &str) -> Result<Hint, String> {
        let assignments: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        parse(&assignments).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn hints_are_read() {
        let hint = parsed("class=latency deadline=5ms slice=100us").unwrap();
        let expected = Hint { deadline_ns: Some(5_000_000), slice_ns: Some(100_000), class: Class::Latency };
        assert_eq!(hint, expected);
        assert_eq!(describe(&hint), "deadline 5.00 ms, slice 100 us, class latency");
        assert_eq!(parsed("deadline=1h").unwrap().deadline_ns, Some(3_600_000_000_000));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("deadline", "is no hint: use deadline=5ms"),
            ("deadlin=5ms", "there is no hint \"deadlin\""),
            ("deadline=soon", "deadline: \"soon\" is no duration"),
            ("slice=5weeks", "slice: unknown unit \"weeks\""),
            ("slice=0", "slice=0 is out of range: 100us to 1s"),
            ("deadline=2h", "deadline=2h is out of range: 100us to 1h"),
            ("class=rt", "use latency, normal or batch"),
            ("slice=1ms slice=2ms", "slice is given twice"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
