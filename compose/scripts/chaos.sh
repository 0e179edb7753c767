#!/usr/bin/env bash
# chaos.sh [MINUTES [SEED]]: random faults on a cluster of its own under load, judged by what clients saw (project baton-chaos,
# 10.79.0.0/24; removed at the end, BATON_KEEP=1 keeps one that failed). The seed is printed: with it the same faults strike
# for the same times. Report, JSON and history are in target/chaos/.
. "$(dirname "$0")/lib.sh"
SCRIPTS=$ROOT/compose/scripts
MINUTES=${1:-10} SEED=${2:-}
[[ $MINUTES =~ ^[0-9]+$ && $SEED =~ ^[0-9]*$ ]] || die "minutes and seed are numbers; for example: make chaos MINUTES=30 SEED=7"
cd "$ROOT"
step "build tools, Docker engine, what the tests need" "$SCRIPTS/setup.sh" build engine test
use_cargo
export BATON_SELECT="--workspace --all-targets"
export BATON_PROJECT=baton-chaos BATON_CLUSTER=chaos BATON_SUBNET=10.79.0
tear_down() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ] && [ -n "${BATON_KEEP:-}" ]; then
        say "kept for a look; remove it with: BATON_PROJECT=baton-chaos BATON_CLUSTER=chaos $SCRIPTS/cluster.sh down"
    else
        "$SCRIPTS/cluster.sh" down || status=1
    fi
    exit "$status"
}
trap tear_down EXIT
trap 'exit 130' INT TERM
"$SCRIPTS/cluster.sh" down
"$SCRIPTS/cluster.sh" up
"${CARGO_TARGET_DIR:-target}/release/baton-chaos" --minutes "$MINUTES" ${SEED:+--seed "$SEED"}
