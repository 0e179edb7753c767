//! The table itself.

use super::Kind::{
    Address, Assignments, Boolean, Cidr, Command, Duration, Either, List, Map, OneOrMore, Path, Pattern,
    Section as In, Size, Text, Whole, Word,
};
use super::{Field, Kind, Section};

const fn field(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Field {
    Field { name, kind, default, meaning, example }
}

const MUST: &str = "";
const CONDITION: Kind = Word(&["service_started", "service_healthy", "service_completed_successfully"]);

pub(super) static SECTIONS: &[&Section] = &[
    &DOCUMENT,
    &HEARTBEAT,
    &ETCD,
    &NODE,
    &FENCE,
    &LINK,
    &MULTICAST,
    &SERIAL,
    &GROUP,
    &CIDR,
    &VOLUME,
    &RESYNC,
    &VERIFY,
    &SPLIT_BRAIN,
    &SERVICE,
    &MOUNT,
    &DEPENDENCY,
    &HEALTHCHECK,
    &ULIMIT,
    &CHECK,
    &HTTP,
    &TCP,
    &EXEC_CHECK,
    &SQL_CHECK,
    &DOCKER_CHECK,
    &WRITE_CHECK,
    &PING_CHECK,
    &TARGET,
    &MAIL,
    &WEBHOOK,
    &EXEC,
];

static DOCUMENT: Section = Section {
    title: "The document",
    path: "",
    intro: "One YAML document. Fields that begin with `x-` are ignored and may hold anchors.",
    one_of: &[],
    fields: &[
        field(
            "cluster",
            Text,
            MUST,
            "demo",
            "Name of the cluster: prefix of its keys in etcd and of its containers. At most 32 characters of `a-z`, `0-9`, `-`, `_`, `.`. Cannot be changed.",
        ),
        field("heartbeat", In(&HEARTBEAT), "the defaults below", "{ deadtime: 3s }", "The timers."),
        field(
            "transport",
            Word(&["tls", "plain"]),
            "tls",
            "plain",
            "How blocks travel between the hosts: in TLS 1.3 with the nodes' certificates, or readable on the wire, for a cable that only the hosts are on. Volumes may have their own.",
        ),
        field(
            "nodes",
            Map(&In(&NODE)),
            MUST,
            "alpha: { address: 10.0.0.11 }",
            "The hosts, by name; two to nine.",
        ),
        field("groups", Map(&In(&GROUP)), MUST, "web: { … }", "What is kept alive, by name."),
        field("etcd", In(&ETCD), "the defaults below", "{ leader_away: false }", "What is asked of etcd."),
        field(
            "notify",
            Map(&In(&TARGET)),
            "nobody",
            "operators: { mail: { … } }",
            "Whom to tell, by name; at most 16. See [notifications](notifications.md).",
        ),
    ],
};

static HEARTBEAT: Section = Section {
    title: "Timers",
    path: "heartbeat",
    intro: "Required: keepalive < warntime < fencetime < deadtime, with deadtime ≥ 1.25 × fencetime + 100 ms. A specification \
            that breaks this is refused with the numbers. A change is in force within a second, on running services.",
    one_of: &[],
    fields: &[
        field(
            "profile",
            Word(&["default", "fast"]),
            "default",
            "fast",
            "Timers that fit together: `default` for any host, `fast` for hosts that are hardly ever late, to take over after half a second. Timers that are given override those of the profile. See [timing](timing.md#shorter-or-longer).",
        ),
        field("keepalive", Duration, "100ms; fast: 50ms", "100ms", "Between two heartbeats."),
        field(
            "warntime",
            Duration,
            "500ms; fast: 200ms",
            "500ms",
            "A peer silent for this long is late, and leaves the in-sync set.",
        ),
        field(
            "fencetime",
            Duration,
            "(deadtime − 100ms) / 1.25; 1s without deadtime or profile",
            "1s",
            "A leader serves for this long after the last heartbeat that was acknowledged.",
        ),
        field(
            "deadtime",
            Duration,
            "1500ms; fast: 500ms",
            "1500ms",
            "A standby that acknowledged does not take over for this long. Shorter is a faster takeover and less patience with a loaded host.",
        ),
        field(
            "initdead",
            Duration,
            "10s, at least 2 × deadtime",
            "30s",
            "At a cold start the others wait for a preferred node for this long.",
        ),
        field(
            "ttl",
            Duration,
            "5s",
            "5s",
            "Time to live of a node's lease in etcd, which may grant more. Asked for with an agent's next lease.",
        ),
        field(
            "restart_window",
            Duration,
            "10s, at least 2 × deadtime",
            "10s",
            "The longer promise asked for before an agent restarts in order.",
        ),
        field(
            "peer_timeout",
            Duration,
            "3s, at least 2 × warntime",
            "3s",
            "Writes that wait longer for a peer count it as lost: the default of every volume.",
        ),
        field(
            "fence_stop",
            Duration,
            "10s",
            "10s",
            "A fenced group's containers stay paused for this long before they are stopped.",
        ),
        field("etcd_timeout", Duration, "1s", "1s", "Upper bound of one request to etcd."),
    ],
};

static ETCD: Section = Section {
    title: "etcd",
    path: "etcd",
    intro: "Where etcd is, agents are told on their command line (`BATON_ETCD`). See [etcd](operations.md#etcd).",
    one_of: &[],
    fields: &[
        field(
            "two_members",
            Boolean,
            "false",
            "true",
            "Accept an etcd of two members: the loss of either stops every change of leadership. Without it the first start of an agent is refused there.",
        ),
        field(
            "leader_away",
            Boolean,
            "true",
            "false",
            "Agents ask etcd to keep its leader off the hosts that lead groups, so that such a host's death does not cost an election of etcd as well.",
        ),
    ],
};

static NODE: Section = Section {
    title: "A node",
    path: "nodes.<node>",
    intro: "A host with one Docker engine, one agent and one replicator. Names are not looked up: addresses only.",
    one_of: &[],
    fields: &[
        field(
            "address",
            Address,
            MUST,
            "10.0.0.11",
            "On the network of the clients. It says on which interface the groups' addresses belong.",
        ),
        field(
            "replication",
            OneOrMore(&Address),
            "address",
            "[10.1.0.11, 10.0.0.11]",
            "Where replicas connect, one address per link in order of preference: the next is tried when one fails. A link of its own keeps bulk data off the clients' network.",
        ),
        field(
            "heartbeat",
            OneOrMore(&Either(&Either(&Address, &Word(&["none"])), &In(&LINK))),
            "address, and replication",
            "[10.0.0.11, { broadcast: eth1 }, { serial: { device: /dev/ttyS0 } }]",
            "One entry per heartbeat link, as many on every node and in the same order: an address is unicast from it to the others' addresses; other kinds are below; `none` if the node is not on that link. At a change at least one must stay.",
        ),
        field(
            "fence",
            List(&Either(&In(&FENCE), &List(&In(&FENCE)))),
            "none",
            "[{ agent: fence_ipmilan, options: { ip: 10.9.0.11, username: admin }, password_file: /etc/baton/bmc-alpha }]",
            "What can switch the node off from outside: levels, tried in order until one succeeds. A level is a device, or a list of devices of which every one must succeed (two power supplies). See [external fencing](operations.md#external-fencing).",
        ),
    ],
};

static FENCE: Section = Section {
    title: "A fence device",
    path: "nodes.<node>.fence[]",
    intro: "A program in the calling convention of the ClusterLabs fence agents. It is run by agents of other nodes, so it has to be \
            in their containers, or on their hosts under the directory of `--fence-agents`.",
    one_of: &[],
    fields: &[
        field(
            "agent",
            Pattern("^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"),
            MUST,
            "fence_ipmilan",
            "Name of the program.",
        ),
        field(
            "options",
            Map(&Text),
            "none",
            "{ ip: 10.9.0.11, username: admin, lanplus: 1 }",
            "What it is told on its standard input, as its own manual names it. `action` and `nodename` are added. No passwords.",
        ),
        field(
            "password_file",
            Path,
            "none",
            "/etc/baton/bmc-alpha",
            "File on every node with the device's password, mode 0600; given to the program as `password`, shown nowhere.",
        ),
        field("timeout", Duration, "30s", "20s", "Bound of one run of the program; then it is killed."),
        field("retries", Whole, "1", "2", "Further attempts after one that failed."),
        field(
            "delay",
            Duration,
            "0",
            "5s",
            "Waited before it is used without a person's word: give it to the devices of the node that should survive when both could fence each other. Of a node's devices the longest counts, once.",
        ),
        field(
            "verify",
            Boolean,
            "true",
            "false",
            "After `off` the program must answer `status` with off. `false` for one that knows no `status`: then its word is enough.",
        ),
    ],
};

static LINK: Section = Section {
    title: "A heartbeat link",
    path: "nodes.<node>.heartbeat[]",
    intro: "Instead of an address. Exactly one of the four. A link has one kind, and the same place in every node's list. See \
            [heartbeat links](operations.md#heartbeat-links).",
    one_of: &["unicast", "broadcast", "multicast", "serial"],
    fields: &[
        field("unicast", Address, "none", "10.0.0.11", "The same as the address alone."),
        field(
            "broadcast",
            Text,
            "none",
            "eth1",
            "Interface. Heartbeats go to 255.255.255.255 there, so it needs no address of its own.",
        ),
        field("multicast", In(&MULTICAST), "none", "{ … }", "To a multicast group, IPv4 or IPv6."),
        field(
            "serial",
            In(&SERIAL),
            "none",
            "{ device: /dev/ttyS0 }",
            "By a null-modem cable to one other node.",
        ),
    ],
};

static MULTICAST: Section = Section {
    title: "A multicast link",
    path: "nodes.<node>.heartbeat[].multicast",
    intro: "The group is the same at every node.",
    one_of: &[],
    fields: &[
        field(
            "group",
            Address,
            MUST,
            "239.0.6.94",
            "Of 239.0.0.0/8 or ff02::/16 within a site. Its own one per cluster, or others' heartbeats are received and dropped.",
        ),
        field("interface", Text, MUST, "eth1", "Interface."),
        field(
            "ttl",
            Whole,
            "1",
            "2",
            "Hops: 1 stays on the network, more crosses routers that forward multicast.",
        ),
    ],
};

static SERIAL: Section = Section {
    title: "A serial link",
    path: "nodes.<node>.heartbeat[].serial",
    intro: "Raw, eight bits, no parity, no flow control. Nothing else may use the device: no console, no getty. The agent's \
            container needs it (`devices` in Compose). A line that cannot carry a heartbeat per keepalive is refused with the \
            numbers; where it does not carry all groups at once they take turns, and status says so.",
    one_of: &[],
    fields: &[
        field("device", Path, MUST, "/dev/ttyS0", "The tty, under /dev."),
        field("baud", Whole, "115200", "230400", "Bits per second, the same at both ends."),
    ],
};

static GROUP: Section = Section {
    title: "A group",
    path: "groups.<group>",
    intro: "The unit of failover: volumes, addresses and services that live together on one node, started in that order and \
            stopped in reverse. Cannot be renamed.",
    one_of: &[],
    fields: &[
        field(
            "prefer",
            OneOrMore(&Text),
            "none",
            "[alpha]",
            "Nodes in order of preference; the others come after them. Who could start the group goes first in this order.",
        ),
        field(
            "auto_failback",
            Either(&Boolean, &Duration),
            "false",
            "10m",
            "Hand the group to a node that is further ahead in `prefer` when that has been ready for this long without a break; `true`: for 10 s.",
        ),
        field(
            "stickiness",
            Whole,
            "0",
            "1",
            "What keeps a group that serves where it is, as in Pacemaker: it moves by itself only to a node that is ahead by more than this, in places of `prefer` (`auto_failback`) or in gateways reached (`ping` checks). Failures, standby mode and a person's word do not ask for it.",
        ),
        field(
            "with",
            Text,
            "none",
            "db",
            "A group that this one goes with: it is led on the same node, starts when that serves, stops before it, and moves when that moves. It has no `prefer` of its own, and waits while nobody leads the other.",
        ),
        field(
            "apart_from",
            OneOrMore(&Text),
            "none",
            "[reports]",
            "Groups that this one is rather not led beside. A preference: it runs beside them while no other node is ready, status says so, and it moves when one has been ready for 10 s.",
        ),
        field("addresses", List(&Cidr), "none", "[10.0.0.100/24]", "Addresses that follow the group."),
        field(
            "volumes",
            Map(&In(&VOLUME)),
            "none",
            "webstore: { size: 1GiB }",
            "Replicated volumes, by name; names are unique in the cluster. None can join or leave later.",
        ),
        field(
            "services",
            Map(&In(&SERVICE)),
            "none",
            "apache: { image: … }",
            "Containers in Compose syntax, by name.",
        ),
        field(
            "checks",
            List(&In(&CHECK)),
            "none",
            "- http: { url: \"http://{address}/\" }",
            "Health checks of the group as a whole.",
        ),
        field(
            "migration_threshold",
            Whole,
            "3",
            "5",
            "Failures of a service within `failure_timeout` after which the group moves; until then it is restarted in place.",
        ),
        field("failure_timeout", Duration, "10m", "10m", "Failures older than this do not count."),
        field("start_timeout", Duration, "2m", "2m", "Bound of a start; then it has failed."),
        field(
            "takeover_timeout",
            Duration,
            "start_timeout",
            "5m",
            "The same after a takeover, where a filesystem or a database may have to replay its log first. Planned moves keep `start_timeout`.",
        ),
        field(
            "stop_timeout",
            Duration,
            "1m",
            "1m",
            "Bound of a stop; longer than every service's `stop_grace_period`.",
        ),
        field(
            "engine_timeout",
            Duration,
            "1m",
            "30s",
            "A Docker engine that does not answer makes nothing stopped: the group goes on serving. After this time without an answer it is taken away from the node, if a standby with a working engine is ready.",
        ),
        field(
            "standby",
            Word(&["cold", "hot"]),
            "cold",
            "hot",
            "`cold`: standbys keep containers created, and a takeover starts them. `hot`: services without a replicated volume run on the standbys, too, and a takeover only moves the addresses; what binds to all addresses is then reachable on every node's own one.",
        ),
        field(
            "after_power_loss",
            Word(&["wait", "start"]),
            "wait",
            "start",
            "After a power cut of the whole site, if a member of the in-sync set stays unseen: wait for it, or start without it after `initdead`.",
        ),
        field(
            "fence",
            Word(&["auto", "required"]),
            "auto",
            "required",
            "When a former leader is switched off by its node's `fence` devices. `auto`: before a slow takeover, and no longer than the attempt takes. `required`: before every takeover from a leader that did not give the group up, and without success nobody takes over; every node needs devices.",
        ),
        field(
            "notify",
            OneOrMore(&Text),
            "none",
            "[operators]",
            "Targets under `notify` that hear about this group.",
        ),
    ],
};

static CIDR: Section = Section {
    title: "An address with its interface",
    path: "groups.<group>.addresses[]",
    intro: "Instead of `ADDRESS/PREFIX` alone.",
    one_of: &[],
    fields: &[
        field(
            "address",
            Pattern("^[0-9a-fA-F.:]+/[0-9]{1,3}$"),
            MUST,
            "10.0.0.100/24",
            "The address, with the prefix length of its network.",
        ),
        field("interface", Text, "that of the node's address", "eth1", "Where it belongs."),
        field(
            "preferred",
            Boolean,
            "IPv4 true, IPv6 false",
            "false",
            "The host may choose it as the source of connections of its own. `false` gives it a preferred lifetime of 0.",
        ),
    ],
};

static VOLUME: Section = Section {
    title: "A volume",
    path: "groups.<group>.volumes.<volume>",
    intro: "A block device with a filesystem, whose every acknowledged write is on every in-sync node.",
    one_of: &[],
    fields: &[
        field(
            "size",
            Size,
            MUST,
            "1GiB",
            "A multiple of 4 KiB, at least 8 MiB. A larger one lets the volume grow while it is in use; it never shrinks.",
        ),
        field(
            "filesystem",
            Word(&["ext4", "xfs"]),
            "ext4",
            "xfs",
            "Made at the group's first start, and never again.",
        ),
        field(
            "protocol",
            Word(&["A", "B", "C"]),
            "C",
            "C",
            "As in DRBD: C acknowledges when every in-sync node has the write. A acknowledges when it was handed to the local network stack: a node that is reached by A is never in sync and never takes over by itself. B acknowledges as C does: later than it must.",
        ),
        field(
            "protocols",
            Map(&Word(&["A", "B", "C"])),
            "`protocol` for all",
            "{ alpha: A }",
            "The protocol by which a node is reached, where it is another one; e.g. A for a host far away.",
        ),
        field(
            "transport",
            Word(&["tls", "plain"]),
            "the cluster's",
            "plain",
            "How its blocks travel, see [security](security.md). Changed while in use.",
        ),
        field(
            "front_end",
            Word(&["fuse", "nbd"]),
            "fuse",
            "nbd",
            "How the leader's host gets at it: a block device with the filesystem, or an NBD server on the socket \
             `/run/baton/<volume>.nbd` (for virtual machines; nothing is formatted or mounted). Cannot be changed.",
        ),
        field(
            "backing",
            Either(&Path, &Map(&Path)),
            "a file in the state directory",
            "/dev/vg0/web",
            "Block device that holds the data on every node, or one per node.",
        ),
        field("mount_options", OneOrMore(&Text), "none", "[noatime]", "Used when the group starts."),
        field(
            "peer_timeout",
            Duration,
            "heartbeat.peer_timeout",
            "3s",
            "Writes that wait longer for a peer count it as lost; at least 100 ms.",
        ),
        field(
            "disk_timeout",
            Duration,
            "30s",
            "10s",
            "A request to the disk or the metadata that takes longer has failed; at least 1 s. Changed while in use.",
        ),
        field("resync_rate", Size, "0 (unbounded)", "100MiB", "Short for `resync: { rate: … }`."),
        field(
            "resync",
            In(&RESYNC),
            "yields to the application",
            "{ rate: 200MiB }",
            "Bounds of resync and verify.",
        ),
        field(
            "verify",
            In(&VERIFY),
            "none",
            "{ every: 7d, at: \"03:00\" }",
            "Compares the replicas by schedule, while they are in use.",
        ),
        field(
            "after_split_brain",
            Either(
                &Word(&[
                    "disconnect",
                    "discard-secondary",
                    "discard-younger-primary",
                    "discard-older-primary",
                    "discard-zero-changes",
                    "discard-least-changes",
                ]),
                &In(&SPLIT_BRAIN),
            ),
            "disconnect",
            "discard-zero-changes",
            "What resolves a split brain by itself, with DRBD's names. One word is short for `one_primary: consensus` with that word for `zero_primaries` (`discard-secondary`: for `one_primary`).",
        ),
    ],
};

static RESYNC: Section = Section {
    title: "Bounds of a resync",
    path: "groups.<group>.volumes.<volume>.resync",
    intro: "While the application is quiet, a resync goes as fast as disks and network allow, at most `rate`. While it is not, \
            Baton looks every 100 ms how long its reads and writes took: longer than `target_latency` on average, and the \
            resync slows down by 30 %; clearly less, and it speeds up by a quarter; never below `min`, else a busy database \
            would not get its redundancy back. Without a target it is twice what the same requests take when no resync \
            runs, and at least 1 ms. The defaults suit a disk that the application and the resync share; give a `rate` \
            where the network is shared with others, a higher `min` where redundancy matters more than latency. All three \
            are changed while a resync runs and are in force at once. A verify keeps to the same bounds.",
    one_of: &[],
    fields: &[
        field("rate", Size, "0 (unbounded)", "200MiB", "Most, per second."),
        field("min", Size, "4MiB", "4MiB", "Per second, however busy the application is; not above `rate`."),
        field(
            "target_latency",
            Duration,
            "twice what requests take without resync",
            "5ms",
            "Latency of the application's requests that is held.",
        ),
    ],
};

static VERIFY: Section = Section {
    title: "A schedule of verify",
    path: "groups.<group>.volumes.<volume>.verify",
    intro: "",
    one_of: &[],
    fields: &[
        field("every", Duration, MUST, "7d", "Time between two; at least 1 h, with `at` at least 1 d."),
        field("at", Text, "any time", "\"03:00\"", "Time of day (UTC), hours and minutes in quotes."),
        field("repair", Boolean, "false", "true", "Copy what differs from the primary."),
    ],
};

static SPLIT_BRAIN: Section = Section {
    title: "Split brain",
    path: "groups.<group>.volumes.<volume>.after_split_brain",
    intro: "What happens to replicas that both went on alone. A primary's data is in use and never given up; of what is given \
            up a copy is kept (not of a block device). Replicas meet when one of them is primary, so `one_primary` decides.",
    one_of: &[],
    fields: &[
        field(
            "zero_primaries",
            Word(&[
                "disconnect",
                "discard-younger-primary",
                "discard-older-primary",
                "discard-zero-changes",
                "discard-least-changes",
            ]),
            "disconnect",
            "discard-least-changes",
            "DRBD's after-sb-0pri: whose data would be given up if neither were primary. What `consensus` asks.",
        ),
        field(
            "one_primary",
            Word(&["disconnect", "consensus", "discard-secondary"]),
            "disconnect",
            "consensus",
            "DRBD's after-sb-1pri: `consensus` gives the secondary's data up if `zero_primaries` says so too.",
        ),
        field(
            "two_primaries",
            Word(&["disconnect"]),
            "disconnect",
            "disconnect",
            "DRBD's after-sb-2pri: both stay as they are until one of them is demoted.",
        ),
    ],
};

static SERVICE: Section = Section {
    title: "A service",
    path: "groups.<group>.services.<service>",
    intro: "A container in Compose syntax. It shares its host's network, so that it answers on the group's addresses. What \
            Compose knows and Baton refuses (`build`, `ports`, `restart`, `privileged`, …) is explained by the error. A change \
            of any field but `depends_on` and `stop_grace_period` restarts this service, in place.",
    one_of: &[],
    fields: &[
        field("image", Text, MUST, "httpd:2.4", "Image, with tag or digest."),
        field("command", Command, "the image's", "[httpd, -DFOREGROUND]", "Arguments."),
        field("entrypoint", Command, "the image's", "[/run.sh]", "Program."),
        field(
            "environment",
            Assignments,
            "none",
            "{ TZ: UTC }",
            "Environment; `BATON_NODE` and `BATON_GROUP` are added.",
        ),
        field(
            "volumes",
            List(&Either(&Text, &In(&MOUNT))),
            "none",
            "[\"webstore:/srv\"]",
            "Mounts: `volume:/path`, or `/host/path:/path`, with `:ro` if wanted.",
        ),
        field(
            "depends_on",
            Either(&List(&Text), &Map(&In(&DEPENDENCY))),
            "none",
            "[mysql]",
            "Services that must have reached a condition first.",
        ),
        field(
            "healthcheck",
            In(&HEALTHCHECK),
            "the image's",
            "{ test: [CMD, ok] }",
            "How the container is asked whether it is well.",
        ),
        field("user", Text, "the image's", "www-data", "User, or `user:group`."),
        field("working_dir", Path, "the image's", "/srv", "Working directory."),
        field("cap_add", List(&Text), "none", "[NET_BIND_SERVICE]", "Capabilities added."),
        field("cap_drop", List(&Text), "none", "[ALL]", "Capabilities dropped."),
        field("devices", List(&Text), "none", "[/dev/ttyS0]", "Devices, `host[:container[:rwm]]`."),
        field(
            "ulimits",
            Map(&Either(&Whole, &In(&ULIMIT))),
            "the engine's",
            "{ nofile: 65536 }",
            "Resource limits.",
        ),
        field("tmpfs", OneOrMore(&Text), "none", "/run:size=64m", "Paths that are a tmpfs, with options."),
        field("shm_size", Size, "64MiB", "256m", "Size of `/dev/shm`."),
        field("hostname", Text, "the host's", "web", "Host name."),
        field(
            "stop_grace_period",
            Duration,
            "10s",
            "5s",
            "Between the stop signal and SIGKILL; shorter than the group's `stop_timeout`.",
        ),
        field("stop_signal", Text, "the image's", "SIGQUIT", "Signal that asks it to stop."),
        field("labels", Assignments, "none", "{ tier: front }", "Labels."),
        field("init", Boolean, "the engine's", "true", "Run an init process as PID 1."),
        field("read_only", Boolean, "false", "true", "Root filesystem read-only."),
        field("security_opt", List(&Text), "none", "[\"no-new-privileges:true\"]", "Security options."),
    ],
};

static MOUNT: Section = Section {
    title: "A mount in long form",
    path: "groups.<group>.services.<service>.volumes[]",
    intro: "",
    one_of: &[],
    fields: &[
        field(
            "type",
            Word(&["volume", "bind"]),
            "by source",
            "volume",
            "A volume of the group, or a path of the host.",
        ),
        field("source", Text, MUST, "webstore", "The volume, or an absolute path."),
        field("target", Path, MUST, "/srv", "Where it is in the container."),
        field("read_only", Boolean, "false", "true", "Mounted read-only."),
    ],
};

static DEPENDENCY: Section = Section {
    title: "A dependency in long form",
    path: "groups.<group>.services.<service>.depends_on.<service>",
    intro: "",
    one_of: &[],
    fields: &[field(
        "condition",
        CONDITION,
        "service_started",
        "service_healthy",
        "What it must have reached.",
    )],
};

static HEALTHCHECK: Section = Section {
    title: "A container's health check",
    path: "groups.<group>.services.<service>.healthcheck",
    intro: "",
    one_of: &[],
    fields: &[
        field(
            "test",
            Either(&Text, &List(&Text)),
            "the image's",
            "[CMD, healthcheck.sh]",
            "A line for the container's shell, or `[CMD, …]`, `[CMD-SHELL, …]`, `[NONE]`.",
        ),
        field("interval", Duration, "30s", "2s", "Between two tests."),
        field("timeout", Duration, "30s", "2s", "Bound of one."),
        field("retries", Whole, "3", "3", "Failures in a row that make it unhealthy."),
        field("start_period", Duration, "0", "30s", "Failures in this time after the start do not count."),
        field("disable", Boolean, "false", "true", "No check, not even the image's."),
    ],
};

static ULIMIT: Section = Section {
    title: "A resource limit with two values",
    path: "groups.<group>.services.<service>.ulimits.<name>",
    intro: "",
    one_of: &[],
    fields: &[
        field("soft", Pattern("^(-1|[0-9]+)$"), MUST, "1024", "Soft limit; -1 is unlimited."),
        field("hard", Pattern("^(-1|[0-9]+)$"), MUST, "4096", "Hard limit; -1 is unlimited."),
    ],
};

static CHECK: Section = Section {
    title: "A check of the group",
    path: "groups.<group>.checks[]",
    intro: "Made on the leader while the group serves; `ping` on every node, always. `{address}` stands for the group's first \
            address. A check counts only after it has passed once since the group began to serve.",
    one_of: &["http", "tcp", "exec", "sql", "docker", "write", "ping"],
    fields: &[
        field("http", In(&HTTP), MUST, "{ url: \"http://{address}/\" }", "A GET."),
        field("tcp", In(&TCP), MUST, "{ address: \"{address}:3306\" }", "A connection."),
        field(
            "exec",
            In(&EXEC_CHECK),
            MUST,
            "{ service: mysql, command: [ok] }",
            "A command in a service's container.",
        ),
        field(
            "sql",
            In(&SQL_CHECK),
            MUST,
            "{ address: \"{address}:3306\", user: baton, database: app }",
            "A fresh connection in the MySQL protocol, and a transaction.",
        ),
        field("docker", In(&DOCKER_CHECK), MUST, "{ service: mysql }", "The container's own health check."),
        field(
            "write",
            In(&WRITE_CHECK),
            MUST,
            "{ service: mysql, path: /var/lib/mysql/.baton-check }",
            "A write to a replicated volume, made durable.",
        ),
        field("ping", In(&PING_CHECK), MUST, "{ address: 10.0.0.1 }", "The way to a gateway."),
    ],
};

const INTERVAL: Field = field("interval", Duration, "1s", "1s", "Between two; at least 50 ms.");
const TIMEOUT: Field = field("timeout", Duration, "1s", "1s", "Bound of one; at least 10 ms.");
const SLOW_INTERVAL: Field = field("interval", Duration, "5s", "5s", "Between two; at least 50 ms.");
const SLOW_TIMEOUT: Field = field("timeout", Duration, "5s", "5s", "Bound of one; at least 10 ms.");
const NAME: Field = field(
    "name",
    Text,
    "made of what it does",
    "front page",
    "Its name in status, events and metrics; at most 64 characters.",
);
const JITTER: Field = field(
    "jitter",
    Duration,
    "the interval",
    "500ms",
    "Each check has its own place in the interval, drawn from its name, at most this far into it: many of them do not run at the same moment.",
);
const RISE: Field = field("rise", Whole, "1", "2", "Successes in a row after which it passes.");
const FALL: Field = field("fall", Whole, "3", "3", "Failures in a row that count as a failure.");
const RETRIES: Field =
    field("retries", Whole, "3", "3", "The same as `fall`, which counts if both are given.");
const START_PERIOD: Field = field(
    "start_period",
    Duration,
    "10s",
    "30s",
    "Failures in this time after one that was acted upon, or after a service that the check needs has ended or was started again, do not count, unless it passed in between: the time that a restart takes.",
);
const ON_FAILURE: Field = field(
    "on_failure",
    Word(&["restart", "move", "alarm"]),
    "restart",
    "alarm",
    "`restart`: the service is restarted in place, and after `migration_threshold` failures the group moves. `move`: the group moves at once, if a standby is ready. `alarm`: people are told. A full disk is always only an alarm: no other node has more room.",
);
const BLAMED: Field = field(
    "service",
    Text,
    "all services of the group",
    "apache",
    "Which service is restarted when it fails.",
);

static HTTP: Section = Section {
    title: "A check by HTTP",
    path: "groups.<group>.checks[].http",
    intro: "",
    one_of: &[],
    fields: &[
        field("url", Pattern("^http://"), MUST, "http://{address}/", "What is asked for."),
        field("status", OneOrMore(&Whole), "200 to 399", "[200, 204]", "Statuses that are good."),
        INTERVAL,
        TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
        BLAMED,
    ],
};

static TCP: Section = Section {
    title: "A check by TCP",
    path: "groups.<group>.checks[].tcp",
    intro: "",
    one_of: &[],
    fields: &[
        field("address", Pattern(":[0-9]+$"), MUST, "{address}:3306", "Where to connect."),
        INTERVAL,
        TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
        BLAMED,
    ],
};

static EXEC_CHECK: Section = Section {
    title: "A check by a command",
    path: "groups.<group>.checks[].exec",
    intro: "",
    one_of: &[],
    fields: &[
        field("service", Text, MUST, "mysql", "In whose container; it is restarted when the check fails."),
        field("command", Command, MUST, "[healthcheck.sh, --connect]", "Good if it ends with status 0."),
        INTERVAL,
        TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
    ],
};

static SQL_CHECK: Section = Section {
    title: "A check by a transaction",
    path: "groups.<group>.checks[].sql",
    intro: "Each time a fresh connection to a server that speaks the MySQL protocol (MariaDB, MySQL), and a transaction that is \
            committed: a row of the table `baton_check`, which is made in `database` if it is missing, is written and read back \
            afterwards. The user needs `CREATE`, `INSERT`, `UPDATE` and `SELECT` on it. A server that says its disk is full, or that \
            refuses the user, raises an alarm: neither a restart nor another node would help.",
    one_of: &[],
    fields: &[
        field("address", Pattern(":[0-9]+$"), MUST, "{address}:3306", "Where the server is."),
        field("user", Text, MUST, "baton", "Who logs in."),
        field(
            "password_file",
            Path,
            "no password",
            "/etc/baton/sql/password",
            "File with the user's password, on every node.",
        ),
        field("database", Text, MUST, "app", "The database that is used."),
        field(
            "statement",
            Text,
            "a row of `baton_check`",
            "UPDATE heartbeat SET n = n + 1",
            "A statement that the transaction consists of instead.",
        ),
        SLOW_INTERVAL,
        SLOW_TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
        BLAMED,
    ],
};

static DOCKER_CHECK: Section = Section {
    title: "A check by the container's own",
    path: "groups.<group>.checks[].docker",
    intro: "What the engine says of the container's `HEALTHCHECK` (or that of its image), as a check with a name. It then decides \
            what follows when the container is unhealthy, instead of the restart that follows without it. A container without such \
            a check is good while it runs.",
    one_of: &[],
    fields: &[
        field("service", Text, MUST, "mysql", "Whose container; it is restarted when the check fails."),
        INTERVAL,
        TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
    ],
};

static WRITE_CHECK: Section = Section {
    title: "A check by a write",
    path: "groups.<group>.checks[].write",
    intro: "Writes 4 KiB to a file on a replicated volume and makes them durable, which needs every in-sync node. Done in the \
            service's container as its own user, with `sh`, `dd` and `df` of its image. A write that hangs is left alone; while it \
            does, the check fails and begins no other. A full filesystem raises an alarm: every node has the same.",
    one_of: &[],
    fields: &[
        field("service", Text, MUST, "mysql", "In whose container; it is restarted when the check fails."),
        field(
            "path",
            Path,
            MUST,
            "/var/lib/mysql/.baton-check",
            "A file that is only for this, on a replicated volume of the service.",
        ),
        field(
            "min_free",
            Size,
            "1MiB",
            "100MiB",
            "Less free space than this for ordinary users counts as full.",
        ),
        SLOW_INTERVAL,
        SLOW_TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        START_PERIOD,
        ON_FAILURE,
        NAME,
    ],
};

static PING_CHECK: Section = Section {
    title: "A check of the way to a gateway",
    path: "groups.<group>.checks[].ping",
    intro: "ICMP echo, made by every node, and told to the others in heartbeats. The group is handed over if a standby that is ready \
            has reached more of the group's gateways than its leader for `hold`. Nothing is ever stopped for it: if no node reaches the \
            gateway, everything stays where it is. Nor does `auto_failback` bring a group to a node that reaches fewer.",
    one_of: &[],
    fields: &[
        field("address", Address, MUST, "10.0.0.1", "Who has to answer; IPv4 or IPv6."),
        field(
            "hold",
            Duration,
            "10s",
            "30s",
            "For how long without a break the other node must have been better.",
        ),
        INTERVAL,
        TIMEOUT,
        JITTER,
        RISE,
        FALL,
        RETRIES,
        NAME,
    ],
};

static TARGET: Section = Section {
    title: "Whom to tell",
    path: "notify.<name>",
    intro: "",
    one_of: &["mail", "webhook", "exec"],
    fields: &[
        field(
            "mail",
            In(&MAIL),
            MUST,
            "{ to: [ops@example.org], via: \"smtp://mail:25\" }",
            "Electronic mail.",
        ),
        field(
            "webhook",
            In(&WEBHOOK),
            MUST,
            "{ url: \"https://chat.example.org/hook\" }",
            "POST of the message as JSON.",
        ),
        field(
            "exec",
            In(&EXEC),
            MUST,
            "{ command: [/usr/local/bin/page-me] }",
            "A command in the agent's container.",
        ),
        field(
            "severity",
            Word(&["info", "warning", "critical"]),
            "warning",
            "critical",
            "What is less severe is not told.",
        ),
        field("groups", OneOrMore(&Text), "all, and the cluster as a whole", "[web]", "Only these groups."),
        field(
            "alert_every",
            Duration,
            "once",
            "1h",
            "A state that lasts is told again after each such time; at least a minute.",
        ),
        field("recovery", Boolean, "true", "false", "Tell the end of what was told."),
        field("hold", Duration, "10s", "30s", "A state is told when it has lasted this long."),
        field("max_per_hour", Whole, "20", "5", "More than this are put together."),
    ],
};

static MAIL: Section = Section {
    title: "Mail",
    path: "notify.<name>.mail",
    intro: "",
    one_of: &[],
    fields: &[
        field("to", OneOrMore(&Text), MUST, "[ops@example.org]", "Recipients."),
        field(
            "via",
            Pattern("^smtps?://"),
            MUST,
            "smtp://mail.example.org:587",
            "Server: `smtp://`, or `smtps://` for TLS from the first byte.",
        ),
        field("from", Text, "baton@<node>", "baton@example.org", "Sender."),
        field("user", Text, "none", "baton", "User to authenticate as; needs `password_file`."),
        field(
            "password_file",
            Path,
            "none",
            "/etc/baton/mail-password",
            "File with the password, on every node.",
        ),
        field(
            "ca_file",
            Path,
            "the public CAs",
            "/etc/baton/mail-ca.pem",
            "CA certificates to check the server against.",
        ),
        field(
            "tls",
            Word(&["none", "opportunistic", "required"]),
            "opportunistic; required with user",
            "required",
            "STARTTLS.",
        ),
    ],
};

static WEBHOOK: Section = Section {
    title: "Webhook",
    path: "notify.<name>.webhook",
    intro: "",
    one_of: &[],
    fields: &[
        field("url", Pattern("^https?://"), MUST, "https://chat.example.org/hook", "Where to."),
        field(
            "token_file",
            Path,
            "none",
            "/etc/baton/chat-token",
            "File with a bearer token, on every node.",
        ),
        field(
            "secret_file",
            Path,
            "none",
            "/etc/baton/chat-key",
            "File with the key of the signature, on every node.",
        ),
        field(
            "ca_file",
            Path,
            "the public CAs",
            "/etc/baton/chat-ca.pem",
            "CA certificates to check the server against.",
        ),
        field("timeout", Duration, "10s", "10s", "Bound of one attempt; 100 ms to a minute."),
    ],
};

static EXEC: Section = Section {
    title: "Command",
    path: "notify.<name>.exec",
    intro: "",
    one_of: &[],
    fields: &[
        field("command", OneOrMore(&Text), MUST, "[/usr/local/bin/page-me]", "Program and arguments."),
        field("timeout", Duration, "10s", "10s", "After this it is killed; 100 ms to a minute."),
    ],
};
