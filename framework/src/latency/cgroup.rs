// SPDX-License-Identifier: GPL-2.0-only
//! Paths of cgroups by id.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Every cgroup's path below the root by its id, which is the inode number of its directory. Cgroups that
/// cannot be read, or vanish meanwhile, are left out.
pub fn paths() -> HashMap<u64, String> {
    // Where version 1 is mounted as well, version 2 is beside its controllers.
    let unified = Path::new(ROOT).join("unified");
    let root = if unified.is_dir() { unified } else { PathBuf::from(ROOT) };
    let mut paths = HashMap::new();
    let mut todo = vec![root.clone()];
    while let Some(dir) = todo.pop() {
        let Ok(metadata) = fs::metadata(&dir) else { continue };
        let below = dir.strip_prefix(&root).unwrap_or(&dir);
        paths.insert(metadata.ino(), format!("/{}", below.display()));
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        todo.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    paths
}
