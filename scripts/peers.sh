#!/usr/bin/env bash
# Brings the overlay networks that Atoll is measured beside (testing/netlab): Debian's, and current ones built from source at pinned versions.
#
#   scripts/peers.sh [FOLDER]     current ones go to FOLDER, target/peers/bin by default
#
# Safe to run again: what is there is left alone. What cannot be had is named at the end and makes the script fail; the rest is there nevertheless.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-target/peers/bin}

# Program, module and version of each. nebula and nebula-cert belong together.
current=(
    "wireguard-go golang.zx2c4.com/wireguard v0.0.0-20260522210424-ecfc5a8d5446"
    "yggdrasil github.com/yggdrasil-network/yggdrasil-go/cmd/yggdrasil v0.5.14"
    "yggdrasilctl github.com/yggdrasil-network/yggdrasil-go/cmd/yggdrasilctl v0.5.14"
    "nebula github.com/slackhq/nebula/cmd/nebula v1.12.0"
    "nebula-cert github.com/slackhq/nebula/cmd/nebula-cert v1.12.0"
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
            apt-get install -qq -y --no-install-recommends "$package" >/dev/null || missing+=("Debian's $package")
    done
}

from_source() {
    local line program package version built
    if ! command -v go >/dev/null; then
        missing+=("all current versions: there is no Go toolchain (https://go.dev/dl)")
        return
    fi
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    for line in "${current[@]}"; do
        read -r program package version <<<"$line"
        if [[ -x $folder/$program ]] && go version -m "$folder/$program" | grep -q "$(printf '\tmod\t.*\t%s\t' "$version")"; then
            continue
        fi
        printf 'peers: building %s %s\n' "$program" "$version"
        if ! GOFLAGS='' GOBIN=$folder go install "$package@$version"; then
            missing+=("$program $version")
            continue
        fi
        # A module's own main package is called as the module is.
        built=$folder/$(basename "$package")
        [[ $built == "$folder/$program" ]] || mv "$built" "$folder/$program"
    done
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
