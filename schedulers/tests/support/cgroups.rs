// SPDX-License-Identifier: GPL-2.0-only
//! Cgroups: limits, loads and what they have used.

use std::fs;
use std::path::Path;

use super::Background;

/// Writes a file below /sys.
pub fn write(path: String, text: &str) {
    fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// CPU time of a cgroup, us.
pub fn usage_of(path: &str) -> u64 {
    let stat = fs::read_to_string(format!("/sys/fs/cgroup/{path}/cpu.stat")).unwrap();
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    usage.unwrap().parse().unwrap()
}

/// So many processes in a cgroup that never sleep.
pub fn hogs_in(path: &str, count: usize) -> Background {
    let one = "while :; do :; done &".repeat(count);
    let script = format!("echo $$ >/sys/fs/cgroup/{path}/cgroup.procs; {one} wait");
    Background::start("sh", &["-c", &script])
}

/// Makes cgroups with these values of cpu.max.
pub fn limit(cgroups: &[(&str, &str)]) {
    for (path, max) in cgroups {
        let dir = format!("/sys/fs/cgroup/{path}");
        let above = Path::new(&dir).parent().unwrap().display();
        write(format!("{above}/cgroup.subtree_control"), "+cpu");
        fs::create_dir_all(&dir).unwrap();
        write(format!("{dir}/cpu.max"), max);
    }
}
