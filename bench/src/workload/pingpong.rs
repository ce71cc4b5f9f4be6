// SPDX-License-Identifier: GPL-2.0-only
//! Ping-pong: two threads pass a byte to and fro through pipes. Each round trip is two blocking context switches.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};

use anyhow::{Context as _, Result};

use super::PhaseCell;

/// One side: where it reads and writes.
pub struct Side {
    from: PipeReader,
    to: PipeWriter,
}

/// The two sides: the one that serves and the one that returns.
pub fn pair() -> Result<(Side, Side)> {
    let (ping_in, ping_out) = pipe().context("cannot make a pipe")?;
    let (pong_in, pong_out) = pipe().context("cannot make a pipe")?;
    Ok((Side { from: pong_in, to: ping_out }, Side { from: ping_in, to: pong_out }))
}

impl Side {
    /// Serves until the phase is over, calling `trip` after each round trip. Then it hangs up.
    pub fn serve(mut self, phase: &PhaseCell, mut trip: impl FnMut()) {
        let mut byte = [0];
        while !phase.over() && self.to.write_all(&byte).is_ok() && self.from.read_exact(&mut byte).is_ok() {
            trip();
        }
    }

    /// Returns what comes until the other side hangs up.
    pub fn return_all(mut self) {
        let mut byte = [0];
        while self.from.read_exact(&mut byte).is_ok() && self.to.write_all(&byte).is_ok() {}
    }
}
