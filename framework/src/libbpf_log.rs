// SPDX-License-Identifier: GPL-2.0-only
//! libbpf's messages, kept until somebody asks: the verifier's log is in them.

use std::sync::Mutex;

use libbpf_rs::{PrintLevel, set_print};

/// Enough for the tail of a verifier log, which is where the reason is.
const KEEP_BYTES: usize = 64 << 10;

static LOG: Mutex<String> = Mutex::new(String::new());

fn keep(_level: PrintLevel, message: String) {
    let Ok(mut log) = LOG.lock() else { return };
    log.push_str(&message);
    if log.len() > KEEP_BYTES {
        let mut cut = log.len() - KEEP_BYTES;
        while !log.is_char_boundary(cut) {
            cut += 1;
        }
        log.drain(..cut);
    }
}

/// Sends libbpf's messages here instead of to stderr. Call once, before any other use of libbpf.
pub fn capture() {
    set_print(Some((PrintLevel::Info, keep)));
}

/// What libbpf said since the last call.
pub(crate) fn take() -> String {
    LOG.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
}
