#!/usr/bin/env bash
# cluster.sh up | start | wait | down | demo: the demo's cluster, or another one beside it by BATON_PROJECT, BATON_CLUSTER and
# BATON_SUBNET (a /24 without its last number).
#   up     set-up, build, images, start, wait until the group serves and both replicas are in sync
#   start  the same with the images that are there; BATON_SPEC_FILE is another specification than the demo's, BATON_WAIT_PATH
#          what is asked of its address (default ?format=json, the page with its rows)
#   wait   only the waiting; BATON_WAIT seconds at most (default 120)
#   down   removes every trace: containers, networks, volumes, loop devices, mounts, device links
#   demo   up, then what to look at and what to try
. "$(dirname "$0")/lib.sh"
SCRIPTS=$ROOT/compose/scripts
HOSTS="alpha beta"
# And the one that may have taken the place of one of them.
ALL_HOSTS="$HOSTS gamma"
VIP=$BATON_SUBNET.100
WAIT=${BATON_WAIT:-120}

cargo_build() {
    use_cargo
    cd "$ROOT"
    # shellcheck disable=SC2086
    cargo build --release --locked ${BATON_SELECT:--p baton-operator -p baton-replicator}
}

# --- up -------------------------------------------------------------------------------------------------------------------

start() {
    # By name: apache-php and mariadb of the file are there to be built, the agents start them.
    compose up -d --no-build alpha beta etcd-alpha etcd-beta etcd-witness \
        alpha-replicator beta-replicator alpha-agent beta-agent prometheus alertmanager webhook mail
    # A host whose power was cut stays off until it is switched on.
    local host
    for host in $HOSTS; do "$SCRIPTS/host.sh" on "$host"; done
    hand_out
}

# What an administrator of this cluster needs on this machine, outside of its hosts: the CLI, curl and the tests use it.
hand_out() {
    local file
    install -m 700 -d "$BUILD/pki/$BATON_PROJECT"
    for file in ca.crt admin.crt admin.key; do
        docker cp "$BATON_PROJECT-pki:/pki/authority/$file" "$BUILD/pki/$BATON_PROJECT/$file" > /dev/null
    done
}

status_json() {
    local host
    for host in $HOSTS; do
        timeout 5 docker exec "$BATON_PROJECT-$host-agent" baton status --json 2> /dev/null | jq -ce . 2> /dev/null && return
    done
    return 1
}

# Serves, both nodes in sync, and the page says so itself.
complete() {
    status_json | jq -e '
        all(.groups[]; .state == "serving" and (.in_sync | length) == 2
            and ((.volumes | length) == 0 or all(.nodes[]; .disk == "UpToDate")))
        and (.groups | length) > 0' > /dev/null \
        && curl -fsS -m 2 -o /dev/null "http://$VIP/${BATON_WAIT_PATH:-?format=json}" 2> /dev/null
}

wait_complete() {
    wait_for "$WAIT" complete && return
    say "not complete after $WAIT s. What alpha's agent says:"
    docker exec "$BATON_PROJECT-alpha-agent" baton status 2>&1 || true
    local part
    for part in agent replicator; do
        for host in $HOSTS; do
            say "--- $host $part"
            docker logs --tail 15 "$BATON_PROJECT-$host-$part" 2>&1 || true
        done
    done
    return 1
}

# Compiling and packing compete for nothing but the processor: both at once.
build_all() {
    local pids=() failed=0 pid
    step "Baton's binaries, release build" cargo_build & pids+=($!)
    (step "base image debian:trixie-slim" "$SCRIPTS/images.sh" base \
        && step "images of etcd, monitoring, Apache, MariaDB, mail" "$SCRIPTS/images.sh" services) & pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    return $failed
}

up() {
    step "build tools" "$SCRIPTS/setup.sh" build
    step "Docker engine, Compose, tools" "$SCRIPTS/setup.sh" engine
    build_all
    step "image of Baton" "$SCRIPTS/images.sh" baton
    begin
}

begin() {
    step "start 2 hosts, 3 etcd members, monitoring, mail" start
    step "web serves, both replicas UpToDate" wait_complete
}

# --- down -----------------------------------------------------------------------------------------------------------------

containers() {
    {
        docker ps -aq --no-trunc --filter "label=baton.cluster=$BATON_CLUSTER"
        docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$BATON_PROJECT"
    } | sort -u
}

# remove FILTER…: kills and removes the cluster's containers that match; killing first, so that nothing restarts anything.
remove() {
    local ids
    ids=$(docker ps -aq "$@")
    # shellcheck disable=SC2086
    [ -z "$ids" ] || timeout 60 docker rm -f $ids > /dev/null
}

agents_and_services() {
    local host
    {
        for host in $ALL_HOSTS; do docker ps -aq --filter "name=^/$BATON_PROJECT-$host-agent\$"; done
        docker ps -aq --filter "label=baton.cluster=$BATON_CLUSTER" --filter label=baton.service
    } | sort -u
}

down() {
    local loops=() host dir
    if ! docker version > /dev/null 2>&1; then say "no engine runs: nothing to remove"; return; fi
    # shellcheck disable=SC2207
    loops=($(for host in $ALL_HOSTS; do loops_of "$host"; done))
    # Agents and services at once: an agent starts again what is taken down before it, and without one the volume is frozen soon,
    # on which no service can even be killed. Services while the replicators still answer, so that their filesystems are
    # unmounted in the ordinary way; one that hangs is removed when its replicator is gone.
    # shellcheck disable=SC2046
    timeout 20 docker rm -f $(agents_and_services) > /dev/null 2>&1 || true
    remove_volumes "${BATON_CLUSTER}_"
    for host in $ALL_HOSTS; do remove --filter "name=^/$BATON_PROJECT-$host-replicator\$"; done
    remove --filter "label=baton.cluster=$BATON_CLUSTER"
    rm -f "$CHANGED"
    timeout 120 "$(command -v bash)" -c ". '$SCRIPTS/lib.sh'; COMPOSE_PROFILES=third compose down --volumes --remove-orphans --timeout 2"
    remove_volumes "${BATON_CLUSTER}_"
    remove_volumes "${BATON_PROJECT}_"
    release_loops "${loops[@]}"
    for host in $ALL_HOSTS; do
        dir=/dev/baton/$BATON_PROJECT-$host
        [ ! -d "$dir" ] || rm -rf "$dir"
    done
    rm -rf "$BUILD/pki/$BATON_PROJECT"
    [ ! -d /dev/baton ] || rmdir --ignore-fail-on-non-empty /dev/baton
    nothing_left
}

nothing_left() {
    local left
    left=$(containers
        docker volume ls -q --filter "name=^${BATON_CLUSTER}_"
        docker volume ls -q --filter "name=^${BATON_PROJECT}_"
        docker network ls -q --filter "label=com.docker.compose.project=$BATON_PROJECT"
        grep -s "/${BATON_CLUSTER}_" /proc/self/mounts || true
        compgen -G "/dev/baton/$BATON_PROJECT-*" || true)
    [ -z "$left" ] || { say "left over:"; say "$left"; return 1; }
}

# --- words ----------------------------------------------------------------------------------------------------------------

explain() {
    local leader other
    leader=$(status_json | jq -r '.groups[] | select(.name == "web") | .leader')
    case $leader in alpha) other=beta ;; *) other=alpha ;; esac
    cat <<TEXT

$leader serves. On this machine:

  http://$VIP/               the page; it shows which host answers, and takes rows
  $VIP:3306                  MariaDB: user web, password web, database cluster
  https://$BATON_SUBNET.11:7480/     alpha's agent (beta: $BATON_SUBNET.12). The demo's own authority signed its certificate, and it
                              asks who you are. A token: docker exec $BATON_PROJECT-alpha-agent baton token create me --role admin
                              With curl: cd .build/pki/$BATON_PROJECT && curl --cacert ca.crt --cert admin.crt --key admin.key \
                                  https://$BATON_SUBNET.11:7480/v1/status
  http://$BATON_SUBNET.31:9090/            Prometheus; http://$BATON_SUBNET.31:9090/alerts what fires
  docker exec $BATON_PROJECT-mail mails    what the agents and Alertmanager mailed ('mails last': the last one in full); its
                                           webhook: docker logs $BATON_PROJECT-webhook

Three things to try, with the page open:

  1. Cut $leader's power, see $other take over, read the mail about it, and switch it on again:
       compose/scripts/host.sh off $leader
       docker exec $BATON_PROJECT-mail mails last
       compose/scripts/host.sh on $leader

  2. Move the group by hand:
       docker exec $BATON_PROJECT-$other-agent baton move web --to $other

  3. Watch everything while you do so, the resync included:
       docker exec -it $BATON_PROJECT-$other-agent baton watch

'make demo-down' removes every trace.
TEXT
}

case ${1:-} in
    up) say "cluster $BATON_CLUSTER (project $BATON_PROJECT, network $BATON_SUBNET.0/24)"; up ;;
    start) begin ;;
    wait) step "web serves, both replicas UpToDate" wait_complete ;;
    down) step "remove cluster $BATON_CLUSTER (project $BATON_PROJECT)" down ;;
    demo)
        begin=$(now_ms)
        say "Baton's demo: two hosts, one address, no lost write. Logs: .build/log/"
        up
        say "ready after $(took "$begin")"
        explain
        ;;
    *) sed -n '2,/^\. /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
