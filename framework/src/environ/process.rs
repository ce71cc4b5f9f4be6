// SPDX-License-Identifier: GPL-2.0-only
//! What /proc says of the environment of a process, by the rules of `bpf/environ.bpf.c`.

use std::fs;

use scx_hint::VARIABLE;

use crate::intf::environ_consts_ENVIRON_TEXT;

/// Room for a value.
const LEN: usize = environ_consts_ENVIRON_TEXT as usize;
// From linux/auxvec.h.
const AT_UID: u64 = 11;
const AT_SECURE: u64 = 23;

/// A value of the variable, as the map of them has it.
pub type Key = [u8; LEN];

/// The value, if the variable is there.
pub fn value_in(environ: &[u8]) -> Option<Key> {
    let value = environ
        .split(|byte| *byte == 0)
        .find_map(|one| one.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    let mut key = [0; LEN];
    let len = value.len().min(LEN - 1);
    key[..len].copy_from_slice(&value[..len]);
    if value.len() >= LEN - 1 {
        key[LEN - 1] = 1;
    }
    Some(key)
}

/// The value as text, if it is one and not too long.
pub fn text_of(key: &Key) -> Result<&str, String> {
    if key[LEN - 1] != 0 {
        return Err(format!("it is too long: at most {} bytes", LEN - 2));
    }
    let len = key.iter().position(|byte| *byte == 0).unwrap_or(LEN);
    str::from_utf8(&key[..len]).map_err(|_| "it is no text".into())
}

/// What a process has in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub value: Key,
    /// Whether it counts.
    pub counts: bool,
    /// Whether it is that of a process of root.
    pub root: bool,
}

/// The value in the environment of a live process, as it was when its program began.
pub fn look(process: i32, user_hints: bool) -> Option<Found> {
    let read = |what: &str| fs::read(format!("/proc/{process}/{what}")).ok();
    let value = value_in(&read("environ")?)?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let counts = counts(&status, &read("auxv")?, user_hints);
    Some(Found { value, counts, root: uids(&status).next() == Some("0") })
}

/// Whether the environment is that of somebody who may hint. `status` is the process as it is now; `auxv` was written when
/// its program began, but can be forged by users, so it can only speak against them.
fn counts(status: &str, auxv: &[u8], user_hints: bool) -> bool {
    let mut uids = uids(status);
    let Some(uid) = uids.next() else { return false };
    if auxv_entry(auxv, AT_SECURE) != Some(0) || uids.any(|other| other != uid) {
        return false;
    }
    // A program that was a user's and has become root's has that user's environment.
    if uid == "0" { auxv_entry(auxv, AT_UID) == Some(0) || user_hints } else { user_hints }
}

/// Real, effective, saved and that for files.
fn uids(status: &str) -> impl Iterator<Item = &str> {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.unwrap_or_default().split_whitespace()
}

fn auxv_entry(auxv: &[u8], wanted: u64) -> Option<u64> {
    let word = |bytes: &[u8]| Some(u64::from_ne_bytes(*bytes.first_chunk()?));
    let mut entries = auxv.chunks_exact(16);
    entries.find_map(|entry| (word(entry)? == wanted).then(|| word(&entry[8..]))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(environ: &[u8]) -> Option<Result<String, String>> {
        value_in(environ).map(|key| text_of(&key).map(str::to_owned))
    }

    #[test]
    fn the_value_is_found() {
        assert_eq!(text(b"A=b\0SCX_HINT=class=batch\0C=d\0"), Some(Ok("class=batch".into())));
        assert_eq!(text(b"SCX_HINT=\0"), Some(Ok(String::new())));
        for none in [&b""[..], b"SCX_HINTS=x\0", b"ASCX_HINT=x\0", b"SCX_HINT\0", b"A=SCX_HINT=x\0"] {
            assert_eq!(text(none), None);
        }
        let of_length = |length| text(&[&b"SCX_HINT="[..], &vec![b'x'; length], b"\0"].concat()).unwrap();
        assert_eq!(of_length(126), Ok("x".repeat(126)));
        for too_long in [127, 128, 5000] {
            assert_eq!(of_length(too_long), Err("it is too long: at most 126 bytes".into()));
        }
        assert_eq!(text(b"SCX_HINT=\xff\0"), Some(Err("it is no text".into())));
    }

    #[test]
    fn this_process_is_looked_at() {
        let me = look(std::process::id() as i32, true);
        assert_eq!(me, None);
        assert_eq!(look(i32::MAX, true), None);
    }

    #[test]
    fn whose_environment_counts() {
        let status = |uids: &str| format!("Name:\tx\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n");
        let auxv = |secure: u64, uid: u64| -> Vec<u8> {
            [6, 4096, AT_UID, uid, AT_SECURE, secure, 0, 0]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect()
        };
        let (root, user, setuid) = (status("0 0 0 0"), status("7 7 7 7"), status("7 0 0 0"));
        for user_hints in [false, true] {
            assert!(counts(&root, &auxv(0, 0), user_hints));
            assert_eq!(counts(&user, &auxv(0, 7), user_hints), user_hints);
            // Root in a user namespace, and whoever says to be root.
            assert_eq!(counts(&user, &auxv(0, 0), user_hints), user_hints);
            assert_eq!(counts(&root, &auxv(0, 7), user_hints), user_hints, "a user's that has become root's");
            assert!(!counts(&setuid, &auxv(1, 7), user_hints));
            assert!(!counts(&setuid, &auxv(0, 0), user_hints));
            assert!(!counts(&root, &auxv(1, 7), user_hints), "it was setuid");
            assert!(!counts(&root, &[], user_hints) && !counts("", &auxv(0, 0), user_hints));
        }
    }
}
