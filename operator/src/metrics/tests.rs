//! The text of a scrape, and the documentation against the table.

use super::*;
use crate::cli::fixture;

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn values_are_those_of_the_snapshot_in_base_units() {
    let text = render(&fixture::resyncing());
    for (series, expected) in [
        (r#"baton_build_info{cluster="demo",node="alpha",version="0.1.0"}"#, 1.0),
        (r#"baton_health{health="degraded"}"#, 1.0),
        (r#"baton_health{health="ok"}"#, 0.0),
        ("baton_etcd_reachable", 1.0),
        (r#"baton_group_observed_seconds_total{group="web"}"#, 86_400.0),
        (r#"baton_group_unavailable_seconds_total{group="web"}"#, 2.08),
        (r#"baton_group_outages_total{group="web"}"#, 1.0),
        (r#"baton_certificate_expires_timestamp_seconds{certificate="api"}"#, 1_829_531_400.0),
        (r#"baton_group_leader{group="web",node="alpha"}"#, 1.0),
        (r#"baton_group_leader{group="web",node="beta"}"#, 0.0),
        (r#"baton_group_epoch{group="web"}"#, 7.0),
        (r#"baton_group_state{group="web",node="alpha",state="serving"}"#, 1.0),
        (r#"baton_group_state{group="web",node="alpha",state="fenced"}"#, 0.0),
        (r#"baton_group_in_sync{group="web",node="beta"}"#, 0.0),
        (r#"baton_replication_lag_seconds{peer="beta",volume="webstore"}"#, 0.000_412),
        (r#"baton_dirty_bytes{peer="beta",volume="webstore"}"#, 285_212_672.0),
        (r#"baton_resync_progress_ratio{peer="beta",volume="webstore"}"#, 0.46875),
        (r#"baton_resync_eta_seconds{peer="beta",volume="webstore"}"#, 18.0),
        (r#"baton_resync_spared_bytes_total{peer="beta",volume="webstore"}"#, 4_194_304.0),
        (r#"baton_resync_paused{volume="webstore"}"#, 0.0),
        (r#"baton_volume_growing{volume="webstore"}"#, 0.0),
        (r#"baton_volume_wanted_bytes{volume="webstore"}"#, 1_073_741_824.0),
        (r#"baton_heartbeat_longest_gap_seconds{node="beta"}"#, 0.113),
        (r#"baton_heartbeats_late_total{node="beta"}"#, 12.0),
        (r#"baton_heartbeat_link_up{address="broadcast eth1",node="beta"}"#, 1.0),
        (r#"baton_heartbeat_link_one_way{address="10.77.0.12",node="beta"}"#, 0.0),
        (r#"baton_heartbeat_link_lost_total{address="10.77.0.12",node="beta"}"#, 10.0),
        (r#"baton_heartbeat_link_late_total{address="10.77.0.12",node="beta"}"#, 1.0),
        (r#"baton_heartbeat_link_sent_total{link="broadcast eth1"}"#, 864_000.0),
        (r#"baton_heartbeat_link_dropped_total{link="broadcast eth1"}"#, 2.0),
        (r#"baton_heartbeat_link_refused_total{link="10.77.0.11",reason="forged"}"#, 3.0),
        (r#"baton_heartbeat_suggested_seconds{timer="deadtime"}"#, 0.6),
        (r#"baton_last_takeover_seconds{group="web",kind="takeover",step="detect"}"#, 1.502),
        (r#"baton_last_takeover_seconds{group="web",kind="takeover",step="total"}"#, 2.08),
        (r#"baton_volume_writes_total{volume="webstore"}"#, 2000.0),
        (r#"baton_volume_disk_state{state="UpToDate",volume="webstore"}"#, 1.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[test]
fn a_maintenance_has_its_times_and_an_online_node_no_end() {
    let text = render(&fixture::maintained());
    assert_eq!(value(&text, r#"baton_node_mode_since_timestamp_seconds{node="beta"}"#), 1_795_229_400.0);
    assert_eq!(
        value(&text, r#"baton_node_maintenance_until_timestamp_seconds{node="beta"}"#),
        1_795_236_600.0
    );
    let mut online = fixture::maintained();
    online.nodes[1].mode = crate::status::NodeMode::Online;
    let text = render(&online);
    assert!(!text.contains("baton_node_maintenance_until_timestamp_seconds{"), "{text}");
}

#[test]
fn a_volume_that_grows_says_to_what() {
    let mut status = fixture::healthy();
    status.groups[0].volumes[0].growth = Some(baton_replicator::api::GrowthStatus {
        from_bytes: 1 << 30,
        to_bytes: 2 << 30,
        waits: "beta is not connected".into(),
    });
    let text = render(&status);
    assert_eq!(value(&text, r#"baton_volume_growing{volume="webstore"}"#), 1.0);
    assert_eq!(value(&text, r#"baton_volume_wanted_bytes{volume="webstore"}"#), f64::from(1_u32 << 31));
    assert_eq!(value(&text, r#"baton_volume_size_bytes{volume="webstore"}"#), f64::from(1_u32 << 30));
}

#[test]
fn a_resync_that_does_not_run_has_no_progress() {
    assert!(!render(&fixture::healthy()).contains("baton_resync_progress_ratio"));
}

/// Beta has two devices, one of which was not asked yet, and was switched off.
fn switched_off() -> crate::status::ClusterStatus {
    let device = |level, answers| crate::status::FenceDeviceStatus {
        level,
        name: format!("fence_dummy {level}"),
        answers,
        said: String::new(),
        asked: 0,
    };
    let mut status = fixture::healthy();
    status.nodes[1].fence = Some(crate::status::FenceStatus {
        devices: vec![device(1, Some(false)), device(2, None)],
        running: None,
        last: None,
        off: true,
        done: 1,
        failed: 3,
    });
    status
}

#[test]
fn fence_devices_answer_or_are_not_known_to() {
    let text = render(&switched_off());
    assert_eq!(value(&text, r#"baton_fence_device_up{device="fence_dummy 1",level="1",node="beta"}"#), 0.0);
    assert!(!text.contains(r#"device="fence_dummy 2""#), "not asked yet: {text}");
    assert_eq!(value(&text, r#"baton_fence_actions_total{node="beta",result="failed"}"#), 3.0);
    assert_eq!(value(&text, r#"baton_fence_off{node="beta"}"#), 1.0);
}

#[test]
fn every_metric_of_the_table_is_filled_and_named_by_the_rules() {
    let mut torn = fixture::resyncing();
    torn.groups[0].volumes[0].snapshots.push(baton_replicator::api::Snapshot {
        node: torn.node.clone(),
        name: "webstore.img.discarded-1795291500-00000000000000ab".into(),
        made_at_s: 1_795_291_500,
        generation: baton_replicator::types::Generation(0xab),
        bytes: 4096,
    });
    let mut served = fixture::healthy();
    served.groups[0].volumes[0].clients = Some(2);
    let text = render(&torn) + &render(&fixture::maintained()) + &render(&served) + &render(&switched_off());
    for metric in METRICS {
        assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{} is never given a value", metric.name);
        assert!(metric.name.starts_with("baton_"));
        assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        assert!(
            !metric.name.contains("_ms") && !metric.name.contains("percent"),
            "{}: base units",
            metric.name
        );
    }
}

#[test]
fn what_the_process_counts_is_named_by_the_rules_and_the_process_itself_is_there() {
    for metric in LIVE {
        let name = metric.name;
        assert!(name.starts_with("baton_"));
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(metric.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
        assert!(!METRICS.iter().any(|m| m.name == name), "{name} is in both lists");
    }
    let text = render(&fixture::healthy());
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(value(&text, name) >= 0.0);
    }
}

#[test]
fn a_takeover_is_counted_once_with_its_steps_and_every_kind_stands_at_zero_before() {
    let live = Live::new();
    let mut status = fixture::healthy();
    let takeover = status.groups[0].last_takeover.take();
    live.observe(&status);
    let changes = |kind: &str| {
        value(&live.text(), &format!(r#"baton_leadership_changes_total{{group="web",kind="{kind}"}}"#))
    };
    assert_eq!((changes("takeover"), changes("handover")), (0.0, 0.0));
    status.groups[0].last_takeover = takeover;
    for _ in 2..4 {
        live.observe(&status);
    }
    assert_eq!((changes("takeover"), changes("handover")), (1.0, 0.0));
    let of = |step: &str| {
        let labels = format!(r#"{{group="web",kind="takeover",step="{step}"}}"#);
        value(&live.text(), &format!("baton_takeover_duration_seconds_sum{labels}"))
    };
    assert_eq!((of("detect"), of("services"), of("total")), (1.502, 0.403, 2.08));
}

#[test]
fn the_documentation_lists_exactly_what_exists() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once("<!-- table -->\n").expect("start mark");
    let (table, tail) = rest.split_once("<!-- /table -->").expect("end mark");
    if table != markdown() && std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{head}<!-- table -->\n{}<!-- /table -->{tail}", markdown())).unwrap();
        return;
    }
    assert_eq!(table, markdown(), "run the test with BATON_UPDATE_GOLDEN=1");
}
