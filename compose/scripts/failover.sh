#!/usr/bin/env bash
# failover.sh [RUNS]: the downtime of a failover, Baton's beside keepalived's, Pacemaker's and Heartbeat's on the same containers,
# printed and written to docs/failover.md, samples as JSON beside it; then how each bears full processors. One candidate after the other is
# brought up, struck and taken down again (project baton-failover, 10.79.1.0/24). Samples are kept in .build/failover, a file per
# candidate; a run begins the files of its candidates anew.
#   BATON_FAILOVER_CANDIDATES  only these, by blank (default: all; baton-failover list)
#   BATON_FAILOVER_FAULTS      only these, by comma: power, cable, daemon, move
#   BATON_FAILOVER_LOAD_MINUTES  of full processors (default 10; 0 for none)
#   BATON_FAILOVER_BUILD=no    with the binaries and images that are there
# A run of a part of it leaves the page alone, unless BATON_FAILOVER_PAGE and BATON_FAILOVER_JSON name files.
. "$(dirname "$0")/lib.sh"
SCRIPTS=$ROOT/compose/scripts
export BATON_FAILOVER_RUNS=${1:-10}
[[ $BATON_FAILOVER_RUNS =~ ^[0-9]+$ ]] || die "'$BATON_FAILOVER_RUNS' is no number of runs; for example: make bench-failover RUNS=20"
export BATON_PROJECT=baton-failover BATON_CLUSTER=failover BATON_SUBNET=10.79.1
export BATON_FAILOVER_DIR=${BATON_FAILOVER_DIR:-$BUILD/failover}
MINUTES=${BATON_FAILOVER_LOAD_MINUTES:-10}
cd "$ROOT"
mkdir -p "$BATON_FAILOVER_DIR"
BIN=${BATON_FAILOVER_BIN:-${CARGO_TARGET_DIR:-target}/release/baton-failover}

if [ "${BATON_FAILOVER_BUILD:-yes}" = yes ]; then
    step "build tools, Docker engine" "$SCRIPTS/setup.sh" build engine
    use_cargo
    # The same selection as the tests': another one has other features, and half the crates are compiled once more.
    step "binaries, release build" cargo build --release --locked --workspace --all-targets
    step "base image debian:trixie-slim" "$SCRIPTS/images.sh" base
    step "images of etcd, monitoring, Apache, MariaDB, mail" "$SCRIPTS/images.sh" services
    step "image of Baton" "$SCRIPTS/images.sh" baton
    step "images of keepalived, Pacemaker, Heartbeat" "$SCRIPTS/images.sh" bench
fi

peers() { BATON_COMPOSE_FILE=$ROOT/compose/bench/peers.yaml compose "$@"; }

# What a specification must say besides: the name of the profile, or the timers.
specification() {
    BATON_SPEC_FILE=$BATON_FAILOVER_DIR/$1.yaml
    case $1 in
        *-fast) printf 'heartbeat: { profile: fast }\n' ;;
        *-short) printf 'heartbeat: { keepalive: 25ms, warntime: 80ms, deadtime: 250ms }\n' ;;
    esac > "$BATON_SPEC_FILE"
    case $1 in
        hot*) cat "$ROOT/compose/bench/hot.yaml" ;;
        data*) cat "$ROOT/compose/demo/cluster.yaml" ;;
    esac >> "$BATON_SPEC_FILE"
    export BATON_SPEC_FILE
}

up() {
    case $1 in
        hot*) specification "$1"; BATON_WAIT_PATH=healthz "$SCRIPTS/cluster.sh" start ;;
        data*) specification "$1"; "$SCRIPTS/cluster.sh" start ;;
        *-tuned) PEER=${1%-tuned} SETTINGS=tuned peers up -d --no-build ;;
        *) PEER=$1 SETTINGS=default peers up -d --no-build ;;
    esac
}

burners() {
    local left
    left=$(docker ps -aq --filter "name=^/$BATON_PROJECT-burner-")
    # shellcheck disable=SC2086
    [ -z "$left" ] || docker rm -f $left > /dev/null
}

# The demo's way down finds containers and networks by their labels, whoever made them.
down() { burners; "$SCRIPTS/cluster.sh" down; }

tear_down() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ] && [ -n "${BATON_KEEP:-}" ]; then
        say "kept for a look; remove it with: BATON_PROJECT=$BATON_PROJECT BATON_CLUSTER=$BATON_CLUSTER $SCRIPTS/cluster.sh down"
    else
        down || status=1
    fi
    exit "$status"
}
trap tear_down EXIT
trap 'exit 130' INT TERM

export BATON_FAILOVER_LOAD_MINUTES=$MINUTES
CANDIDATES=${BATON_FAILOVER_CANDIDATES:-$("$BIN" list)}
LOADED=$("$BIN" list --load)
failed=()
# measure CANDIDATE: one that does not come up, or not back, costs its own figures only.
measure() {
    # What is left of another candidate would be measured instead.
    down || return 1
    rm -f "$BATON_FAILOVER_DIR/$1.jsonl"
    step "start $1" up "$1" || return 1
    "$BIN" measure "$1" || return 1
    if [ "$MINUTES" -gt 0 ] && grep -qx "$1" <<< "$LOADED"; then "$BIN" load "$1" || return 1; fi
}
for candidate in $CANDIDATES; do
    measure "$candidate" || failed+=("$candidate")
done
down

if [ -z "${BATON_FAILOVER_CANDIDATES:-}${BATON_FAILOVER_FAULTS:-}" ]; then
    export BATON_FAILOVER_PAGE=${BATON_FAILOVER_PAGE:-$ROOT/docs/failover.md}
    export BATON_FAILOVER_JSON=${BATON_FAILOVER_JSON:-$ROOT/docs/failover.json}
fi
"$BIN" report
[ ${#failed[@]} -eq 0 ] || die "not measured to the end: ${failed[*]}"
