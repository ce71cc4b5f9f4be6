// SPDX-License-Identifier: GPL-2.0-only
//! report.json, as `docs/report-json.md` describes it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::analysis::Document;
use crate::model::{Report, SCHEMA};

/// The content of report.json.
pub fn text(document: &Document) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(document).context("cannot express the report as JSON")?;
    text.push(b'\n');
    Ok(text)
}

/// Reads what was measured from a report.json or the folder it is in. What follows from it is worked out anew.
pub fn read(path: &Path) -> Result<Report> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }

    let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let what = || format!("{} is not a report of scx_bench", path.display());
    // First of all the version: another one's fields would only give a puzzling message.
    let version: Version = serde_json::from_slice(&text).with_context(what)?;
    if version.schema != SCHEMA {
        let name = path.display();
        bail!("{name} has format {}, this scx_bench reads format {SCHEMA}: measure again", version.schema);
    }
    serde_json::from_slice(&text).with_context(what)
}
