# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Build environment, to be sourced: `. scripts/lib/env.sh`. What is set already
# stays as it is.

# Prints the BPF compiler to use. Clang before 17 does not compile for the
# -mcpu=v3 and BTF that sched_ext objects need.
scx_find_clang() {
	local clang major
	for clang in clang-19 clang clang-21 clang-20 clang-18 clang-17; do
		major=$("$clang" -dumpversion 2>/dev/null | cut -d. -f1) || continue
		if ((${major:-0} >= 17)); then
			echo "$clang"
			return
		fi
	done
	return 1
}

scx_build_environment() {
	local major
	[[ -n ${BPF_CLANG:-} ]] || BPF_CLANG=$(scx_find_clang) || BPF_CLANG=clang
	export BPF_CLANG
	major=$("$BPF_CLANG" -dumpversion 2>/dev/null | cut -d. -f1) || true
	if [[ -z ${LIBCLANG_PATH:-} && -d /usr/lib/llvm-$major/lib ]]; then
		export LIBCLANG_PATH=/usr/lib/llvm-$major/lib
	fi
	# rustup's own installer and Debian's package put cargo there.
	if ! type -P cargo >/dev/null && [[ -x $HOME/.cargo/bin/cargo ]]; then
		export PATH=$HOME/.cargo/bin:$PATH
	fi
	# CI checks out afresh each time; what was built is worth more than that.
	if [[ ${CI:-} == true && -z ${CARGO_TARGET_DIR:-} ]]; then
		export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/scx_run/target
	fi
}

scx_build_environment
