// SPDX-License-Identifier: GPL-2.0-only
//! The work of a request: matrix multiplications under the lock of the CPU.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::workload::PhaseCell;
use crate::workload::sys::this_cpu;

/// Rows and columns.
const SIZE: usize = 32;
/// Multiplications a request, as many as schbench does by default.
const OPERATIONS: u32 = 5;
/// Size of the three matrices, KiB: schbench's option -F.
pub const FOOTPRINT_KIB: usize = 3 * SIZE * SIZE * size_of::<u64>() / 1024;

/// A worker's matrices.
pub struct Matrices {
    factors: [Vec<u64>; 2],
    product: Vec<u64>,
}

impl Default for Matrices {
    fn default() -> Self {
        // What is multiplied does not matter, as long as the compiler does not know it.
        let factor = || hint::black_box(vec![3; SIZE * SIZE]);
        Matrices { factors: [factor(), factor()], product: vec![0; SIZE * SIZE] }
    }
}

impl Matrices {
    /// A request's work.
    pub fn work(&mut self) {
        for _ in 0..OPERATIONS {
            self.multiply();
            hint::black_box(&mut self.product);
        }
    }

    /// Naively: row by column, with the cache misses that come with it.
    fn multiply(&mut self) {
        let [left, right] = &self.factors;
        for (row, entries) in left.chunks_exact(SIZE).zip(self.product.chunks_exact_mut(SIZE)) {
            for (column, entry) in entries.iter_mut().enumerate() {
                let column = right[column..].iter().step_by(SIZE);
                *entry = row.iter().zip(column).fold(0, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(*b)));
            }
        }
    }
}

/// A spin lock for each CPU. Who is preempted while it holds one keeps the next on that CPU spinning: that is
/// how schbench makes preemption cost something.
pub struct CpuLocks(Vec<Lock>);

/// In a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Lock(AtomicBool);

impl CpuLocks {
    /// Locks for as many CPUs as there may be; a CPU's number can be above the number of CPUs.
    pub fn new() -> Self {
        CpuLocks((0..libc::CPU_SETSIZE as usize).map(|_| Lock::default()).collect())
    }

    /// Does `work` under the lock of the CPU that the caller is on when it gets it. Without, if the phase is
    /// over before.
    pub fn locked(&self, phase: &PhaseCell, work: impl FnOnce()) {
        let lock = self.acquire(phase);
        work();
        if let Some(lock) = lock {
            lock.0.store(false, Ordering::Release);
        }
    }

    fn acquire(&self, phase: &PhaseCell) -> Option<&Lock> {
        while !phase.over() {
            let cpu = this_cpu();
            let lock = &self.0[cpu % self.0.len()];
            while lock.0.swap(true, Ordering::Acquire) {
                if phase.over() {
                    return None;
                }
                hint::spin_loop();
            }
            if this_cpu() == cpu {
                return Some(lock);
            }
            // Migrated meanwhile: this is another CPU's lock.
            lock.0.store(false, Ordering::Release);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies() {
        let mut matrices = Matrices::default();
        matrices.work();
        assert!(matrices.product.iter().all(|&entry| entry == 9 * SIZE as u64));
        assert_eq!(FOOTPRINT_KIB, 24);
    }

    #[test]
    fn locks_are_given_back() {
        let (locks, phase) = (CpuLocks::new(), PhaseCell::default());
        locks.locked(&phase, || assert!(locks.0.iter().any(|lock| lock.0.load(Ordering::Relaxed))));
        assert!(!locks.0.iter().any(|lock| lock.0.load(Ordering::Relaxed)));
    }
}
