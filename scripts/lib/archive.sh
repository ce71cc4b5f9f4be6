# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Downloads from Debian's archive. Sourced by scripts/kernel and scripts/qemu.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

# A private apt in $1 that knows suite $2: the host's package lists and files stay
# as they are, and the signed index vouches for what is downloaded.
private_apt() {
	[[ -e $keyring ]] || die "$keyring is missing; run scripts/setup or install debian-archive-keyring"
	mkdir -p "$1"/{lists/partial,archives/partial,download,none}
	: >"$1/status"
	echo "deb [arch=amd64 signed-by=$keyring] $mirror $2 main" >"$1/sources.list"
	cat >"$1/apt.conf" <<-END
		APT::Architecture "amd64";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferencesparts "$1/none";
		Dir::State "$1";
		Dir::State::lists "$1/lists";
		Dir::State::status "$1/status";
		Dir::Cache "$1";
	END
	# apt downloads as its own user, who must be able to write here.
	if ((EUID == 0)) && id _apt &>/dev/null; then
		chmod 755 "$1"
		chown _apt "$1/download"
	fi
	export APT_CONFIG=$1/apt.conf
}
