# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2154,SC2034  # shared with the script that sources this
# How QEMU is called: machine, accelerator, kernel command line.

# Features that TCG lacks are taken off, or QEMU warns about each. The model is
# fixed so that a guest is the same on every host.
tcg_cpu=Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid

qemu_base=(
	-nodefaults -no-user-config -no-reboot -display none
	-M "q35,sata=off,smbus=off,usb=off,hpet=off"
)

# no_timer_check and cryptomgr.notests save a second of boot time. oops=panic
# turns a guest that limps on into one that is seen to have died.
kernel_arguments=(
	console=ttyS0 panic=-1 oops=panic rdinit=/init
	no_timer_check cryptomgr.notests random.trust_cpu=on
	nowatchdog nmi_watchdog=0 nosoftlockup rcupdate.rcu_cpu_stall_suppress=1
	audit=0 mitigations=off tsc=reliable clocksource=tsc
)
# In TCG with one thread the virtual CPUs take turns, and QEMU passes the turn on
# when a timer fires. If all CPUs tick at once, that is once a tick: a CPU is not
# served for several ticks, its tasks run on over the end of their slices, and an
# interrupt from another CPU waits. Ticks at different times pass the turn more often.
tcg_arguments=(skew_tick=1)
# In deterministic mode each CPU gets an equal part of the time until the next timer.
# Of the devices that QEMU can be given one has a timer that always runs, as often as
# it is told (us): what it delays is a network that nobody is connected to. With 50 us
# and four CPUs who is woken waits for another CPU's turn for 41 us at p99, without it
# for 1 ms; it costs a fifth of the speed.
short_turns=(-netdev 'hubport,id=turns,hubid=0' -object 'filter-buffer,id=turn,netdev=turns,interval=50')
deterministic_arguments=(nokaslr norandmaps randomize_kstack_offset=off)

# Prints the ELF image inside bzImage $1, which QEMU enters directly (PVH): a
# guest decompressing its own kernel in software emulation loses over a second.
# Anything unexpected (another compression, no PVH entry) leaves $1 as it is.
bootable_kernel() {
	local sum elf offset
	sum=$(sha256sum "$1" | cut -c1-16)
	elf=$cache/kernels/vmlinux-$sum
	if [[ ! -e $elf ]]; then
		mkdir -p "${elf%/*}"
		offset=$(LC_ALL=C grep -abom1 $'\x28\xb5\x2f\xfd' "$1" | head -n 1 | cut -d: -f1) || true
		[[ -z $offset ]] || tail -c "+$((offset + 1))" "$1" | zstd -dcq >"$elf.$$" 2>/dev/null || true
		if has_pvh_entry "$elf.$$"; then
			mv "$elf.$$" "$elf"
		else
			rm -f "$elf.$$"
			ln -sf "$(realpath "$1")" "$elf"
		fi
	fi
	echo "$elf"
}

# XEN_ELFNOTE_PHYS32_ENTRY is note 18.
has_pvh_entry() {
	readelf -n "$1" 2>/dev/null | grep 'Xen ' | grep -q 0x00000012
}

# KVM that exists may still be unable to boot a stock kernel (nested, filtered
# by the cloud): believe it when it has. The answer is kept for this host.
kvm_works() {
	local kernel=$1 answer key
	[[ -r /dev/kvm && -w /dev/kvm ]] || return 1
	key=$({
		uname -r
		grep -m1 'model name' /proc/cpuinfo
		echo "$kernel"
	} | sha256sum | cut -c1-16)
	answer=$cache/kvm/$key
	if [[ ! -e $answer ]]; then
		mkdir -p "${answer%/*}"
		if probe_kvm "$kernel"; then echo yes; else echo no; fi >"$answer"
	fi
	[[ $(<"$answer") == yes ]]
}

probe_kvm() {
	local dir log result=1
	dir=$(mktemp -d)
	log=$dir/console.log
	make_skeleton "$dir/root"
	put "$(type -P busybox)" /usr/bin/busybox "$dir/root"
	printf '#!/bin/busybox sh\necho kvm-works\n/bin/busybox poweroff -f\n' >"$dir/root/init"
	chmod +x "$dir/root/init"
	pack "$dir/root" >"$dir/initramfs"
	# In a subshell, which swallows bash's notice when QEMU aborts.
	(
		timeout 15 "$qemu_program" "${qemu_base[@]}" -accel kvm -cpu host -smp 2 -m 512 -serial "file:$log" \
			-kernel "$1" -initrd "$dir/initramfs" -append "${kernel_arguments[*]} quiet" </dev/null || true
	) &>/dev/null
	! grep -q kvm-works "$log" 2>/dev/null || result=0
	rm -rf "$dir"
	return "$result"
}
