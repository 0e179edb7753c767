#!/usr/bin/env bash
# test.sh: everything `make test` runs. The end-to-end suite and the chaos after it get their own cluster (project baton-e2e,
# 10.78.0.0/24), which is removed whatever happens; BATON_KEEP=1 keeps it for a look when something failed. BATON_CHAOS_MINUTES
# (10; 0 for none) and BATON_CHAOS_SEED say how much chaos. Where BATON_ENDS is set (seconds since 1970), chaos ends by then if it
# can, but takes 2 minutes at least.
. "$(dirname "$0")/lib.sh"
SCRIPTS=$ROOT/compose/scripts
cd "$ROOT"
step "build tools, Docker engine, what the tests need" "$SCRIPTS/setup.sh" build engine test
use_cargo

# One selection and one profile everywhere: another one has other features, and half the crates are compiled once more.
export BATON_SELECT="--workspace --all-targets"
# Beside the compiler, and over before anything is measured.
(step "base image debian:trixie-slim" "$SCRIPTS/images.sh" base \
    && step "images of etcd, monitoring, Apache, MariaDB, mail" "$SCRIPTS/images.sh" services) & images=$!
# shellcheck disable=SC2086
step "binaries and tests, release build" cargo build --release --locked $BATON_SELECT || { kill "$images" 2> /dev/null; exit 1; }
wait "$images"
say "unit, property, interrupted-sequence and golden tests"
if cargo nextest --version > /dev/null 2>&1; then
    cargo nextest run --release --locked --workspace --no-fail-fast
    cargo test --release --locked --workspace --doc
else
    cargo test --release --locked --workspace --no-fail-fast
fi

step "contract of the API, as each role" cargo test --release --locked --workspace --lib api::contract -- --ignored --nocapture

export BATON_PROJECT=baton-e2e BATON_CLUSTER=e2e BATON_SUBNET=10.78.0
tear_down() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ] && [ -n "${BATON_KEEP:-}" ]; then
        say "kept for a look; remove it with: BATON_PROJECT=baton-e2e BATON_CLUSTER=e2e $SCRIPTS/cluster.sh down"
    else
        "$SCRIPTS/cluster.sh" down || status=1
    fi
    exit "$status"
}
trap tear_down EXIT
trap 'exit 130' INT TERM

# What an interrupted run may have left would be a false start.
"$SCRIPTS/setup.sh" engine > "$LOGS/e2e-engine.log" 2>&1 || { cat "$LOGS/e2e-engine.log"; exit 1; }
"$SCRIPTS/cluster.sh" down
"$SCRIPTS/cluster.sh" up
say "end-to-end suite"
suite=0
BATON_E2E=1 cargo test --release --locked --workspace --test scenarios -- --test-threads=1 --nocapture || suite=$?
say "the longest scenarios"
sed -n 's/^| \(.*\) | whole scenario | \([0-9.]*\) s .*/\2 s  \1/p' "${CARGO_TARGET_DIR:-target}/e2e-report.md" \
    | sort -rn | head -n 15 | sed 's/^/    /' || true
[ "$suite" -eq 0 ] || exit "$suite"
minutes=${BATON_CHAOS_MINUTES:-10}
if [ "$minutes" -gt 2 ] && [ -n "${BATON_ENDS:-}" ]; then
    # Its start, the wait for a whole cluster and its judgement take two more.
    left=$(((BATON_ENDS - $(date +%s)) / 60 - 2))
    [ "$left" -ge 2 ] || left=2
    if [ "$left" -lt "$minutes" ]; then
        say "chaos takes $left of $minutes minutes: more are not left"
        minutes=$left
    fi
fi
if [ "$minutes" -gt 0 ]; then
    export BATON_CHAOS_MINUTES=$minutes
    say "chaos"
    "${CARGO_TARGET_DIR:-target}/release/baton-chaos"
fi
