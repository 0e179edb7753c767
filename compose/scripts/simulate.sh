#!/usr/bin/env bash
# simulate.sh FROM..TO: both simulations, the replicators' (two and three replicas) and the agents', over a range of seeds, with
# optimised code. A seed that fails says how to run it again; the last line counts.
. "$(dirname "$0")/lib.sh"
SEEDS=${1:-}
if ! [[ $SEEDS =~ ^([0-9]+)\.\.([0-9]+)$ ]] || [ "${BASH_REMATCH[1]}" -ge "${BASH_REMATCH[2]}" ]; then
    die "'$SEEDS' is no range of seeds; for example: make simulate SEEDS=1..1001 (the last one is not run)"
fi
count=$((BASH_REMATCH[2] - BASH_REMATCH[1]))
cd "$ROOT"
"$ROOT/compose/scripts/setup.sh" build > /dev/null
use_cargo
export BATON_SIM_SEEDS=$SEEDS
begin=$(now_ms)
cargo test --release --locked --quiet --workspace --test core seeds:: -- --nocapture --test-threads=1
cargo test --release --locked --quiet --workspace --lib core::sim::seeds -- --nocapture
say "$count seeds each of two replicas, three replicas, hosts replaced and agents: 0 failed, $(took "$begin")"
