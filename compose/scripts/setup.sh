#!/usr/bin/env bash
# setup.sh [build] [engine] [test] [promtool] [bench]: installs what is missing on Debian or Ubuntu, and says what.
#   build   Rust >= 1.90, a linker, protoc
#   test    what the tests need besides: etcd, busybox, mkfs, iptables, aiosmtpd, a browser, fio, fsx, MariaDB's server
#   engine  Docker Engine, a Compose tool, mmdebstrap, jq, curl; starts the engine if none runs
#   promtool  that and amtool test rules and routes; unpacked under .build/, for their packages would start servers here
#   bench   fio, sysbench, MariaDB's server, qemu-storage-daemon
# Does nothing, and asks apt nothing, where everything is there.
. "$(dirname "$0")/lib.sh"
export DEBIAN_FRONTEND=noninteractive

fresh=
apt_update() {
    [ -n "$fresh" ] && return
    apt-get -q update
    fresh=yes
}

# candidate PACKAGE: the version apt would install, empty if there is none.
candidate() { apt-cache policy "$1" 2> /dev/null | sed -n 's/^  Candidate: \(.*\)/\1/p' | grep -v '(none)' || true; }

install() {
    [ "$(id -u)" = 0 ] || die "missing: $*; run this as root, or install them"
    apt_update
    say "installing $*"
    apt-get -q install -y --no-install-recommends "$@"
}

# first_of PACKAGE…: installs the first that apt has.
first_of() {
    apt_update
    for package in "$@"; do
        if [ -n "$(candidate "$package")" ]; then install "$package"; return; fi
    done
    die "none of these packages can be had from apt: $*"
}

new_enough() { dpkg --compare-versions "${1:-0}" ge 1.90; }

# Debian backports a current Rust to stable under the name -web (for the browsers); Ubuntu has versioned packages.
install_rust() {
    local version
    apt_update
    if new_enough "$(candidate cargo)"; then
        install cargo rustc
    elif new_enough "$(candidate cargo-web)"; then
        install cargo-web rustc-web
    else
        version=$(apt-cache pkgnames cargo-1. | sed -n 's/^cargo-\(1\.[0-9]*\)$/\1/p' | sort -V | tail -n 1)
        if new_enough "${version:-0}"; then
            install "cargo-$version" "rustc-$version"
            ln -sf "/usr/bin/cargo-$version" /usr/local/bin/cargo
            ln -sf "/usr/bin/rustc-$version" /usr/local/bin/rustc
        elif [ -n "$(candidate rustup)" ]; then
            install rustup ca-certificates
            rustup default stable
        else
            die "no Rust >= 1.90 in apt; install it from https://rustup.rs and repeat"
        fi
    fi
    cargo_is_new_enough || die "Rust is installed but cargo does not answer: $(cargo --version 2>&1 || true)"
}

setup_build() {
    local missing=()
    command -v cc > /dev/null || missing+=(gcc libc6-dev)
    command -v protoc > /dev/null || missing+=(protobuf-compiler)
    # etcd's definitions import google/protobuf/*.proto, which Debian packs with the library.
    [ -e /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
    cargo_is_new_enough || install_rust
    cargo --version
}

start_engine() {
    say "starting the Docker engine"
    if [ -d /run/systemd/system ]; then
        systemctl start docker
    else
        service docker start || setsid dockerd > "$LOGS/dockerd.log" 2>&1 < /dev/null &
    fi
    wait_for 30 engine_answers || die "the Docker engine does not start; see $LOGS/dockerd.log or 'journalctl -u docker'"
}
engine_answers() { docker version --format '{{.Server.Version}}' > /dev/null 2>&1; }
has_compose() { docker compose version > /dev/null 2>&1 || command -v docker-compose > /dev/null; }

setup_engine() {
    local missing=() tool
    for tool in curl jq mmdebstrap losetup:mount ip:iproute2; do
        command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
    done
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
    # Outside Debian mmdebstrap has no keys of Debian's archive.
    compgen -G '/usr/share/keyrings/debian-archive-keyring.*' > /dev/null || install debian-archive-keyring
    engine_answers || command -v dockerd > /dev/null || install docker.io iptables ca-certificates
    command -v docker > /dev/null || first_of docker-cli docker.io
    has_compose || first_of docker-compose-v2 docker-compose-plugin docker-compose
    engine_answers || start_engine
    say "engine $(docker version --format '{{.Server.Version}}')"
    # The loop driver may be a module; without the right to load it, the engine's host has it or nobody has.
    [ -e /dev/loop-control ] || modprobe loop || true
    [ -e /dev/fuse ] || modprobe fuse || true
    [ -e /dev/loop-control ] || die "no /dev/loop-control: this kernel or container gives no loop devices"
    [ -e /dev/fuse ] || die "no /dev/fuse: this kernel or container gives no FUSE"
}

# What the tests break and look into. etcd's package would start a member of its own: it is told not to.
setup_test() {
    local missing=() tool
    # A browser for the page's tests; its driver comes in a package of its own on Debian.
    for tool in chromium:chromium chromedriver:chromium-driver busybox:busybox-static mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs nsenter:util-linux tc:iproute2 iptables:iptables \
        qemu-img:qemu-utils nbdcopy:libnbd-bin fio:fio mariadbd:mariadb-server-core; do
        command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
    done
    compgen -G '/usr/share/fonts/*/*' > /dev/null || missing+=(fonts-dejavu-core)
    # The tests' mail server; Debian's python, whatever other one comes first in PATH.
    /usr/bin/python3 -c 'import aiosmtpd' 2> /dev/null || missing+=(python3-aiosmtpd)
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
    setup_contract
    setup_fsx
    command -v etcd > /dev/null && return
    local policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then install etcd-server; return; fi
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    install etcd-server || { rm -f $policy; return 1; }
    rm -f $policy
}

# schemathesis, which holds the API against its OpenAPI document, in an environment of its own. The version is pinned in
# e2e/contract/requirements.txt; another one is installed anew.
setup_contract() {
    local venv=$BUILD/contract wanted=$ROOT/e2e/contract/requirements.txt
    cmp -s "$wanted" "$venv/installed.txt" && return
    python3 -c 'import ensurepip, venv' 2> /dev/null || install python3 python3-venv
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --retries 5 --requirement "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

# fsx, which exercises devices and filesystems: a program only, nothing of ours links to it (APSL-2.0).
setup_fsx() {
    local version=0.3.2 root=$BUILD/fsx
    [ "$("$root/bin/fsx" --version 2> /dev/null)" = "fsx $version" ] && return
    use_cargo
    # Unoptimised: built with 38 s of processor time instead of 119 s.
    cargo install --quiet --locked --debug --root "$root" --version "$version" fsx
}

setup_promtool() {
    if [ -x "$PROMTOOL" ] && [ -x "$AMTOOL" ]; then "$PROMTOOL" --version; return; fi
    apt_update
    # Where apt's own user may write. The directory goes with the script.
    local packed
    packed=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$packed'" EXIT
    chmod 755 "$packed"
    (cd "$packed" && apt-get -q download prometheus prometheus-alertmanager)
    mkdir -p "$BUILD/promtool"
    dpkg-deb --fsys-tarfile "$packed"/prometheus_*.deb | tar -x -C "$BUILD/promtool" ./usr/bin/promtool
    dpkg-deb --fsys-tarfile "$packed"/prometheus-alertmanager_*.deb | tar -x -C "$BUILD/promtool" ./usr/bin/amtool
    "$PROMTOOL" --version
    "$AMTOOL" --version
}

# MariaDB's and QEMU's programs without what would run them as services.
setup_bench() {
    local missing=() tool
    for tool in fio:fio sysbench:sysbench mariadbd:mariadb-server-core my_print_defaults:mariadb-client-core losetup:mount \
        setpriv:util-linux mkfs.ext4:e2fsprogs; do
        command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
    done
    # qemu-utils has it since Debian 12's backports, qemu-system-common had it before.
    command -v qemu-storage-daemon > /dev/null || missing+=(qemu-utils)
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
    command -v qemu-storage-daemon > /dev/null || install qemu-system-common
    qemu-storage-daemon --version
    [ -e /dev/loop-control ] || modprobe loop || true
    [ -e /dev/fuse ] || modprobe fuse || true
}

[ $# -gt 0 ] || set -- build engine
for part in "$@"; do "setup_$part"; done
