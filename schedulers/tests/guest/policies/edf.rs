// SPDX-License-Identifier: GPL-2.0-only
//! edf: what holds on several CPUs. That deadlines are met is shown where time is exact, in `guest_deterministic`.

use super::*;

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn edf_starves_nobody_where_admitted_tasks_want_all_of_a_cpu() {
    let running = Running::start(&["--policy", "edf", "--stats", "0", "--no-latency", "--timeout", "15s"]);
    let mut load = Threads::new();
    for _ in 0..3 {
        load.hog("promised", Some(CPU));
    }
    // Each could have it on a CPU of its own.
    let hinted = scx_run(&["hint", "--comm", "promised", "deadline=100ms", "slice=90ms"]);
    assert!(hinted.status.success(), "{}", stderr(&hinted));
    load.assert_all_progress();
    assert_eq!(status().slots[0].counts["refused"], 0);
    load.hog("rest", Some(CPU));
    for _ in 0..3 {
        load.assert_all_progress();
    }
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}
