#!/usr/bin/env bash
# Installs the Debian packages that building and testing Atoll need, besides Rust from https://rustup.rs.
#
#   scripts/setup.sh            for building and testing
#   scripts/setup.sh --bench    also what the benches compare with
#
# Safe to run again: what is there is left alone, and when nothing is missing no package list is fetched.
set -euo pipefail

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

bench=false
for argument in "$@"; do
    case $argument in
        --bench) bench=true ;;
        *) fail "unknown option $argument; the only one is --bench" ;;
    esac
done

# What matters is that it works, not how it was installed: each probe tries the thing itself.
has_c_compiler() { printf '#include <stdlib.h>\n' | cc -x c -fsyntax-only - 2>/dev/null; }
has_certificates() { [[ -s /etc/ssl/certs/ca-certificates.crt ]]; }
has_command() { command -v "$1" >/dev/null || [[ -x /usr/sbin/$1 || -x /sbin/$1 ]]; }
has_isal() { /sbin/ldconfig -p | grep -q 'libisal\.so\.2'; }

missing=()
# The cryptography (aws-lc) and zstd are C code, compiled by their crates with cc; neither needs cmake.
has_c_compiler || missing+=(build-essential)
has_certificates || missing+=(ca-certificates)
# The planetary interface, pods' networks, and the tests that try them in network namespaces.
has_command ip || missing+=(iproute2)
has_command nsenter || missing+=(util-linux)
has_command nft || missing+=(nftables)
has_command ping || missing+=(iputils-ping)
# A foreign client that the tests hold the node's DNS server against.
has_command dig || missing+=(bind9-dnsutils)
# Foreign clients that the tests hold the Kubernetes API and images against.
has_command kubectl || missing+=(kubernetes-client)
has_command curl || missing+=(curl)
# A terminal for kubectl exec -it.
has_command script || missing+=(bsdutils)
has_command skopeo || missing+=(skopeo)
has_command umoci || missing+=(umoci)
if $bench; then
    has_isal || missing+=(libisal2)
fi

command -v cargo >/dev/null || fail 'there is no Rust toolchain; install one from https://rustup.rs and run this again'
if ((${#missing[@]} == 0)); then
    exit 0
fi

command -v apt-get >/dev/null ||
    fail "this machine has no apt-get; install what corresponds to the Debian packages: ${missing[*]}"
as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "run as root: apt-get update && apt-get install ${missing[*]}"
    as_root=(sudo)
fi
printf 'setup: installing %s\n' "${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
