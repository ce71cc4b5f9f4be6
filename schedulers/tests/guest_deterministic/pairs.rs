// SPDX-License-Identifier: GPL-2.0-only
//! Tasks that wake each other in turns, and so could keep a CPU to themselves, leave others their share.

use super::*;

/// Two threads that pass a byte to and fro. Who waits for the other one gets an end of file when that one ends.
fn add_pair(load: &mut Threads, n: usize) {
    let (mut ping_in, mut ping_out) = std::io::pipe().unwrap();
    let (mut pong_in, mut pong_out) = std::io::pipe().unwrap();
    let (mut ping, mut pong) = ([0], [0]);
    load.add(&format!("ping{n}"), None, move || {
        let _ = ping_out.write_all(&ping).and_then(|()| pong_in.read_exact(&mut ping));
    });
    load.add(&format!("pong{n}"), None, move || {
        let _ = ping_in.read_exact(&mut pong).and_then(|()| pong_out.write_all(&pong));
    });
}

/// What a hog gets of a CPU where there are twice as many pairs as CPUs.
fn part_beside_pairs() -> f64 {
    let mut load = Threads::new();
    (0..8).for_each(|n| add_pair(&mut load, n));
    let run_until = |end: Instant| {
        while Instant::now() < end {
            spin();
        }
    };
    run_until(Instant::now() + Duration::from_millis(500));
    let (before, start) = (cpu_time(), Instant::now());
    run_until(start + Duration::from_secs(1));
    (cpu_time() - before) as f64 / start.elapsed().as_nanos() as f64
}

#[test]
#[ignore = "needs a deterministic VM: scripts/test boots one"]
fn four_cpus_pairs_leave_others_their_share() {
    println!("eevdf: {:.3}", part_beside_pairs());
    for policy in ["interactive", "llc"] {
        let _running = Running::start(&["--policy", policy, "--no-latency", "--stats", "0"]);
        let part = part_beside_pairs();
        println!("{policy}: {part:.3}");
        // Seventeen tasks want four CPUs.
        assert!((0.15..0.6).contains(&part), "{policy}: {part:.3}");
    }
}
