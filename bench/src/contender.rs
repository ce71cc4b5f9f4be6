// SPDX-License-Identifier: GPL-2.0-only
//! Contenders: what schedules the machine while it is measured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::programs::{find_program, scx_run};

/// A scheduler to measure, with the name that it has in reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Name in reports.
    pub label: String,
    /// How it comes to schedule the machine.
    pub scheduler: Scheduler,
}

/// How a contender comes to schedule the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduler {
    /// The kernel's default: nothing is attached.
    Eevdf,
    /// A policy through our root scheduler; direct: attached by itself.
    Policy {
        /// Name of a built-in policy, or path of an object.
        policy: String,
        /// Without the root.
        direct: bool,
    },
    /// Any scheduler's program, which attaches itself and detaches on SIGINT.
    Command(Vec<String>),
}

impl FromStr for Contender {
    type Err = anyhow::Error;

    /// Reads `[LABEL=]eevdf|POLICY|direct:POLICY|cmd:COMMAND`.
    fn from_str(text: &str) -> Result<Self> {
        let (label, rest) = match text.split_once('=') {
            // An equals sign further on belongs to a command's arguments.
            Some((label, rest)) if is_label(label) => (label, rest),
            _ => (text, text),
        };
        let scheduler = match rest.split_once(':') {
            _ if rest == "eevdf" => Scheduler::Eevdf,
            Some(("cmd", command)) => Scheduler::Command(words(command)?),
            Some(("direct", policy)) => Scheduler::Policy { policy: policy.into(), direct: true },
            _ => Scheduler::Policy { policy: rest.into(), direct: false },
        };
        Ok(Contender { label: label.into(), scheduler })
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c))
}

fn words(command: &str) -> Result<Vec<String>> {
    let words = shlex::split(command).with_context(|| format!("the quotes in {command:?} do not match"))?;
    if words.is_empty() {
        bail!("cmd: wants a command, such as 'cmd:scx_bpfland -s 5000'");
    }
    Ok(words)
}

/// Reads a list of contenders: separated by commas, a comma of a command's own written `\,`.
pub fn parse_list(texts: &[String]) -> Result<Vec<Contender>> {
    let mut contenders: Vec<Contender> = Vec::new();
    for item in texts.iter().flat_map(|text| split_list(text)) {
        let contender: Contender = item.parse()?;
        if contenders.iter().any(|other| other.label == contender.label) {
            bail!(
                "contender {:?} is there twice; give one another name, such as again={}",
                contender.label,
                item
            );
        }
        contenders.push(contender);
    }
    if contenders.is_empty() {
        bail!("no contender; name some, such as --policies eevdf,fifo");
    }
    Ok(contenders)
}

fn split_list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&',') => items.last_mut().expect("never empty").extend(chars.next()),
            ',' => items.push(String::new()),
            c => items.last_mut().expect("never empty").push(c),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Contender {
    /// The command that has to run for it, if any.
    pub fn command(&self) -> Result<Option<Vec<String>>> {
        Ok(match &self.scheduler {
            Scheduler::Eevdf => None,
            Scheduler::Command(words) => Some(words.clone()),
            Scheduler::Policy { policy, direct } => {
                let mut words = vec![scx_run()?.display().to_string()];
                words.extend(["--policy", policy, "--no-latency", "--stats", "0"].map(str::to_owned));
                if *direct {
                    words.push("--direct".into());
                }
                Some(words)
            }
        })
    }

    /// Whether it can be found here, before anything is measured. `policies` are the built-in ones.
    pub fn check(&self, policies: &[String]) -> Result<()> {
        match &self.scheduler {
            Scheduler::Eevdf => Ok(()),
            Scheduler::Command(words) => {
                find_program(&words[0]).map(drop).ok_or_else(|| anyhow!("there is no program {:?}", words[0]))
            }
            Scheduler::Policy { policy, .. } if policies.contains(policy) => Ok(()),
            Scheduler::Policy { policy, .. } if is_path(policy) => {
                if !Path::new(policy).is_file() {
                    bail!("there is no file {policy:?}");
                }
                Ok(())
            }
            Scheduler::Policy { policy, .. } => bail!(
                "no contender {policy:?}: it is eevdf, a policy ({}), a .bpf.o, direct:POLICY or 'cmd:COMMAND'",
                policies.join(", ")
            ),
        }
    }

    /// The same with absolute paths: it may be run from elsewhere.
    pub fn absolute(mut self) -> Result<Self> {
        match &mut self.scheduler {
            Scheduler::Policy { policy, .. } if is_path(policy) => {
                *policy = std::path::absolute(&*policy)?.display().to_string();
            }
            Scheduler::Command(words) => {
                if let Some(program) = find_program(&words[0]) {
                    words[0] = std::path::absolute(program)?.display().to_string();
                }
            }
            _ => {}
        }
        Ok(self)
    }

    /// Files that it needs, to be taken into a virtual machine.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.scheduler {
            Scheduler::Eevdf => Vec::new(),
            Scheduler::Policy { policy, .. } if is_path(policy) => vec![policy.into()],
            Scheduler::Policy { .. } => Vec::new(),
            // An argument that is a file is one that the program reads, such as its configuration.
            Scheduler::Command(words) => {
                words.iter().map(PathBuf::from).filter(|file| file.is_file()).collect()
            }
        }
    }
}

fn is_path(policy: &str) -> bool {
    policy.contains('/') || policy.ends_with(".o")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<Contender>> {
        parse_list(&[text.into()])
    }

    #[test]
    fn every_kind_is_read() {
        let contenders = list(r"eevdf,fifo,direct:fifo,again=fifo,cmd:scx_bpfland -s 5000 --x=a\,b").unwrap();
        let labels: Vec<_> = contenders.iter().map(|contender| contender.label.as_str()).collect();
        assert_eq!(labels, ["eevdf", "fifo", "direct:fifo", "again", "cmd:scx_bpfland -s 5000 --x=a,b"]);
        assert_eq!(contenders[0].scheduler, Scheduler::Eevdf);
        assert_eq!(contenders[2].scheduler, Scheduler::Policy { policy: "fifo".into(), direct: true });
        assert_eq!(contenders[3].scheduler, Scheduler::Policy { policy: "fifo".into(), direct: false });
        let Scheduler::Command(words) = &contenders[4].scheduler else { panic!() };
        assert_eq!(words, &["scx_bpfland", "-s", "5000", "--x=a,b"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(list("fifo,fifo").unwrap_err().to_string().contains("twice"));
        assert!(list("").unwrap_err().to_string().contains("no contender"));
        assert!(list("cmd:").unwrap_err().to_string().contains("wants a command"));
        assert!(list("cmd:a 'b").unwrap_err().to_string().contains("quotes"));
        let check = |text: &str| list(text).unwrap()[0].check(&["fifo".into()]).unwrap_err().to_string();
        assert!(check("fifoo").contains("(fifo)"), "{}", check("fifoo"));
        assert!(check("./no.bpf.o").contains("no file"));
        assert!(check("cmd:no-such-program").contains("no program"));
    }
}
