// SPDX-License-Identifier: GPL-2.0-only
//! layers: tasks are assigned as the rules say, and stay where their layer may be. Shares are measured in deterministic
//! mode.

use std::collections::BTreeMap;

use framework::control::SwapRequest;
use framework::policy::ConfigFile;
use framework::swap::Via;

use super::*;
use crate::support::cgroups::hogs_in;

/// Three layers of threads whose names begin alike; two of them share a CPU.
const CONFINED: &str = r#"
[[layer]]
name = "left"
match = [{ comm = "left*" }]
cpus = "0-1"

[[layer]]
name = "both"
match = [{ comm = "both*" }]
cpus = "1-2"
share = 300
slice = "1ms"
preempt = true

[[layer]]
name = "right"
match = [{ comm = "right*" }]
cpus = "3"
exclusive = true
"#;
/// Their CPUs; those of everybody else are 0 to 2.
const ALLOWED: [(&str, &[usize]); 3] = [("left", &[0, 1]), ("both", &[1, 2]), ("right", &[3])];

/// Threads of each layer that do all that makes a scheduler work, twice as many as there are CPUs.
fn mixed_load(load: &mut Threads) {
    for (prefix, _) in ALLOWED {
        for n in 0..3 {
            load.hog(&format!("{prefix}-hog{n}"), None);
        }
        load.add(&format!("{prefix}-nap"), None, || {
            thread::sleep(Duration::from_micros(300));
            (0..20).for_each(|_| spin());
        });
        load.add(&format!("{prefix}-yield"), None, || {
            spin();
            thread::yield_now();
        });
        let (ping, pings) = channel();
        load.add(&format!("{prefix}-ping"), None, move || {
            spin();
            let _ = ping.send(());
            thread::sleep(Duration::from_micros(200));
        });
        load.add(&format!("{prefix}-pong"), None, move || {
            let _ = pings.recv_timeout(Duration::from_millis(10));
            spin();
        });
    }
}

/// Times that threads of a layer were on each CPU, seen where they came or left.
fn places(lines: &[String]) -> BTreeMap<(&'static str, usize), usize> {
    let mut places = BTreeMap::new();
    for line in lines.iter().filter(|line| line.contains("sched_switch:")) {
        let (cpu, _) = place(line).expect("a CPU and a time");
        for key in ["prev_comm", "next_comm"] {
            let name = field(line, key).expect("a name");
            if let Some((prefix, _)) = ALLOWED.iter().find(|(prefix, _)| name.starts_with(prefix)) {
                *places.entry((*prefix, cpu)).or_default() += 1;
            }
        }
    }
    places
}

/// Those of them that are not allowed.
fn foreign(places: &BTreeMap<(&'static str, usize), usize>) -> usize {
    let allowed = |prefix, cpu| ALLOWED.iter().any(|(name, cpus)| *name == prefix && cpus.contains(cpu));
    places.iter().filter(|((prefix, cpu), _)| !allowed(*prefix, cpu)).map(|(_, times)| times).sum()
}

/// Traces the load for a while.
fn traced(load: &Threads) -> BTreeMap<(&'static str, usize), usize> {
    let trace = Trace::start(&["sched_switch"]).short(512);
    for _ in 0..4 {
        load.assert_all_progress();
        thread::sleep(Duration::from_millis(200));
    }
    let places = places(&trace.stop());
    println!("{places:?}");
    places
}

fn assert_confined(load: &Threads) {
    let places = traced(load);
    assert_eq!(foreign(&places), 0, "{places:?}");
    for (prefix, cpus) in ALLOWED {
        assert!(cpus.iter().all(|cpu| places.contains_key(&(prefix, *cpu))), "{prefix}: {places:?}");
    }
    assert!(places.values().sum::<usize>() > 100, "{places:?}");
}

/// A configuration, as a file.
fn file(text: &str) -> String {
    let path = std::env::temp_dir().join("layers.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A swap to layers with these rules.
fn with(text: &str) -> SwapRequest {
    SwapRequest {
        config: Some(ConfigFile { path: "layers.toml".into(), text: text.into() }),
        ..request("layers")
    }
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_stay_on_their_cpus() {
    let confined = file(CONFINED);
    let stress = || {
        Background::start(
            "stress-ng",
            &["--switch", "1", "--fork", "1", "--affinity", "1", "--timeout", "1h"],
        )
    };
    let running = Running::start(&["--policy", "layers", "--config", &confined, "--stats", "0", "--direct"]);
    let (mut load, stressed) = (Threads::new(), stress());
    mixed_load(&mut load);
    load.assert_all_progress();
    assert_confined(&load);
    drop((load, stressed));
    assert!(running.stop().0.success());

    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    let (mut load, mut stressed) = (Threads::new(), stress());
    mixed_load(&mut load);
    load.assert_all_progress();
    assert!(foreign(&traced(&load)) > 0, "what is measured would be seen");
    // Rules come, and others after them.
    swap(&with("")).unwrap();
    assert!(foreign(&traced(&load)) > 0, "without rules all may run anywhere");
    swap(&with(CONFINED)).unwrap();
    // Those that were running have to leave.
    thread::sleep(Duration::from_millis(500));
    assert_confined(&load);
    println!("{:?}", status().slots[0].counts);
    stressed.assert_running();
    drop(load);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_lose_nobody_while_their_cpus_are_offline() {
    let confined = file(CONFINED);
    let args = ["--policy", "layers", "--config", &confined, "--stats", "0", "--timeout", "10s"];
    let running = Running::start(&args);
    let mut load = Threads::new();
    mixed_load(&mut load);
    // Who may run on no CPU of his layer runs where he may.
    load.hog("right-elsewhere", Some(0));
    load.hog("left-elsewhere", Some(3));
    load.add_after("both-edge", Some(2), || allow(2, 3), spin);
    load.assert_all_progress();
    for _ in 0..2 {
        let third = Offline::take(3);
        load.assert_all_progress();
        let second = Offline::take(2);
        load.assert_all_progress();
        drop(third);
        load.assert_all_progress();
        // One comes back under another policy.
        swap(&request("fifo")).unwrap();
        drop(second);
        swap(&with(CONFINED)).unwrap();
        load.assert_all_progress();
    }
    drop(load);
    let mut load = Threads::new();
    mixed_load(&mut load);
    load.assert_all_progress();
    thread::sleep(Duration::from_millis(500));
    assert_confined(&load);
    drop(load);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
}

/// Where a thread was seen last, and how often on that CPU since it came there.
#[derive(Default)]
struct Seen(AtomicU64);

impl Seen {
    fn look(&self) {
        // SAFETY: sched_getcpu has no preconditions.
        let cpu = unsafe { libc::sched_getcpu() } as u64;
        let last = self.0.load(Ordering::Relaxed);
        let stays = if last >> 32 == cpu { (last & 0xffff_ffff) + 1 } else { 0 };
        self.0.store(cpu << 32 | stays.min(0xffff_ffff), Ordering::Relaxed);
    }

    fn forget(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether it stays on the CPU of the layer.
    fn is_there(&self) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        seen >> 32 == 3 && seen & 0xffff_ffff > 1000
    }

    fn is_elsewhere(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> 32 < 3
    }
}

/// Fails if a thread is not on the layer's CPU once it has done what a condition asks for, or was before, or if another
/// comes there.
fn condition_counts(condition: &str, becomes: impl FnOnce() + Send + 'static) {
    let text = format!("[[layer]]\nname = 'x'\nmatch = [{{ {condition} }}]\ncpus = '3'\nexclusive = true\n");
    swap(&with(&text)).unwrap();
    let mut load = Threads::new();
    let seen = [(); 2].map(|()| Arc::<Seen>::default());
    let (go, gone) = channel::<()>();
    let mut becomes = Some(becomes);
    let [one, other] = seen.clone();
    load.add("one", None, move || {
        if becomes.is_some() && gone.try_recv().is_ok() {
            becomes.take().expect("it has not been done")();
        }
        spin();
        one.look();
    });
    load.add("other", None, move || {
        spin();
        other.look();
    });
    load.assert_all_progress();
    thread::sleep(Duration::from_millis(200));
    seen.iter().for_each(|seen| seen.forget());
    load.assert_all_progress();
    eventually("both are elsewhere", || seen.iter().all(|seen| seen.is_elsewhere()));
    go.send(()).unwrap();
    eventually(&format!("{condition}: the one is there"), || seen[0].is_there());
    load.assert_all_progress();
    assert!(seen[0].is_there() && seen[1].is_elsewhere(), "{condition}");
}

fn tid() -> String {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }.to_string()
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_are_assigned_by_each_kind_of_condition_also_to_tasks_that_change() {
    let running = Running::start(&["--policy", "fifo", "--stats", "0"]);
    condition_counts("comm = 'chang*'", || fs::write("/proc/thread-self/comm", "changed").unwrap());
    condition_counts("comm = 'changed'", || fs::write("/proc/thread-self/comm", "changed").unwrap());
    condition_counts("nice_above = 4, nice_below = 6", || nice(5));
    condition_counts("nice_below = 0", || nice(-1));
    condition_counts("cgroup = 'layers-*'", || enter("layers-one", 100));
    condition_counts("cgroup = '/sys/fs/cgroup/layers-two/'", || enter("layers-two", 100));
    condition_counts("uid = 4711", || {
        // Not setuid(), which would change all threads.
        // SAFETY: plain integers.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 4711, -1) }, 0);
    });
    condition_counts("hint = 'batch'", || {
        assert!(scx_run(&["hint", "--pid", &tid(), "class=batch"]).status.success());
    });
    condition_counts("hint = 'latency', comm = 'one'", || {
        assert!(scx_run(&["hint", "--pid", &tid(), "class=latency"]).status.success());
    });
    assert!(running.stop().0.success());
}

/// Whether each process in a cgroup was last on CPU 3.
fn are_there(cgroup: &str) -> bool {
    let pids = fs::read_to_string(format!("/sys/fs/cgroup/{cgroup}/cgroup.procs")).unwrap();
    let on_3 = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
        // Field 39 of the line, 37 after the name; a shell that waits does not count.
        fields.is_some_and(|fields| fields[0] != "R" || fields[36] == "3")
    };
    !pids.is_empty() && pids.lines().all(on_3)
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_find_cgroups_that_come_later_and_processes_by_their_threads() {
    let text = "[[layer]]\nname = 'x'\ncpus = '3'\nexclusive = true\n\
                match = [{ cgroup = 'later/app-*' }, { comm = 'crowd*', threads_above = 40 }]\n";
    let rules = file(text);
    let running = Running::start(&["--policy", "layers", "--config", &rules, "--stats", "0"]);
    for path in ["later/app-1", "later/app-2/deep/er", "later/other"] {
        fs::create_dir_all(format!("/sys/fs/cgroup/{path}")).unwrap();
    }
    let hogs = ["later/app-1", "later/app-2/deep/er", "later/other", "later"].map(|path| hogs_in(path, 4));
    for path in ["later/app-1", "later/app-2/deep/er"] {
        eventually(&format!("{path} is there"), || are_there(path));
    }
    for _ in 0..20 {
        assert!(are_there("later/app-1") && are_there("later/app-2/deep/er"));
        assert!(!are_there("later/other") && !are_there("later"), "three CPUs for eight");
        thread::sleep(Duration::from_millis(20));
    }
    drop(hogs);

    let mut load = Threads::new();
    let seen = Arc::<Seen>::default();
    let one = seen.clone();
    load.add("crowd", None, move || {
        spin();
        one.look();
    });
    load.assert_all_progress();
    assert!(seen.is_elsewhere(), "a process of few threads");
    for n in 0..40 {
        load.add(&format!("sleeper{n}"), None, || thread::sleep(Duration::from_millis(50)));
    }
    eventually("a process of many threads", || seen.is_there());
    drop(load);
    assert!(running.stop().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_that_preempt_take_the_cpu_at_once() {
    pin(0);
    let rules = |preempt| {
        format!(
            "[[layer]]\nname = 'x'\nmatch = [{{ comm = 'sleeper' }}]\npreempt = {preempt}\nshare = 1000\n\
             [[layer]]\nname = 'rest'\nslice = '100ms'\n"
        )
    };
    let preempting = file(&rules(true));
    let _running = Running::start(&["--policy", "layers", "--config", &preempting, "--stats", "0"]);
    sleeper_takes_the_cpu_of_a_hog(Duration::from_millis(100), || ());
    assert!(status().slots[0].counts["preempted"] >= 100);
    swap(&with(&rules(false))).unwrap();
    let mut load = Threads::new();
    load.hog("hog", Some(CPU));
    load.add("sleeper", Some(CPU), || thread::sleep(Duration::from_millis(1)));
    load.assert_all_progress();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(status().slots.iter().find(|slot| slot.role == "active").unwrap().policy.name, "layers");
    let counts = status().slots.into_iter().find(|slot| slot.role == "active").unwrap().counts;
    assert_eq!(counts["preempted"], 0, "{counts:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_of_little_share_wait_no_longer_than_the_kernel_allows() {
    // By its share alone each of the poor would run about once in a minute.
    let text = "[[layer]]\nname = 'poor'\nmatch = [{ comm = 'poor*' }]\ncpus = '1'\nshare = 1\n\
                [[layer]]\nname = 'rich'\nmatch = [{ comm = 'rich' }]\ncpus = '1'\nshare = 1000\n";
    let rules = file(text);
    let running =
        Running::start(&["--policy", "layers", "--config", &rules, "--stats", "0", "--timeout", "15s"]);
    let mut load = Threads::new();
    let times = [(); 13].map(|()| Arc::<AtomicU64>::default());
    for (n, time) in times.iter().enumerate() {
        let time = time.clone();
        let name = if n == 0 { "rich".into() } else { format!("poor{n}") };
        load.add(&name, None, move || {
            spin();
            time.store(cpu_time(), Ordering::Relaxed);
        });
    }
    let ran = || times.each_ref().map(|time| time.load(Ordering::Relaxed));
    let before = ran();
    thread::sleep(Duration::from_secs(30));
    let ran: Vec<_> = ran().iter().zip(before).map(|(now, before)| now - before).collect();
    println!("{ran:?}");
    load.assert_all_progress();
    drop(load);
    let (end, _, errors) = running.stop();
    assert!(end.success(), "{errors}");
    assert!(ran[0] > 2 * ran[1..].iter().sum::<u64>(), "the share counts all the same: {ran:?}");
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_keep_their_rules_when_others_take_over() {
    let confined = file(CONFINED);
    let first = Running::start(&["--policy", "layers", "--config", &confined, "--stats", "0"]);
    let cleanup = StopWhoever;
    let mut load = Threads::new();
    mixed_load(&mut load);
    load.assert_all_progress();
    let rules =
        |status: &framework::report::Status| status.slots[0].policy.config.clone().map(|file| file.text);
    assert_eq!(rules(&status()).as_deref(), Some(CONFINED));
    upgrade().unwrap();
    assert_eq!(rules(&status()).as_deref(), Some(CONFINED));
    assert_confined(&load);
    // What comes after is made from what was handed over: here the old policy is loaded anew.
    let same = with(CONFINED);
    swap(&SwapRequest { via: Via::Reload, ..same }).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_confined(&load);
    let said = stdout(&scx_run(&["status"]));
    assert!(said.contains("layers (config layers.toml, slice_us=5000)"), "{said}");
    drop(load);
    drop(cleanup);
    assert!(first.wait().0.success());
}

#[test]
#[ignore = "needs sched_ext: scripts/test runs it in a VM"]
fn layers_refuse_rules_that_are_wrong_and_go_on() {
    let confined = file(CONFINED);
    let running = Running::start(&["--policy", "layers", "--config", &confined, "--stats", "0"]);
    let epoch = status().slots[0].policy.epoch;
    for (request, says) in [
        (
            with("[[layer]]\nname = 'x'\ncpus = '9'\n"),
            "layers.toml: line 1: layer \"x\": there is no CPU 9 here",
        ),
        (with("[[layer]]\nnam = 'x'\n"), "layers.toml: line 2: unknown field `nam`"),
        (
            SwapRequest { policy: "fifo".into(), ..with("") },
            "fifo takes no configuration file: leave out --config",
        ),
    ] {
        for via in [Via::Slots, Via::Reload] {
            let error = swap(&SwapRequest { via, ..request.clone() }).unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
        let slots = status().slots;
        assert_eq!((slots.len(), slots[0].policy.epoch), (1, epoch));
    }
    // The file is read where the command is given, and again each time: the same name may be other rules.
    let changed = file("[[layer]]\nname = 'all'\nshare = 200\n");
    assert!(scx_run(&["swap", "layers", "--config", &changed]).status.success());
    let slots = status().slots;
    let text = |role: &str| {
        let slot = slots.iter().find(|slot| slot.role == role).unwrap();
        slot.policy.config.clone().unwrap().text
    };
    assert_eq!((text("held").as_str(), text("active").contains("200")), (CONFINED, true));
    file(CONFINED);
    assert!(scx_run(&["swap", "layers", "--config", &changed]).status.success());
    let slots = status().slots;
    assert_eq!(slots.iter().find(|slot| slot.role == "active").unwrap().policy.epoch, epoch, "it was held");
    assert!(running.stop().0.success());
}
