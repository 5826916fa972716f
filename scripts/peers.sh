#!/usr/bin/env bash
# Brings the overlay networks that Atoll is measured beside (testing/netlab): Debian's, and current ones built from source at pinned versions.
#
#   scripts/peers.sh [FOLDER]     current ones go to FOLDER, target/peers/bin by default
#
# Safe to run again: what is there is left alone. What cannot be had is named at the end and makes the script fail; the rest is there nevertheless.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-target/peers/bin}

# Program, package and version of each, and the next best version where the first cannot be had: because it wants a newer Go than there is, or a module that
# the module proxy at hand does not serve.
current=(
    "wireguard-go golang.zx2c4.com/wireguard v0.0.0-20260522210424-ecfc5a8d5446"
    "yggdrasil github.com/yggdrasil-network/yggdrasil-go/cmd/yggdrasil v0.5.14"
    "nebula github.com/slackhq/nebula/cmd/nebula v1.12.0 v1.10.3"
    "nebula-cert github.com/slackhq/nebula/cmd/nebula-cert v1.12.0 v1.10.3"
)
debian=(iperf3 wireguard-go wireguard-tools yggdrasil nebula tinc)

missing=()

has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

from_debian() {
    local wanted=() package as_root=()
    for package in "${debian[@]}"; do
        has_package "$package" || wanted+=("$package")
    done
    ((${#wanted[@]} == 0)) && return
    ((EUID == 0)) || as_root=(sudo)
    printf 'peers: installing %s\n' "${wanted[*]}"
    "${as_root[@]}" apt-get update -qq
    # One at a time, so that one that cannot be had does not keep the others away. Nothing is to be started by itself.
    for package in "${wanted[@]}"; do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get -o DPkg::Lock::Timeout=600 install -qq -y --no-install-recommends "$package" >/dev/null || missing+=("Debian's $package")
    done
}

from_source() {
    local line program package version next
    if ! command -v go >/dev/null; then
        missing+=("all current versions: there is no Go toolchain (https://go.dev/dl)")
        return
    fi
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    for line in "${current[@]}"; do
        read -r program package version next <<<"$line"
        build "$program" "$package" "$version" && continue
        if [[ -n $next ]] && build "$program" "$package" "$next"; then
            printf 'peers: %s %s cannot be had here, %s is\n' "$program" "$version" "$next"
        else
            missing+=("$program $version")
        fi
    done
}

build() {
    local program=$1 package=$2 version=$3 built
    has_version "$program" "$version" && return
    printf 'peers: building %s %s\n' "$program" "$version"
    if [[ $program == yggdrasil ]]; then
        build_yggdrasil "$package" "$version"
        return
    fi
    GOFLAGS='' GOBIN=$folder go install "$package@$version" || return
    # A module's own main package is called as the module is.
    built=$folder/$(basename "$package")
    [[ $built == "$folder/$program" ]] || mv "$built" "$folder/$program"
}

# What it imports to give up system calls on OpenBSD is not served by every module proxy and does nothing on Linux; something that does nothing
# takes its place, which `go install` has no way to say.
build_yggdrasil() {
    local package=$1 version=$2 place status=0
    place=$(mktemp -d)
    mkdir "$place/protect"
    printf 'module peers\ngo 1.24\nreplace suah.dev/protect => ./protect\n' >"$place/go.mod"
    printf 'module suah.dev/protect\ngo 1.18\n' >"$place/protect/go.mod"
    printf 'package protect\n\nfunc Pledge(string) error { return nil }\n' >"$place/protect/protect.go"
    (cd "$place" && export GOFLAGS=-mod=mod && go get "$package@$version" && go build -o "$folder/yggdrasil" "$package") || status=$?
    rm -rf "$place"
    return "$status"
}

has_version() {
    [[ -x $folder/$1 ]] && go version -m "$folder/$1" | awk -v wanted="$2" '$1 == "mod" && $3 == wanted { found = 1 } END { exit !found }'
}

from_debian
from_source
# Mycelium is published as source only; the `mycelium` of crates.io is another program.
missing+=("Mycelium: it is published neither on crates.io nor in Debian")

if ((${#missing[@]} > 0)); then
    printf 'peers: not here: %s\n' "${missing[@]}" >&2
fi
# Mycelium alone is no failure: it is missing everywhere.
((${#missing[@]} <= 1))
