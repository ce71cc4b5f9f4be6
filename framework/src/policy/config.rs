// SPDX-License-Identifier: GPL-2.0-only
//! Configuration files, for policies that need more said than numbers.
//!
//! `config.rs` in a policy's folder has a function `compile`, a [`Compile`], which makes of the text of such a file
//! the bytes of the constant that `POLICY_CONFIG()` in `bpf/include/policy.bpf.h` has declared. They are part of the
//! object when it is loaded, so a mistake is found before anything has changed, and other rules are another policy in
//! another slot: nothing is ever half changed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The constant.
pub(crate) const CONFIG: &str = "policy_config";
/// Longest text, bytes: that of three policies has to fit in what is pinned ([`crate::pins`]).
const MAX_LEN: usize = 16 << 10;

/// Compiles the text of a configuration file; an empty one is the configuration of a policy that is given none. What is
/// wrong is said in one line, with the number of the file's line.
pub type Compile = fn(text: &str) -> Result<Vec<u8>>;

/// A configuration file, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// What the user called it.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl ConfigFile {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read the configuration {shown}"))?;
        ensure!(
            bytes.len() <= MAX_LEN,
            "the configuration {shown} has {} bytes, {MAX_LEN} are allowed",
            bytes.len()
        );
        let Ok(text) = String::from_utf8(bytes) else { bail!("the configuration {shown} is no text") };
        Ok(ConfigFile { path: shown.to_string(), text })
    }

    /// Compiles it.
    pub(crate) fn compile(&self, compile: Compile) -> Result<Vec<u8>> {
        compile(&self.text).with_context(|| self.path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, bytes: &[u8]) -> String {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        let read = ConfigFile::read(&path);
        fs::remove_file(&path).unwrap();
        format!("{:#}", read.unwrap_err())
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        assert!(message("binary", b"\xff\xfe").ends_with("is no text"));
        assert!(message("long", &[b'#'; MAX_LEN + 1]).ends_with("has 16385 bytes, 16384 are allowed"));
        let missing = format!("{:#}", ConfigFile::read(Path::new("/no/such.toml")).unwrap_err());
        assert!(missing.contains("/no/such.toml") && missing.contains("No such file"), "{missing}");
    }
}
