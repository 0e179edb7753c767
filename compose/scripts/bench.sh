#!/usr/bin/env bash
# bench.sh: Baton's speed beside that of the raw file, the loop device and QEMU's quorum, printed and written to
# docs/performance.md; every sample as JSON in .build/bench.json. Needs root, /dev/fuse, loop devices, and 12 GiB, more on a fast disk, below
# .build/bench (BATON_BENCH_DIR: elsewhere, on the disk to be measured). BATON_BENCH_SECONDS, BATON_BENCH_ROUNDS,
# BATON_BENCH_CANDIDATES, BATON_BENCH_JOBS, BATON_BENCH_PARTS and BATON_BENCH_SIZE_MIB make it shorter or longer;
# BATON_BENCH_BASE is another build of baton-replicator to compare with.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
compose/scripts/setup.sh build bench > "$LOGS/bench-setup.log" 2>&1 || { tail -n 20 "$LOGS/bench-setup.log" >&2; die "cannot install what the bench needs"; }
use_cargo
cargo build --release --locked
export BATON_BENCH_DIR=${BATON_BENCH_DIR:-$BUILD/bench}
export BATON_BENCH_JSON=${BATON_BENCH_JSON:-$BUILD/bench.json}
# A run of a part of it does not replace the page of a whole one.
if [ -z "${BATON_BENCH_CANDIDATES:-}${BATON_BENCH_JOBS:-}${BATON_BENCH_PARTS:-}${BATON_BENCH_BASE:-}" ]; then
    export BATON_BENCH_PAGE=${BATON_BENCH_PAGE:-$ROOT/docs/performance.md}
fi
exec "${CARGO_TARGET_DIR:-target}/release/baton-bench"
