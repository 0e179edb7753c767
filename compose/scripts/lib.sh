# shellcheck shell=bash
# Shared by the scripts of the demo: names, progress lines, waiting with a deadline. Sourced, never run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=$ROOT/.build
LOGS=$BUILD/log
# The machine's, or those that `setup.sh promtool` unpacks.
export PROMTOOL AMTOOL
PROMTOOL=$(command -v promtool || printf %s "$BUILD/promtool/usr/bin/promtool")
AMTOOL=$(command -v amtool || printf %s "$BUILD/promtool/usr/bin/amtool")
export BATON_PROJECT=${BATON_PROJECT:-baton}
export BATON_CLUSTER=${BATON_CLUSTER:-demo}
export BATON_SUBNET=${BATON_SUBNET:-10.77.0}
# The engine's API is the same with both builders; the legacy one is there where buildx is not.
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
mkdir -p "$LOGS"

say() { printf '%s\n' "$*"; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }
now_ms() { date +%s%3N; }
took() { awk -v ms="$(($(now_ms) - $1))" 'BEGIN { printf "%.1f s", ms / 1000 }'; }

# step NAME COMMAND…: runs the command, its output in a log; one line when it ends, the log's end if it fails.
step() {
    local name=$1 begin log
    shift
    log=$LOGS/$BATON_PROJECT-$(tr -cs 'a-zA-Z0-9\n' - <<< "$name").log
    begin=$(now_ms)
    # In a subshell with its own -e, so that a function stops at its first failing line. Bash ignores that where step
    # itself is a condition (`step … || …`): commands with several lines are called without one.
    set +e
    (set -e; "$@") > "$log" 2>&1 < /dev/null
    local status=$?
    set -e
    if [ "$status" -eq 0 ]; then
        printf '  %-54s %8s\n' "$name" "$(took "$begin")"
        return
    fi
    {
        printf '  %-54s %8s\n\n' "$name: FAILED" "$(took "$begin")"
        tail -n 40 "$log" | sed 's/^/    /'
        printf '\nthe whole log: %s\n' "$log"
    } >&2
    return "$status"
}

# wait_for SECONDS COMMAND…: repeats the command until it succeeds.
wait_for() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        [ "$(now_ms)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# What `host.sh etcd` changed about the demo's etcd, as an administrator would in files on the hosts.
CHANGED=$BUILD/etcd-$BATON_PROJECT.yaml

# compose ARG…: whichever Compose is there, on this project.
compose() {
    local files=(-f "${BATON_COMPOSE_FILE:-$ROOT/compose/demo.yaml}")
    export COMPOSE_PROJECT_NAME=$BATON_PROJECT
    if [ -z "${BATON_COMPOSE_FILE:-}" ] && [ -e "$CHANGED" ]; then files+=(-f "$CHANGED"); fi
    if docker compose version > /dev/null 2>&1; then
        docker compose -p "$BATON_PROJECT" "${files[@]}" "$@"
    else
        docker-compose -p "$BATON_PROJECT" "${files[@]}" "$@"
    fi
}

# loops_of HOST: loop devices of its volumes, whether or not its replicator still lives.
loops_of() {
    local mount tag
    mount=$(docker volume inspect --format '{{.Mountpoint}}' "${BATON_PROJECT}_$1-state" 2> /dev/null) || return 0
    tag=$(cat "$mount/device-tag" 2> /dev/null) || return 0
    losetup --list --noheadings --output NAME,BACK-FILE | awk -v tag="$tag" 'tag != "" && index($0, tag) { print $1 }'
}

# release_loops DEVICE…: detaches them, if that has not happened yet.
release_loops() {
    local loop
    for loop in "$@"; do losetup --detach "$loop" 2> /dev/null || true; done
}

remove_volumes() {
    local volumes
    volumes=$(docker volume ls -q --filter "name=^$1")
    # shellcheck disable=SC2086
    [ -z "$volumes" ] || timeout 60 docker volume rm -f $volumes > /dev/null
}

# Every cargo of this machine that is new enough is good; apt's and rustup's live in different places.
use_cargo() {
    case :$PATH: in *:$HOME/.cargo/bin:*) ;; *) PATH=$PATH:$HOME/.cargo/bin ;; esac
    export PATH
}

# cargo_is_new_enough: rust-version of the workspace is 1.90.
cargo_is_new_enough() {
    use_cargo
    local minor
    minor=$(cargo --version 2> /dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    [ "${minor:-0}" -ge 90 ]
}
