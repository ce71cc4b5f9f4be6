// SPDX-License-Identifier: GPL-2.0-only
//! flatcg: who has used up the budget of a cgroup waits, whatever happens meanwhile. Shares and limits are measured in
//! deterministic mode.

use framework::control::SwapRequest;

use super::*;
use crate::support::cgroups::{hogs_in, limit, usage_of};

/// CPUs that the cgroup uses.
fn used() -> f64 {
    let (start, before) = (Instant::now(), usage_of("capped"));
    thread::sleep(Duration::from_secs(1));
    (usage_of("capped") - before) as f64 / start.elapsed().as_micros() as f64
}

/// Keeps the policies loaded: what is looked at here comes after that.
fn held(policy: &str) -> SwapRequest {
    SwapRequest { hold_ms: 600_000, ..request(policy) }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn flatcg_parks_tasks_while_it_is_in_force_and_loses_none() {
    limit(&[("capped", "20000 100000")]);
    let running = Running::start(&["--policy", "flatcg", "--stats", "0", "--no-latency"]);
    let hogs = hogs_in("capped", 6);
    for _ in 0..3 {
        eventually("the limit holds", || used() < 0.3);
        assert_eq!(swap(&held("fifo")).unwrap().lost, 0);
        eventually("fifo knows no limit", || used() > 0.6);
        assert_eq!(swap(&held("flatcg")).unwrap().lost, 0);
    }
    let offline = Offline::take(3);
    eventually("the limit holds on fewer CPUs", || used() < 0.3);
    let before = usage_of("capped");
    eventually("they get on", || usage_of("capped") > before + 20_000);
    drop(offline);
    eventually("the limit holds on all CPUs", || used() < 0.3);
    // Who is killed while it waits is gone before long.
    drop(hogs);
    eventually("they are gone", || {
        fs::read_to_string("/sys/fs/cgroup/capped/cgroup.procs").unwrap().is_empty()
    });
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn flatcg_keeps_nobody_for_longer_than_the_kernel_allows() {
    // By this limit each task could run about once in 40 s. The kernel ends a scheduler under which one waits so long.
    limit(&[("capped", "1000 1000000")]);
    let running = Running::start(&["--policy", "flatcg", "--stats", "0", "--no-latency", "--timeout", "15s"]);
    let hogs = hogs_in("capped", 10);
    thread::sleep(Duration::from_secs(30));
    assert!(used() < 0.3, "there is a limit");
    drop(hogs);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}
