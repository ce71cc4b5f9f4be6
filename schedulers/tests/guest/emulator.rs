// SPDX-License-Identifier: GPL-2.0-only
//! What the machine under the tests has to do right, see scripts/qemu.

use std::arch::asm;

#[repr(align(16))]
struct Pair([u64; 2]);

/// Flags that arithmetic changes, the one that is always set, and that of interrupts.
const USUAL: u64 = 0xad7;

/// QEMU before 8 takes an operand of the addition for flags.
#[test]
#[ignore = "it is about the VM"]
fn cmpxchg16b_leaves_sound_flags() {
    let mut pair = Pair([0, 0]);
    for n in 0_u64..10_000 {
        let (low, high) = (pair.0[0], pair.0[1]);
        let flags: u64;
        // SAFETY: it writes to `pair` and to registers that are named or put back.
        unsafe {
            asm!(
                "mov r8, rbx",
                "mov rbx, r9",
                // From here on the state of flags is that they were computed.
                "pushfq",
                "popfq",
                "jmp 2f",
                "2: add r10, r11",
                "cmpxchg16b [rsi]",
                "jne 3f",
                "3: pushfq",
                "pop rdi",
                "mov rbx, r8",
                out("r8") _,
                in("r9") low + 1,
                inout("r10") n => _,
                in("r11") n * 0x1234567,
                in("rsi") &raw mut pair,
                out("rdi") flags,
                inout("rax") low => _,
                inout("rdx") high => _,
                in("rcx") high,
            );
        }
        assert_eq!(flags & !USUAL, 0, "flags {flags:#x} after {n}");
    }
    assert_eq!(pair.0, [10_000, 0]);
}
