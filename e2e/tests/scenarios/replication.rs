//! Replication link down while heartbeats go on: the leader goes on alone, and only what it must is copied afterwards.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::scenario::scenario;
use baton_e2e::{faults, replicas, report};
use std::time::{Duration, Instant};

/// How long the link is down.
const DOWN: Duration = Duration::from_secs(20);
/// Extent of the activity log.
const EXTENT: u64 = 4 << 20;
/// The leader notices by `peer_timeout` or by the pings of the replication link, both of a few seconds.
const GOES_ON: Duration = Duration::from_secs(8);
/// A status that still lists a member may be this much older than the transaction that removed it: agents publish it at the
/// next tick after they have read it, and the machine is shared.
const STATUS_AGE: Duration = Duration::from_millis(500);
/// What a host sends besides a resync while nobody writes: heartbeats, etcd, answers of the API. Per second.
const BACKGROUND: u64 = 1 << 20;

#[test]
fn link_down_for_20_s() {
    scenario("replication link down", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let written = |what: &str| {
            let status = t.status(leader).unwrap_or_else(|e| panic!("{e:#}"));
            let bytes = status.volume()["counters"]["written_bytes"].as_u64();
            bytes.unwrap_or_else(|| panic!("no written_bytes {what}: {}", status.volume()))
        };
        let prober = t.prober();
        let mut writer = t.writer("link-down", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        let before = written("before");
        let block = faults::block_replication(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        let at = block.at;
        let mut still_both = at;
        while Instant::now() < at + GOES_ON {
            let asked = Instant::now();
            match t.look(leader).map(|s| s.in_sync().len()) {
                Ok(1) => break,
                Ok(_) => still_both = asked,
                Err(_) => {}
            }
            let_pass(Duration::from_millis(20));
        }
        let alone = t.status(leader).map(|s| s.in_sync().join(",")).unwrap_or_default();
        t.expect("the leader is alone in the in-sync set", alone == leader, &alone);
        writer.wait_ack(Instant::now(), GOES_ON);
        let early = {
            let journal = writer.journal();
            let alone = journal.acks.iter().filter(|a| a.begin > at);
            alone.map(|a| still_both.saturating_duration_since(a.end)).max().unwrap_or_default()
        };
        t.at_most(
            "a write acknowledged alone before the status shows the set without the peer",
            early,
            STATUS_AGE,
        );
        let_pass((at + DOWN).saturating_duration_since(Instant::now()));
        writer.stop();
        let to = Instant::now();
        t.at_most("pause of writes until the leader goes on alone", writer.journal().gap(begin, to), GOES_ON);
        t.tell("HTTP gap", report::ms(prober.history().gap(begin, to)));
        drop(prober);

        let status = t.status(leader).unwrap_or_else(|e| panic!("{e:#}"));
        let extents = status.volume()["activity_log_extents"].as_u64().unwrap_or(0);
        let dirty = status.peer(&standby)["dirty_bytes"].as_u64().unwrap_or(u64::MAX);
        let bound = written("after") - before + extents * EXTENT;
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        t.expect(
            "dirty bytes, of those written and in the activity log",
            dirty <= bound,
            format!("{} of {}", mib(dirty), mib(bound)),
        );
        let sent = faults::sent_bytes(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let mend = Instant::now();
        drop(block);
        let _ = t.wait_healthy(WHOLE);
        let took = mend.elapsed();
        let sent = faults::sent_bytes(t, leader).unwrap_or_else(|e| panic!("{e:#}")) - sent;
        let allowed = bound + BACKGROUND * (took.as_secs() + 4);
        t.expect(
            "bytes on the wire until in sync",
            sent <= allowed,
            format!("{} in {took:.1?}, allowed {}", mib(sent), mib(allowed)),
        );
        t.stayed("no takeover", leader, epoch);
        t.audit(&writer.journal());
        replicas::rest(t, leader);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
    });
}
