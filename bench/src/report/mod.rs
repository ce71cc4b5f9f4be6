// SPDX-License-Identifier: GPL-2.0-only
//! A report as files: index.html and report.md for people, report.json and NAME.csv for programs.

mod csv;
mod html;
pub mod json;
mod markdown;
mod numbers;
mod plots;
mod side_by_side;
mod swaps;
mod view;

use std::fs;
use std::io::{Error, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use side_by_side::side_by_side;

use crate::analysis::Document;
use crate::model::Report;
use markdown::Detail;
use view::View;

/// Writes all files of a report into a folder, which is made if need be. Returns what it wrote; the page is first.
///
/// A file is there in whole or not at all: an older one stays until the new one is complete.
pub fn write(dir: &Path, document: &Document) -> Result<Vec<PathBuf>> {
    let view = View::of(document);
    let mut files = vec![
        ("index.html".to_owned(), html::page(&view).into_bytes()),
        ("report.md".to_owned(), markdown::page(&view, Detail::Full).into_bytes()),
        ("report.json".to_owned(), json::text(document)?),
    ];
    files.extend(csv::files(&document.report)?);
    write_files(dir, files)
}

/// Writes a page on several reports into a folder: index.html and report.md. The first contender of the first is
/// the baseline of all.
pub fn write_side_by_side(dir: &Path, reports: Vec<(String, Report)>) -> Result<Vec<PathBuf>> {
    let origins = view::origins(&reports);
    let document = Document::new(side_by_side(reports)?);
    let view = View { origins, ..View::of(&document) };
    write_files(
        dir,
        vec![
            ("index.html".to_owned(), html::page(&view).into_bytes()),
            ("report.md".to_owned(), markdown::page(&view, Detail::Full).into_bytes()),
        ],
    )
}

/// The summary of a report for a terminal.
pub fn to_text(document: &Document) -> String {
    markdown::page(&View::of(document), Detail::Brief)
}

/// Whether a report can be written into a folder: better known before hours are spent on measuring.
pub fn writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let file = tempfile::Builder::new().prefix(".scx_bench-").tempfile_in(dir).map_err(without_path);
    file.map(drop).with_context(|| format!("cannot write into {}", dir.display()))
}

fn write_files(dir: &Path, files: Vec<(String, Vec<u8>)>) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    files
        .into_iter()
        .map(|(name, content)| {
            let path = dir.join(name);
            write_file(dir, &path, &content).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

fn write_file(dir: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".scx_bench-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(without_path)?;
    file.write_all(content).map_err(without_path)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| without_path(e.error))?;
    Ok(())
}

/// tempfile tells the name of its file, which nobody knows, after the cause: only the kind of that remains.
fn without_path(error: Error) -> Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

#[cfg(test)]
mod tests;
