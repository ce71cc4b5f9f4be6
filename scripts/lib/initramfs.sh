# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2154  # shared with the script that sources this
# Builds the guest's file system: an initramfs out of two cpio archives, one
# with the tools (cached) and one with what may change between two runs. They
# are not compressed: the guest would pay more for unpacking than for copying.

# Programs of the host that a guest has besides busybox's.
guest_tools=(stress-ng hackbench cyclictest)

# The file itself and the shared libraries it needs, loader included.
with_libraries() {
	local libraries
	echo "$1"
	libraries=$(ldd "$1" 2>/dev/null) || return 0
	if [[ $libraries == *"not found"* ]]; then
		die "$1 needs$(sed -n 's/ => not found.*//p' <<<"$libraries" | tr -d '\n'), which this machine lacks; install the package that has it"
	fi
	sed -nE 's/^\s*(.* => )?(\/[^ ]+) \(0x.*/\2/p' <<<"$libraries"
}

# Copies file $1 to path $2 below directory $3.
put() {
	local target=$3$2
	mkdir -p "${target%/*}"
	cp -L --remove-destination "$1" "$target"
}

# Like put, for a program: with its libraries, without its debug information
# (function names stay), which can be ten times as large as the rest.
put_program() {
	local target=$3$2 library
	put "$1" "$2" "$3"
	if ldd "$1" &>/dev/null && have strip; then
		strip --strip-debug "$target" 2>/dev/null || true
	fi
	while read -r library; do
		[[ $library == "$1" || -e $3$library ]] || put "$library" "$library" "$3"
	done < <(with_libraries "$1")
}

# Directories are merged as on any present-day distribution, so that a program
# is found both below / and below /usr.
make_skeleton() {
	local dir
	mkdir -p "$1"/{proc,sys,dev,tmp,run,root,out,etc,var/tmp,vm/bin} "$1"/usr/{bin,sbin,lib,lib64}
	for dir in bin sbin lib lib64; do
		ln -sfn "usr/$dir" "$1/$dir"
	done
}

# Equal contents give an equal archive, whoever packs it and when.
pack() {
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
		cpio -0 -o -H newc -R 0:0 --reproducible --quiet)
}

busybox_applets() {
	busybox --list
}

# Fills $1 with busybox and the tools.
stage_tools() {
	local name
	make_skeleton "$1"
	put "$(type -P busybox)" /usr/bin/busybox "$1"
	busybox_applets | while read -r name; do
		[[ $name == busybox ]] || ln -s busybox "$1/usr/bin/$name"
	done
	for name in "${guest_tools[@]}"; do
		put_program "$(type -P "$name")" "/usr/bin/$name" "$1"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
	echo '127.0.0.1 localhost' >"$1/etc/hosts"
}

# Prints the path of the archive with the tools; packs it when it or one of the
# programs in it is new.
tools_archive() {
	local key name archive staging
	key=$({
		cat "${BASH_SOURCE[0]}"
		for name in busybox "${guest_tools[@]}"; do
			have "$name" || die "$name is not installed; run scripts/setup"
			stat -Lc '%n %s %Y' "$(type -P "$name")"
		done
	} | sha256sum | cut -c1-16)
	archive=$cache/initramfs/tools-$key.cpio
	if [[ ! -e $archive ]]; then
		mkdir -p "${archive%/*}"
		staging=$(mktemp -d)
		stage_tools "$staging"
		pack "$staging" >"$archive.$$"
		mv "$archive.$$" "$archive"
		rm -rf "$staging"
		# Those of former tools; a day, because another vm may be reading one.
		find "${archive%/*}" -name 'tools-*.cpio' -mtime +1 ! -path "$archive" -delete
	fi
	echo "$archive"
}

# The working tree as git sees it: tracked and new files, none that are ignored.
tree_files() {
	if git rev-parse --is-inside-work-tree &>/dev/null; then
		git ls-files -co --exclude-standard --exclude=/target/ -z
	else
		find . -path ./target -prune -o -type f -print0
	fi | while IFS= read -r -d '' file; do
		# A tracked file may be deleted in the working tree.
		if [[ -e $file || -L $file ]]; then
			printf '%s\0' "$file"
		fi
	done
}

# Puts the working tree below $1, at the path that it has on the host.
stage_tree() {
	mkdir -p "$1$root"
	(cd "$root" && tree_files | LC_ALL=C sort -zu | cpio -0 -pdm --quiet "$1$root")
}

# The project's own programs, where tests expect them and by name in the PATH.
# A release build wins over a debug build.
stage_programs() {
	local name profile file
	for name in scx_run scx_bench; do
		for profile in debug release; do
			file=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}/$profile/$name")
			if [[ -e $file ]]; then
				put_program "$file" "$file" "$1"
				ln -sfn "$file" "$1/vm/bin/$name"
			fi
		done
	done
}
