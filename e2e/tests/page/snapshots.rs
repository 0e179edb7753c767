//! Made-up snapshots: all well, resyncing, down, and a hundred groups.

use serde_json::{Value, json};

fn epoch(number: u64) -> Value {
    json!({"number": number, "term": "ab12cd3400000000"})
}

fn node(name: &str, address: &str) -> Value {
    let here = name == "alpha";
    json!({
        "name": name, "alive": true, "age_ms": if here { 0 } else { 41 }, "mode": "online", "address": address,
        "version": "0.1.0", "incarnation": "0011223344556677", "longest_gap_ms": if here { 0 } else { 113 },
        "late_heartbeats": 0, "refused_datagrams": 0,
    })
}

fn part(node: &str, state: &str, ready: bool) -> Value {
    json!({
        "node": node, "state": state, "age_ms": 41, "epoch": epoch(7), "disk": "UpToDate",
        "boot": "0000000000000001", "ready": ready, "reason": "", "resync_percent": null,
    })
}

fn volume(name: &str, group: &str) -> Value {
    json!({
        "volume": name, "group": group, "size_bytes": 1_u64 << 30, "role": "Primary", "epoch": epoch(7),
        "disk": "UpToDate", "generation": "00000000feed0000", "boot": "0000000000000001",
        "device": format!("/dev/baton/{name}"), "filesystem": "ext4", "frozen": null, "frozen_since": null,
        "required": [], "activity_log_extents": 12, "alarms": [],
        "peers": [{
            "node": "beta", "connection": "Connected", "reason": null, "boot": "0000000000000002",
            "disk": "UpToDate", "resynced": true, "settled": true, "dirty_bytes": 0, "unacked_bytes": 4096,
            "oldest_unacked_ms": 1, "lag_us": 412, "resync": null,
        }],
        "counters": {"reads": 100, "read_bytes": 409_600, "writes": 2000, "written_bytes": 8_192_000, "flushes": 300, "discards": 4},
    })
}

fn group(name: &str, volume_name: &str, address: &str) -> Value {
    let service = |name: &str, health: Value| json!({"name": name, "container": format!("demo-alpha-{name}"), "state": "running", "health": health, "restarts": 0, "error": null});
    let step = |step: &str, ms: u64| json!({"step": step, "ms": ms});
    json!({
        "name": name, "leader": "alpha", "epoch": epoch(7), "state": "serving", "reason": "",
        "in_sync": ["alpha", "beta"], "members": [], "target": null, "addresses": [address],
        "nodes": [part("alpha", "serving", false), part("beta", "standby", true)],
        "volumes": [volume(volume_name, name)],
        "services": [service("mysql", json!("healthy")), service("apache", Value::Null)],
        "last_takeover": {
            "kind": "takeover", "epoch": epoch(7), "at": "2026-11-21T02:58:11Z", "total_ms": 2089,
            "steps": [step("detect", 1502), step("decide", 14), step("wait", 9), step("volumes", 155), step("addresses", 6), step("services", 403)],
        },
        "availability": {
            "observed_seconds": 259_600.0, "unavailable_seconds": 3.3, "outages": 2,
            "last_outage": {"noticed_at": "2026-11-21T02:58:11Z", "seconds": 2.1},
        },
    })
}

pub(crate) fn healthy() -> Value {
    json!({
        "cluster": "demo", "node": "alpha", "version": "0.1.0", "at": "2026-11-21T03:10:00.000Z", "health": "ok", "advice": [],
        "etcd": {
            "reachable": true, "endpoints": ["http://10.77.0.21:2379", "http://10.77.0.22:2379", "http://10.77.0.23:2379"],
            "lease": "694d8c1f", "ttl_s": 5, "revision": 4211, "error": null,
        },
        "nodes": [node("alpha", "10.77.0.11"), node("beta", "10.77.0.12")],
        "groups": [group("web", "webstore", "10.77.0.100/24")],
    })
}

pub(crate) fn resyncing() -> Value {
    let mut s = healthy();
    s["health"] = json!("degraded");
    s["advice"] = json!([
        "group web runs without a standby until beta's resync ends, in about 18 s: do not stop alpha before"
    ]);
    s["nodes"][1]["late_heartbeats"] = json!(12);
    let web = &mut s["groups"][0];
    web["in_sync"] = json!(["alpha"]);
    let beta = &mut web["nodes"][1];
    beta["ready"] = json!(false);
    beta["disk"] = json!("Inconsistent");
    beta["reason"] = json!("its replica of webstore is Inconsistent: the resync is at 46.9 %");
    beta["resync_percent"] = json!(46.875);
    let peer = &mut web["volumes"][0]["peers"][0];
    peer["connection"] = json!("SyncSource");
    peer["disk"] = json!("Inconsistent");
    peer["dirty_bytes"] = json!(285_212_672);
    peer["resync"] = json!({"total_bytes": 536_870_912, "done_bytes": 251_658_240, "bytes_per_s": 15_728_640, "eta_s": 18});
    s
}

/// All is well, and webstore is being compared and repaired.
pub(crate) fn verifying() -> Value {
    let mut s = healthy();
    s["groups"][0]["volumes"][0]["verify"] = json!({
        "id": 5, "repair": true, "state": "running", "reason": null, "peers": ["beta"], "total_bytes": 1_u64 << 30,
        "checked_bytes": 301_989_888, "mismatched_bytes": 8192, "repaired_bytes": 4096, "unconfirmed": 0,
        "mismatches": [], "bytes_per_s": 15_728_640, "eta_s": 49, "took_ms": 19_000,
    });
    s
}

pub(crate) fn down() -> Value {
    let mut s = resyncing();
    s["node"] = json!("beta");
    s["health"] = json!("down");
    s["advice"] = json!([
        "Bring alpha back: only it holds every acknowledged write of group web.",
        "If alpha is lost for good: 'baton move web --to beta --accept-data-loss' gives up what beta lacks."
    ]);
    s["etcd"]["reachable"] = json!(false);
    s["etcd"]["error"] = json!("deadline exceeded");
    s["nodes"][0]["alive"] = json!(false);
    s["nodes"][0]["age_ms"] = json!(754_000);
    s["nodes"][1]["age_ms"] = json!(0);
    s["nodes"][1]["mode"] = json!("standby");
    let web = &mut s["groups"][0];
    web["state"] = json!("unknown");
    web["reason"] = json!("alpha leads and is silent; beta is not in sync");
    web["services"] = json!([]);
    web["last_takeover"] = Value::Null;
    web["nodes"][0]["state"] = json!("unknown");
    web["nodes"][0]["reason"] = json!("not heard for 12 min");
    web["nodes"][0]["age_ms"] = json!(754_000);
    let volume = &mut web["volumes"][0];
    volume["role"] = json!("Secondary");
    volume["disk"] = json!("Inconsistent");
    volume["frozen"] = json!("no primary");
    volume["alarms"] = json!(["metadata block 3 had a bad checksum, its twin was used"]);
    let peer = &mut volume["peers"][0];
    peer["node"] = json!("alpha");
    peer["connection"] = json!("Connecting");
    peer["reason"] = json!("connection refused by 10.77.0.11:7788");
    peer["disk"] = json!("DUnknown");
    peer["resync"] = Value::Null;
    s
}

/// Group web led by beta, seen by alpha.
pub(crate) fn on_beta() -> Value {
    let mut s = healthy();
    let web = &mut s["groups"][0];
    web["leader"] = json!("beta");
    web["epoch"] = epoch(8);
    web["nodes"] = json!([part("alpha", "standby", true), part("beta", "serving", false)]);
    web["volumes"][0]["role"] = json!("Secondary");
    s
}

/// A hundred groups on two hosts; one starts, one has no standby.
pub(crate) fn hundred() -> Value {
    let mut s = healthy();
    let groups: Vec<Value> = (0..100)
        .map(|n| {
            let name = format!("shop-{n:03}");
            let mut group = group(&name, &format!("{name}-data"), &format!("10.77.1.{}/24", n + 1));
            if n % 2 == 1 {
                group["leader"] = json!("beta");
                group["nodes"] = json!([part("alpha", "standby", true), part("beta", "serving", false)]);
                group["volumes"][0]["role"] = json!("Secondary");
            }
            group
        })
        .collect();
    s["groups"] = json!(groups);
    s["groups"][17]["state"] = json!("starting");
    s["groups"][42]["in_sync"] = json!(["alpha"]);
    s["groups"][42]["nodes"][1]["ready"] = json!(false);
    s["groups"][42]["nodes"][1]["reason"] = json!("the image shop:3 is missing");
    s
}

/// A third host, which leads another group.
pub(crate) fn three_hosts() -> Value {
    let mut s = healthy();
    s["nodes"].as_array_mut().unwrap().push(node("gamma", "10.77.0.13"));
    let mut mail = group("mail", "mailstore", "10.77.0.101/24");
    mail["leader"] = json!("gamma");
    s["groups"].as_array_mut().unwrap().push(mail);
    s
}

pub(crate) fn events() -> Vec<Value> {
    let event = |n: u64, severity: &str, group: Value, message: &str| json!({"n": n, "at": format!("2026-11-21T02:58:{:02}.120Z", 6 + n), "node": "alpha", "group": group, "volume": null, "severity": severity, "message": message});
    vec![
        event(1, "info", Value::Null, "agent 0.1.0 started"),
        event(2, "warning", json!("web"), "beta has not been heard for 1500 ms"),
        event(3, "critical", json!("web"), "alpha took group web over from beta, epoch 7, in 2089 ms"),
        event(4, "info", json!("web"), "10.77.0.100/24 is up on eth0 and announced"),
        event(5, "info", json!("web"), "beta is in sync again"),
    ]
}

/// An hour with one takeover, twelve minutes ago.
pub(crate) fn series() -> Value {
    const N: i32 = 720;
    const AT: i32 = N - 144;
    let wave = |n: i32, length: f64| (f64::from(n) / length).sin();
    // A little unrest that is the same in every picture.
    let noise = |n: i32| f64::from((n.wrapping_mul(7919) ^ n.wrapping_mul(104_729)).rem_euclid(97)) / 97.0;
    let of = |value: &dyn Fn(i32) -> Value| (0..N).map(value).collect::<Vec<_>>();
    let lag = of(&|n| match n - AT {
        0..=4 => Value::Null,
        5..=9 => json!(0.004 - f64::from(n - AT - 5) * 0.0006),
        _ => json!((420.0 + 60.0 * wave(n, 40.0) + 70.0 * noise(n)) / 1e6),
    });
    let dirty = of(&|n| json!(if (AT..AT + 60).contains(&n) { (AT + 60 - n) as u64 * 5_000_000 } else { 0 }));
    let written = of(&|n| {
        json!(if (AT..AT + 3).contains(&n) { 0.0 } else { 2.4e6 + 1.3e6 * wave(n, 55.0) + 5e5 * noise(n) })
    });
    let gap = of(&|n| json!(if n == AT + 1 { 0.48 } else { 0.104 + 0.02 * noise(n) }));
    let down = of(&|n| json!(if n == AT { 0.418 } else { 0.0 }));
    let one = |name: &str, labels: Value, fold: &str, values: Vec<Value>| json!({"name": name, "labels": labels, "fold": fold, "values": values});
    let volume = json!({"group": "web", "volume": "webstore", "peer": "beta"});
    json!({
        "node": "alpha", "range": "1h", "step_seconds": 5.0, "newest_at": "2026-11-21T03:10:00.000Z", "left_out": 0,
        "series": [
            one("dirty_bytes", volume.clone(), "mean", dirty),
            one("heartbeat_gap_seconds", json!({"node": "beta"}), "max", gap),
            one("replication_lag_seconds", volume, "max", lag),
            one("unavailable_ratio", json!({"group": "web"}), "mean", down),
            one("written_bytes_per_second", json!({"group": "web", "volume": "webstore"}), "mean", written),
        ],
        "availability": {"web": healthy()["groups"][0]["availability"]},
    })
}
