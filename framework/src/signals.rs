// SPDX-License-Identifier: GPL-2.0-only
//! Being told to end.

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, bounded};

/// SIGINT, SIGTERM and SIGHUP from here on. To be called once.
pub fn listen() -> Result<Receiver<()>> {
    let (sender, signals) = bounded(4);
    ctrlc::set_handler(move || {
        // A full queue means that it has been told already.
        let _ = sender.try_send(());
    })
    .context("handling signals")?;
    Ok(signals)
}

/// A reader of stdout that has seen enough, such as `head`, ends this process, as it does any other Unix program: for
/// commands that only print. Those that run a scheduler have to detach it first.
pub fn end_on_closed_pipe() {
    // SAFETY: no handler is installed, only the default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
