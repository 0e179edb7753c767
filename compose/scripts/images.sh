#!/usr/bin/env bash
# images.sh base | services | baton | bench: makes the images of the demo.
#   base      debian:trixie-slim, from a registry if one answers, else from Debian packages with mmdebstrap
#   services  etcd, prometheus, alertmanager, webhook, apache-php, mariadb, host, mail
#   baton     from the binaries that `cargo build --release` has left in target/
#   bench     the peers of `make bench-failover`: keepalived, pacemaker, heartbeat; needs services
# Everything is cached by the engine; a second run takes about a second.
. "$(dirname "$0")/lib.sh"

BASE=debian:trixie-slim
DEFAULT_MIRROR=http://deb.debian.org/debian
DEFAULT_SECURITY=http://deb.debian.org/debian-security

# host_mirror LABEL DEFAULT: the archive that this host's own apt uses, if it is a Debian.
host_mirror() {
    local uri
    # shellcheck disable=SC2016
    uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2> /dev/null \
        | sed -n "s#^$1 \(https\{0,1\}://.*[^/]\)/*\$#\1#p" | head -n 1) || true
    say "${uri:-$2}"
}

apt_proxy() {
    local proxy=${http_proxy:-}
    eval "$(apt-config shell proxy Acquire::http::Proxy 2> /dev/null || true)"
    [ "$proxy" = DIRECT ] || say "$proxy"
}

MIRROR=${BATON_DEBIAN_MIRROR:-$(host_mirror Debian "$DEFAULT_MIRROR")}
SECURITY=${BATON_DEBIAN_SECURITY_MIRROR:-$(host_mirror Debian-Security "$DEFAULT_SECURITY")}
PROXY=$(apt_proxy)

make_base() {
    if docker image inspect "$BASE" > /dev/null 2>&1; then say "$BASE is there"; return; fi
    # 60 s: a registry that is slower than bootstrapping is no help.
    if timeout 60 docker pull "$BASE"; then return; fi
    say "no registry answers: making $BASE from $MIRROR"
    local keys sources=() suite
    keys=$(compgen -G '/usr/share/keyrings/debian-archive-keyring.*' | head -n 1)
    for suite in "$MIRROR trixie" "$MIRROR trixie-updates" "$SECURITY trixie-security"; do
        sources+=("deb [signed-by=$keys] $suite main")
    done
    # shellcheck disable=SC2016
    printf '%s\n' "${sources[@]}" | mmdebstrap --variant=minbase --include=ca-certificates --format=tar \
        ${PROXY:+--aptopt="Acquire::http::Proxy \"$PROXY\""} \
        --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname' \
        trixie "$BUILD/base.tar" -
    docker import --change 'CMD ["bash"]' "$BUILD/base.tar" "$BASE"
    rm -f "$BUILD/base.tar"
}

# build STAGE TAG [DOCKERFILE]
build() {
    local args=(--target "$1" --tag "$2" --file "$ROOT/${3:-Dockerfile}")
    # The pulled base reads deb.debian.org; one that was made here has the host's mirror already.
    [ "$MIRROR" = "$DEFAULT_MIRROR" ] || args+=(--build-arg "APT_MIRROR=$MIRROR" --build-arg "APT_SECURITY=$SECURITY")
    [ -z "$PROXY" ] || args+=(--build-arg "APT_PROXY=$PROXY")
    docker build "${args[@]}" "$ROOT"
}

make_services() {
    local image
    for image in etcd prometheus alertmanager webhook apache-php mariadb host mail; do build "$image" "baton/$image"; done
}

make_baton() {
    local bin changed=
    mkdir -p "$BUILD/bin"
    for bin in baton baton-agent baton-replicator; do
        # Only what changed is copied, so that the engine's cache sees an unchanged context.
        cmp -s "$ROOT/target/release/$bin" "$BUILD/bin/$bin" || { cp "$ROOT/target/release/$bin" "$BUILD/bin/"; changed=have; }
    done
    [ -z "$changed" ] || say "the binaries are new"
    build baton-prebuilt baton/baton
    # A host with a newer libc than trixie's makes binaries that do not start there.
    docker run --rm --network none baton/baton baton --version
}

make_bench() {
    local peer
    for peer in keepalived pacemaker heartbeat; do build "$peer" "baton/bench-$peer" compose/bench/Dockerfile; done
}

for part in "$@"; do "make_$part"; done
