# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2154  # shared with the script that sources this

# Sets up and builds the programs named. $built is the folder they are in.
build() {
	local name binaries=()
	for name in "$@"; do
		binaries+=(--bin "$name")
	done
	"$root/scripts/setup"
	# shellcheck source=scripts/lib/env.sh
	. "$root/scripts/lib/env.sh"
	cargo build --manifest-path "$root/Cargo.toml" --quiet --release --locked "${binaries[@]}" >&2 ||
		die "$* does not build; see the messages above"
	# shellcheck disable=SC2034  # for the scripts that source this file
	built=${CARGO_TARGET_DIR:-$root/target}/release
}
