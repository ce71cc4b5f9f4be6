// SPDX-License-Identifier: GPL-2.0-only
//! A CPU that goes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

const LEAVER: usize = 2;

/// The kernel's number for how far the CPU is up.
fn hotplug_state() -> u32 {
    let state = fs::read_to_string(format!("/sys/devices/system/cpu/cpu{LEAVER}/hotplug/state")).unwrap();
    state.trim().parse().unwrap()
}

/// The kernel thread without which no grace period ends gets CPU 3 for some milliseconds now and then.
struct SlowGracePeriods {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl SlowGracePeriods {
    fn begin() -> Self {
        allow_thread(Self::rcu(), 3, 3);
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let body = move || {
            pin(3);
            real_time();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(400) {
                    spin();
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        SlowGracePeriods { stop, thread: Some(thread::spawn(body)) }
    }

    fn rcu() -> libc::pid_t {
        let is_it = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "rcu_preempt")
        };
        let process = fs::read_dir("/proc").unwrap().flatten().find(is_it).expect("preemptible RCU");
        process.file_name().to_string_lossy().parse().unwrap()
    }
}

impl Drop for SlowGracePeriods {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
        allow_thread(Self::rcu(), 0, 3);
    }
}

/// The kernel waits for a grace period in which it asks the CPU for nothing, and only then says that it goes.
#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn who_waits_for_a_cpu_that_is_about_to_go_does_not_wait_until_it_has() {
    // Whoever came to CPU 3 would take what is left of it.
    pin(0);
    for args in [&["fifo_percpu"] as &[&str], &["vtime"], &["interactive"], &["fifo_percpu", "--direct"]] {
        let running = Running::start(&[&["--stats", "0", "--no-latency", "--policy"], args].concat());
        let (mut busy, mut load) = (Threads::new(), Threads::new());
        busy.hog("busy0", Some(0));
        busy.hog("busy1", Some(1));
        load.hog("tied0", Some(LEAVER));
        load.hog("tied1", Some(LEAVER));
        for name in ["free0", "free1"] {
            let mut tied = true;
            load.add(name, Some(LEAVER), move || {
                spin();
                if std::mem::take(&mut tied) {
                    allow(0, 2);
                }
            });
        }
        load.assert_all_progress();

        let up = hotplug_state();
        let slow = SlowGracePeriods::begin();
        let leaver = thread::spawn(|| {
            pin(0);
            Offline::take(LEAVER)
        });
        // The last step but one upwards is the first downwards.
        eventually("the CPU is about to go", || hotplug_state() == up - 2);
        let (start, before) = (Instant::now(), load.progress());
        let mut after = before.clone();
        while hotplug_state() == up - 2 {
            after = load.progress();
            thread::sleep(Duration::from_millis(1));
        }
        let span = start.elapsed();
        drop(slow);
        drop(leaver.join().unwrap());
        println!("{args:?}: {span:?}: {before:?} -> {after:?}");
        assert!(span > Duration::from_millis(100), "{args:?}: nothing is shown within {span:?}");
        assert!(before.iter().zip(&after).all(|(before, after)| after > before), "{args:?}");
        drop((busy, load));
        assert!(running.stop().0.success());
    }
}
