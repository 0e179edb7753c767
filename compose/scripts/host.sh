#!/usr/bin/env bash
# host.sh off | on | unplug | plug HOST: what can happen to a demo host (alpha, beta; witness has power only).
#   off      cuts its power: SIGKILL for all its containers at once
#   on       switches it on: namespace, etcd, replicator, agent; the agent decides about the rest
#   unplug   pulls its network cable (the machine's end of the namespace's link goes down)
#   plug     puts it back
. "$(dirname "$0")/lib.sh"
[ $# = 2 ] || { sed -n '2,/^\. /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
HOST=$2

mine() { docker ps --no-trunc --format '{{.Names}}' --filter "label=baton.cluster=$BATON_CLUSTER" --filter "label=baton.host=$HOST" "$@"; }

off() {
    local running
    running=$(mine)
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
        if [ -n "$(mine -a --filter "name=^/$name\$")" ]; then docker start "$name" > /dev/null; fi
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

case $1 in
    off) off ;;
    on) on ;;
    unplug) link down ;;
    plug) link up ;;
    *) die "what is '$1'? off, on, unplug or plug" ;;
esac
