# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Sourced by every script in this folder.

# shellcheck disable=SC2034  # for the scripts that source this file
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck disable=SC2034
cache=${XDG_CACHE_HOME:-$HOME/.cache}/scx_run

# One line on stderr: stdout belongs to the result.
say() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
	say "error: $*"
	exit 1
}

have() {
	type -P "$1" >/dev/null
}

# Seconds since START (taken from EPOCHREALTIME), with one decimal.
seconds_since() {
	local us=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
	printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}
