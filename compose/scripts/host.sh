#!/usr/bin/env bash
# host.sh off | on | unplug | plug | upgrade HOST: what can happen to a demo host (alpha, beta, gamma; witness has power only).
#   off      cuts its power: SIGKILL for all its containers at once
#   on       switches it on: namespace, etcd, replicator, agent; the agent decides about the rest
#   unplug   pulls its network cable (the machine's end of the namespace's link goes down)
#   plug     puts it back
#   upgrade  makes its replicator and agent anew from the present image; for a host that leads nothing
# host.sh cert | add | remove HOST, host.sh etcd OLD NEW: what the demo has for "Replace a host" in docs/operations.md.
#   cert     makes its certificates, as an administrator does, and hands them to it
#   add      a machine with an empty disk: its agent and replicator start
#   remove   takes it away with its disk; the specification must have let go of it before
#   etcd     the member on NEW takes the place of the one that was on OLD; the agents are told, one after the other
. "$(dirname "$0")/lib.sh"
case "${1:-} $#" in "etcd 3") ;; *" 2") [ "$1" != etcd ] ;; *) false ;; esac || { sed -n '2,/^\. /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
HOST=$2

mine() { docker ps --no-trunc --filter "label=baton.cluster=$BATON_CLUSTER" --filter "label=baton.host=$HOST" "$@"; }

off() {
    local running
    running=$(mine -q)
    [ -n "$running" ] || die "$HOST is off, or there is no such host in cluster $BATON_CLUSTER"
    # shellcheck disable=SC2086
    docker kill $running > /dev/null
}

# Names, not labels, for what belongs to the host itself: its services are its agent's business.
on() {
    local name
    for name in "$HOST" "etcd-$HOST" "$HOST-replicator" "$HOST-agent"; do
        name=$BATON_PROJECT-$name
        # A namespace that has begun anew takes its inhabitants along: they still sit in the old one.
        if [ -n "$(mine -aq --filter "name=^/$name\$")" ]; then docker start "$name" > /dev/null; fi
    done
}

# link up|down: the other end of the host's eth0 is a device of this machine.
link() {
    local index device
    index=$(docker exec "$BATON_PROJECT-$HOST" cat /sys/class/net/eth0/iflink)
    device=$(ip -o link | awk -F '[: @]+' -v index_="$index" '$1 == index_ { print $2 }')
    [ -n "$device" ] || die "no device of this machine has index $index"
    ip link set dev "$device" "$1"
}

upgrade() { COMPOSE_PROFILES=third compose up -d --no-deps --no-build "$HOST-replicator" "$HOST-agent"; }

# --- replacing a host -----------------------------------------------------------------------------------------------------

# The last number of the host's address and of its etcd member's.
numbers() {
    case $1 in
        alpha) say 11 21 ;;
        beta) say 12 22 ;;
        gamma) say 13 24 ;;
        *) die "the demo has no host '$1'; it has alpha, beta and gamma" ;;
    esac
}

cert() {
    local own member
    read -r own member < <(numbers "$HOST")
    # A host that was here before keeps the ones it had.
    # shellcheck disable=SC2016
    compose run --rm --no-deps pki sh -c '[ -e "/pki/authority/$1.crt" ] || exec baton cert node "$1" --dir /pki/authority \
        --address "$2" --address "$3"' cert "$HOST" "$BATON_SUBNET.$own" "$BATON_SUBNET.$member"
    # Hands out what was made.
    docker start -a "$BATON_PROJECT-pki" > /dev/null
}

add() {
    numbers "$HOST" > /dev/null
    COMPOSE_PROFILES=third compose up -d --no-build "$HOST" "$HOST-replicator" "$HOST-agent"
}

# another: an agent of another host.
another() {
    docker ps --format '{{.Names}}' --filter "label=baton.cluster=$BATON_CLUSTER" --filter 'name=-agent$' \
        | grep -vxF "$BATON_PROJECT-$HOST-agent" | head -n 1
}

# let_go: another host's agent answers, and nothing it knows of counts on this one any more.
let_go() {
    docker exec "$(another)" baton status --json | jq -e --arg host "$HOST" 'all(.nodes[]; .name != $host)' > /dev/null
}

remove() {
    local loops ids
    if ! wait_for 60 let_go; then
        docker exec "$(another)" baton status --full >&2 || true
        die "the cluster still counts on $HOST: take it out of the specification, 'baton apply' it, and look at 'baton status' on \
another host (docs/operations.md, Replace a host)"
    fi
    loops=$(loops_of "$HOST")
    # The agent first, or it would start again what is taken down; the services while their device still answers.
    for ids in "$(mine -aq --filter 'name=-agent$')" "$(mine -aq --filter label=baton.service)" \
        "$(mine -q --filter 'name=-replicator$')"; do
        # shellcheck disable=SC2086
        [ -z "$ids" ] || timeout 60 docker stop -t 5 $ids > /dev/null
    done
    ids=$(mine -aq)
    # shellcheck disable=SC2086
    [ -z "$ids" ] || timeout 60 docker rm -f $ids > /dev/null
    for ids in "${BATON_CLUSTER}_${HOST}_" "${BATON_PROJECT}_$HOST-" "${BATON_PROJECT}_etcd-$HOST\$"; do remove_volumes "$ids"; done
    # shellcheck disable=SC2086
    release_loops $loops
    rm -rf "/dev/baton/$BATON_PROJECT-$HOST"
}

etcdctl() { docker exec "$BATON_PROJECT-etcd-witness" etcdctl "$@"; }

# What an administrator would write into /etc/baton/host.env and etcd's options: the demo's files stay as they are.
write_changed() {
    local host urls
    urls=$(etcdctl member list | awk -F ', ' '$5 != "" { print $5 }' | sort | paste -sd ,)
    {
        say "services:"
        say "  etcd-$1: { environment: { ETCD_INITIAL_CLUSTER: \"$2\", ETCD_INITIAL_CLUSTER_STATE: existing } }"
        for host in alpha beta gamma; do say "  $host-agent: { environment: { BATON_ETCD: \"$urls\" } }"; done
    } > "$CHANGED"
}

# Nobody is added before everybody who is left is healthy: etcd refuses it for its first seconds.
member_added() { etcdctl member add "$1" --peer-urls "https://$BATON_SUBNET.$2:2380" > "$BUILD/etcd-$BATON_PROJECT.added"; }

replace_member() {
    local old=$HOST new=$1 id member cluster host
    read -r _ member < <(numbers "$new")
    id=$(etcdctl member list | awk -F ', ' -v old="$old" '$3 == old { print $1 }')
    [ -n "$id" ] || die "etcd has no member $old"
    etcdctl member remove "$id"
    wait_for 30 member_added "$new" "$member" || die "etcd does not take $new as a member"
    cluster=$(sed -n 's/^ETCD_INITIAL_CLUSTER="\(.*\)"/\1/p' "$BUILD/etcd-$BATON_PROJECT.added")
    rm -f "$BUILD/etcd-$BATON_PROJECT.added"
    write_changed "$new" "$cluster"
    COMPOSE_PROFILES=third compose up -d --no-deps --no-build "etcd-$new"
    wait_for 60 docker exec "$BATON_PROJECT-etcd-$new" etcdctl endpoint health || die "member $new does not become healthy"
    write_changed "$new" "$cluster"
    for host in alpha beta gamma; do
        [ -n "$(docker ps -q --filter "name=^/$BATON_PROJECT-$host-agent\$")" ] || continue
        COMPOSE_PROFILES=third compose up -d --no-deps --no-build "$host-agent"
        wait_for 30 docker exec "$BATON_PROJECT-$host-agent" baton is live || die "$host's agent does not come back"
    done
}

case $1 in
    upgrade) upgrade ;;
    off) off ;;
    on) on ;;
    unplug) link down ;;
    plug) link up ;;
    cert) cert ;;
    add) add ;;
    remove) remove ;;
    etcd) replace_member "$3" ;;
    *) die "what is '$1'? off, on, unplug, plug, upgrade, cert, add, remove or etcd" ;;
esac
