// SPDX-License-Identifier: GPL-2.0-only
//! Why the kernel refused to load an object, in one line.

use scx_utils::compat;

use crate::libbpf_log;

/// The kernel refused to load a policy.
#[derive(Debug, thiserror::Error)]
#[error("{origin} does not load: {reason}")]
pub struct LoadError {
    /// The policy, as the user called it.
    pub origin: String,
    /// The reason in one line.
    pub reason: String,
    /// All that libbpf and the verifier said.
    pub log: String,
}

/// Makes one line of what libbpf has said since its log was taken last.
pub(crate) fn load_error(origin: &str, error: &dyn std::fmt::Display) -> LoadError {
    let log = libbpf_log::take();
    let malformed = compat::malformed_scx_kfuncs();
    let reason = if malformed.is_empty() {
        verifier_reason(&log).unwrap_or_else(|| format!("{error}: {}", last_line(&log)))
    } else {
        format!(
            "this kernel's BTF describes sched_ext's kfuncs wrongly ({}): it was built with pahole < 1.26; \
             boot another kernel",
            malformed.join(", ")
        )
    };
    LoadError { origin: origin.into(), reason, log }
}

/// The line in which the verifier says what it does not like: the last one before its summary.
fn verifier_reason(log: &str) -> Option<String> {
    let lines: Vec<_> = log.lines().collect();
    let summary = lines.iter().rposition(|line| line.starts_with("processed ") && line.contains(" insns"))?;
    lines[..summary]
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.starts_with(char::is_numeric))
        .map(|line| (*line).trim().to_owned())
}

/// The last line that says something.
pub(super) fn last_line(log: &str) -> &str {
    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_s_reason_is_found() {
        let log = "libbpf: prog 'x': BPF program load failed: -EACCES\n-- BEGIN PROG LOAD LOG --\n\
                   0: R1=ctx() R10=fp0\n0: (79) r1 = *(u64 *)(r1 +0)\nR1 invalid mem access 'scalar'\n\
                   processed 3 insns (limit 1000000)\n-- END PROG LOAD LOG --\n";
        assert_eq!(verifier_reason(log).as_deref(), Some("R1 invalid mem access 'scalar'"));
        assert_eq!(last_line("a\n b \n\n"), "b");
    }
}
