//! What only this process can count: requests, gaps, changes it saw, files it filled. Lives as long as the process.
//!
//! There is one per process, [`live`], because those who count (a heartbeat thread, a connection pool, a web server)
//! have nothing else in common. Nothing is decided on it. Labels come from the specification, from fixed words and from
//! the API's routes, so that the number of series has a bound.

use super::table::{Kind, Metric};
use super::text_of;
use super::watcher::{Seen, Watcher};
use crate::core::timing::Timers;
use crate::etcd::MemberStatus;
use crate::status::{ClusterStatus, Takeover};
use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Gaps between heartbeats: keepalive is 100 ms, deadtime 1.5 s by default.
const GAPS: &[f64] = &[0.05, 0.09, 0.11, 0.13, 0.16, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 3.0, 10.0];
/// Requests: from an answer out of memory to the longest bound of any of them (10 s).
const REQUESTS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Steps of a change of leadership: from a netlink call to a database's recovery.
const STEPS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0];

/// All metrics of [`Live`], in the order of the documentation.
pub const LIVE: &[Metric] = &[
    counter(
        "baton_leadership_changes_total",
        &["group", "kind"],
        "Changes of leadership that ended in serving on this node (takeover, handover, first start, resume).",
    ),
    histogram(
        "baton_takeover_duration_seconds",
        &["group", "kind", "step"],
        "Durations of those changes by step; step \"total\" is all until it serves, \"answer\" the first good answer after that.",
    ),
    gauge(
        "baton_leadership_changed_timestamp_seconds",
        &["group"],
        "Wall clock of the last change of leader that this agent saw, or of its own first look.",
    ),
    gauge(
        "baton_node_mode_changed_timestamp_seconds",
        &["node"],
        "Wall clock of the last change of the node's mode that this agent saw, or of its own first look.",
    ),
    gauge("baton_timer_seconds", &["timer"], "Timers in force (keepalive, warntime, fencetime, deadtime)."),
    gauge(
        "baton_link_up",
        &["interface"],
        "The interface that carries the node's own address has a carrier.",
    ),
    histogram(
        "baton_heartbeat_gap_seconds",
        &["node"],
        "Time between two heartbeats of the node, whichever link they came by.",
    ),
    counter(
        "baton_heartbeats_received_total",
        &["node", "address"],
        "Heartbeats of the node by link: the address they came from, or the link's kind and interface or device.",
    ),
    histogram(
        "baton_heartbeat_link_gap_seconds",
        &["node", "address"],
        "Time between two heartbeats of the node on one link.",
    ),
    histogram(
        "baton_etcd_request_duration_seconds",
        &["operation"],
        "Time until etcd answered (request: may be sent to several members; transaction: sent once).",
    ),
    counter("baton_etcd_request_errors_total", &["operation"], "Requests that no member answered in time."),
    gauge("baton_etcd_member_up", &["endpoint"], "The member answers this agent."),
    gauge("baton_etcd_member_leader", &["endpoint"], "The member leads etcd."),
    gauge("baton_etcd_member_info", &["endpoint", "version"], "Always 1; the member's version."),
    counter(
        "baton_etcd_leader_moves_total",
        &["result"],
        "Times that this agent asked etcd's leader on its host to hand over, because the host leads groups (moved, failed).",
    ),
    counter(
        "baton_http_requests_total",
        &["method", "route", "status"],
        "Requests to the API by route of the OpenAPI document.",
    ),
    histogram(
        "baton_http_request_duration_seconds",
        &["route"],
        "Time until the answer began; of an event stream, its first byte.",
    ),
    gauge(
        "baton_check_last_success_timestamp_seconds",
        &["group", "check"],
        "Wall clock when the group's own check succeeded last on this node.",
    ),
    counter("baton_check_failures_total", &["group", "check"], "Checks of the group that failed."),
    gauge(
        "baton_check_duration_seconds",
        &["group", "check"],
        "How long the last check took; absent where it is not made.",
    ),
    gauge(
        "baton_check_state",
        &["group", "check"],
        "0 has not passed yet, 1 passes, 2 fails, 3 alarm: a person has to see to it; absent where it is not made.",
    ),
    counter(
        "baton_replicator_restarts_total",
        &[],
        "Times that this node's replicator died and was started again while its devices waited.",
    ),
    counter("baton_events_total", &["severity"], "Entries that this agent made in the history."),
    gauge(
        "baton_filesystem_free_bytes",
        &["path"],
        "Bytes that may still be written where Baton keeps its state and backing files.",
    ),
    gauge("baton_filesystem_size_bytes", &["path"], "Size of that filesystem."),
];

/// Kinds of change, so that a counter stands at 0 before it first counts.
const KINDS: [&str; 4] = ["takeover", "handover", "first start", "resume"];
/// What is done with etcd, likewise.
const OPERATIONS: [&str; 2] = ["request", "transaction"];
/// Severities of events, likewise.
const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

/// This process' own.
#[must_use]
pub fn live() -> &'static Live {
    static ONE: LazyLock<Live> = LazyLock::new(Live::new);
    &ONE
}

/// Counters and gauges that outlive a scrape.
#[derive(Debug)]
pub struct Live {
    registry: Registry,
    gauges: HashMap<&'static str, GaugeVec>,
    counters: HashMap<&'static str, CounterVec>,
    histograms: HashMap<&'static str, HistogramVec>,
    watcher: Mutex<Watcher>,
}

impl Live {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let mut this = Self {
            registry,
            gauges: HashMap::new(),
            counters: HashMap::new(),
            histograms: HashMap::new(),
            watcher: Mutex::default(),
        };
        // The list is constant; a test makes all of it, so none of these can fail at run time.
        for metric in LIVE {
            let (name, help, labels) = (metric.name, metric.help, metric.labels);
            match metric.kind {
                Kind::Gauge => {
                    let vec =
                        GaugeVec::new(Opts::new(name, help), labels).expect("name and labels are valid");
                    this.register(vec.clone());
                    this.gauges.insert(name, vec);
                }
                Kind::Counter => {
                    let vec =
                        CounterVec::new(Opts::new(name, help), labels).expect("name and labels are valid");
                    this.register(vec.clone());
                    this.counters.insert(name, vec);
                }
                Kind::Histogram => {
                    let opts = HistogramOpts::new(name, help).buckets(buckets(name).to_vec());
                    let vec = HistogramVec::new(opts, labels).expect("name, labels and buckets are valid");
                    this.register(vec.clone());
                    this.histograms.insert(name, vec);
                }
            }
        }
        #[cfg(target_os = "linux")]
        this.register(prometheus::process_collector::ProcessCollector::for_self());
        for severity in SEVERITIES {
            this.add("baton_events_total", &[severity], 0.0);
        }
        this.add("baton_replicator_restarts_total", &[], 0.0);
        for result in ["moved", "failed"] {
            this.add("baton_etcd_leader_moves_total", &[result], 0.0);
        }
        for operation in OPERATIONS {
            this.add("baton_etcd_request_errors_total", &[operation], 0.0);
        }
        this
    }

    fn register(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("metric names are unique");
    }

    pub(super) fn text(&self) -> String {
        text_of(&self.registry)
    }

    pub(super) fn set(&self, name: &'static str, labels: &[&str], value: f64) {
        self.gauges[name].with_label_values(labels).set(value);
    }

    pub(super) fn add(&self, name: &'static str, labels: &[&str], value: f64) {
        self.counters[name].with_label_values(labels).inc_by(value);
    }

    pub(super) fn histogram(&self, name: &'static str, labels: &[&str]) -> Histogram {
        self.histograms[name].with_label_values(labels)
    }

    pub(super) fn counter(&self, name: &'static str, labels: &[&str]) -> prometheus::Counter {
        self.counters[name].with_label_values(labels)
    }

    /// A new snapshot was made: counts what changed since the one before.
    pub fn observe(&self, status: &ClusterStatus) {
        let seen = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).look(status);
        for item in seen {
            self.note(&item);
        }
    }

    fn note(&self, seen: &Seen) {
        match seen {
            Seen::NewGroup(group) => {
                for kind in KINDS {
                    self.add("baton_leadership_changes_total", &[group, kind], 0.0);
                    // Made, not observed: the series stands at 0.
                    let _ = self.histogram("baton_takeover_duration_seconds", &[group, kind, "total"]);
                }
            }
            Seen::Leader(group) => {
                self.set("baton_leadership_changed_timestamp_seconds", &[group], wall_clock());
            }
            Seen::Mode(node) => {
                self.set("baton_node_mode_changed_timestamp_seconds", &[node], wall_clock());
            }
            Seen::Serves(group, takeover) => self.takeover(group, takeover),
            Seen::Answers(group, kind, ms) => {
                let seconds = Duration::from_millis(*ms).as_secs_f64();
                self.histogram("baton_takeover_duration_seconds", &[group, kind, "answer"]).observe(seconds);
            }
        }
    }

    fn takeover(&self, group: &str, takeover: &Takeover) {
        let kind = takeover.kind.as_str();
        self.add("baton_leadership_changes_total", &[group, kind], 1.0);
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        for step in &takeover.steps {
            self.histogram("baton_takeover_duration_seconds", &[group, kind, &step.step])
                .observe(seconds(step.ms));
        }
        self.histogram("baton_takeover_duration_seconds", &[group, kind, "total"])
            .observe(seconds(takeover.total_ms));
    }

    /// The timers in force.
    pub fn timers(&self, timers: &Timers) {
        for (name, value) in [
            ("keepalive", timers.keepalive),
            ("warntime", timers.warntime),
            ("fencetime", timers.fencetime),
            ("deadtime", timers.deadtime),
        ] {
            self.set("baton_timer_seconds", &[name], value.as_secs_f64());
        }
    }

    /// The interface of the node's own address.
    pub fn link(&self, interface: &str, carrier: bool) {
        self.set("baton_link_up", &[interface], f64::from(u8::from(carrier)));
    }

    /// A request to etcd ended (`request`, or `transaction`).
    pub fn etcd_request(&self, operation: &'static str, took: Duration, ok: bool) {
        self.histogram("baton_etcd_request_duration_seconds", &[operation]).observe(took.as_secs_f64());
        if !ok {
            self.add("baton_etcd_request_errors_total", &[operation], 1.0);
        }
    }

    /// etcd's members as they answered just now.
    pub fn etcd_members(&self, members: &[MemberStatus]) {
        // A member has one version at a time.
        self.gauges["baton_etcd_member_info"].reset();
        for member in members {
            let endpoint = member.endpoint.as_str();
            self.set("baton_etcd_member_up", &[endpoint], f64::from(u8::from(member.id.is_some())));
            self.set("baton_etcd_member_leader", &[endpoint], f64::from(u8::from(member.leads)));
            if let Some(version) = &member.version {
                self.set("baton_etcd_member_info", &[endpoint, version], 1.0);
            }
        }
    }

    /// etcd's leader was asked to leave this host.
    pub fn etcd_leader_moved(&self, ok: bool) {
        self.add("baton_etcd_leader_moves_total", &[if ok { "moved" } else { "failed" }], 1.0);
    }

    /// A check of a group ended. One that could not find anything out is neither good nor bad.
    pub fn check(&self, group: &str, check: &str, ok: Option<bool>, took: Duration) {
        self.add("baton_check_failures_total", &[group, check], f64::from(u8::from(ok == Some(false))));
        self.set("baton_check_duration_seconds", &[group, check], took.as_secs_f64());
        if ok == Some(true) {
            self.set("baton_check_last_success_timestamp_seconds", &[group, check], wall_clock());
        }
    }

    /// Where a check stands.
    pub fn check_state(&self, group: &str, check: &str, state: crate::status::CheckState) {
        self.set("baton_check_state", &[group, check], f64::from(state as u8));
    }

    /// The group's checks are not made here any more: an old success would look like a check that fails.
    pub fn check_ended(&self, group: &str, check: &str) {
        for gauge in [
            "baton_check_last_success_timestamp_seconds",
            "baton_check_duration_seconds",
            "baton_check_state",
        ] {
            // Nothing to remove is as good.
            let _ = self.gauges[gauge].remove_label_values(&[group, check]);
        }
    }

    /// The replicator died and was started again.
    pub fn replicator_restarts(&self, times: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        self.add("baton_replicator_restarts_total", &[], times as f64);
    }

    /// An entry of the history was made.
    pub fn event(&self, severity: &'static str) {
        self.add("baton_events_total", &[severity], 1.0);
    }

    /// How full a filesystem is.
    pub fn filesystem(&self, path: &str, free: f64, size: f64) {
        self.set("baton_filesystem_free_bytes", &[path], free);
        self.set("baton_filesystem_size_bytes", &[path], size);
    }
}

fn buckets(name: &str) -> &'static [f64] {
    match name {
        "baton_heartbeat_gap_seconds" | "baton_heartbeat_link_gap_seconds" => GAPS,
        "baton_takeover_duration_seconds" => STEPS,
        _ => REQUESTS,
    }
}

/// Seconds since 1970, for people and graphs.
fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
