//! Power cuts: of the leader again and again, of the standby, and of the leader while the standby is not in sync.

use crate::{HTTP_MEDIAN, HTTP_WORST, STANDBY_LOST, WRITES_MEDIAN, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::report::ms;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::shell::one_line;
use baton_e2e::{docker, faults, gaps, replicas};
use std::time::{Duration, Instant};

/// Power cuts in a row.
const CUTS: usize = 10;
/// A takeover that takes longer than this is none.
const TAKEOVER: Duration = Duration::from_secs(20);

#[test]
fn leader_ten_times() {
    scenario("power cut of the leader", |t, leader| {
        let mut leader = leader.to_owned();
        let (mut http, mut page, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for n in 1..=CUTS {
            let gaps = cut_leader(t, &leader, n);
            http.push(gaps.0);
            page.push(gaps.1);
            writes.push(gaps.2);
            let new = t.config.other(&leader);
            faults::power_on(t, &leader).unwrap_or_else(|e| panic!("{e:#}"));
            let after = t.wait_healthy(WHOLE);
            t.expect("the new leader stays when the old one is back", after == new, &after);
            replicas::rest(t, &new);
            replicas::verify(t).unwrap_or_else(|e| panic!("after cut {n}: {e:#}"));
            t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
            // Whoever comes online first leads; the next cut hits the host that has just taken over.
            t.mode(&new, "online");
            leader = t.heal();
        }
        t.at_most("HTTP gap, median", gaps::median(&http), HTTP_MEDIAN);
        t.at_most("HTTP gap, worst", gaps::worst(&http), HTTP_WORST);
        t.tell("page with the table, median", ms(gaps::median(&page)));
        t.tell("page with the table, worst", ms(gaps::worst(&page)));
        t.at_most("gap of committed writes, median", gaps::median(&writes), WRITES_MEDIAN);
        t.tell("gap of committed writes, worst", ms(gaps::worst(&writes)));
    });
}

/// Cuts the leader's power under load; returns the gaps of HTTP, of the page with the table, and of writes.
fn cut_leader(t: &Scenario, leader: &str, n: usize) -> (Duration, Duration, Duration) {
    let (prober, page) = (t.prober(), t.page_prober());
    let mut writer = t.writer(&format!("power-cut-{n}"), None);
    let_pass(Duration::from_secs(1));
    let begin = Instant::now();
    let_pass(Duration::from_millis(500));
    let cut = faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
    let new = t.config.other(leader);
    t.wait_for("a takeover", TAKEOVER, |view| match view.serving() {
        Some(host) if host == new => Ok(()),
        other => Err(format!("{other:?} serves")),
    });
    writer.wait_ack(cut, TAKEOVER);
    let_pass(Duration::from_secs(1));
    let to = Instant::now();
    writer.stop();
    let gap =
        (prober.history().gap(begin, to), page.history().gap(begin, to), writer.journal().gap(begin, to));
    let steps = t.status(&new).map(|s| s.group()["last_takeover"].to_string()).unwrap_or_default();
    t.tell(
        &format!("cut {n} of {leader}"),
        format!("HTTP {}, page {}, writes {}; {steps}", ms(gap.0), ms(gap.1), ms(gap.2)),
    );
    t.audit(&writer.journal());
    gap
}

#[test]
fn standby_lost_and_back() {
    scenario("standby lost and back", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let prober = t.prober();
        let mut writer = t.writer("standby-lost", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        faults::power_cut(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("the leader alone in the in-sync set", Duration::from_secs(10), |view| {
            let set = view.of(leader)?.in_sync().len();
            if set == 1 { Ok(()) } else { Err(format!("{set} members")) }
        });
        let_pass(Duration::from_secs(3));
        let back = Instant::now();
        t.at_most(
            "pause of writes when the standby is lost",
            writer.journal().gap(begin, back),
            STANDBY_LOST,
        );
        faults::power_on(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        let _ = t.wait_healthy(WHOLE);
        let_pass(Duration::from_secs(1));
        let to = Instant::now();
        t.tell("from power on to in sync", format!("{:.1} s", back.elapsed().as_secs_f64()));
        t.at_most("pause of writes when it comes back", writer.journal().gap(back, to), STANDBY_LOST);
        t.tell("HTTP gap", ms(prober.history().gap(begin, to)));
        t.stayed("no takeover", leader, epoch);
        writer.stop();
        t.audit(&writer.journal());
    });
}

/// Bytes written while the standby is away: at [`RATE`] some ten seconds of resync.
const FILL_MIB: u32 = 120;
const RATE: &str = "100mbit";
/// The lease (5 s), its margin and several deadtimes: by then every automatic takeover would have happened.
const PATIENCE: Duration = Duration::from_secs(12);

#[test]
fn leader_lost_while_the_standby_is_not_in_sync() {
    scenario("leader lost during a resync", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let mut writer = t.writer("not-in-sync", None);
        faults::power_cut(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("the leader alone in the in-sync set", Duration::from_secs(10), |view| {
            let set = view.of(leader)?.in_sync().len();
            if set == 1 { Ok(()) } else { Err(format!("{set} members")) }
        });
        fill(t, leader);
        faults::slow_replication(t, leader, RATE).unwrap_or_else(|e| panic!("{e:#}"));
        faults::power_on(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        let progress = t.wait_for("a resync under way", Duration::from_secs(40), |view| {
            let peer = view.of(leader)?.peer(&standby);
            let resync = peer["resync"]["done_bytes"].as_u64().filter(|done| *done > 0);
            if peer["connection"] == "SyncSource" && resync.is_some() {
                Ok(peer["resync"].clone())
            } else {
                Err(peer.to_string())
            }
        });
        t.tell("resync when the leader was cut", &progress);
        let begun = writer.journal().acks.last().map(|a| a.begin).unwrap_or_else(Instant::now);
        writer.wait_ack(begun, Duration::from_secs(5));
        let cut = faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        writer.stop();
        let prober = t.prober();
        let end = cut + PATIENCE;
        while Instant::now() < end {
            let status = t.status(&standby).unwrap_or_else(|e| panic!("the standby's agent: {e:#}"));
            let node = status.group_node(&standby).clone();
            assert!(
                node["state"] == "standby" && status.epoch() == epoch,
                "{standby} was promoted: {}",
                status.group()
            );
            assert!(node["ready"] != true, "{standby} calls itself ready: {node}");
            let_pass(Duration::from_millis(200));
        }
        t.expect(
            "nobody answered at the VIP",
            prober.history().ok().count() == 0,
            prober.history().ok().count(),
        );
        says_why(t, leader, &standby);
        faults::power_on(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let after = t.wait_healthy(WHOLE);
        t.expect("the group came back with its leader", after == leader, &after);
        t.audit(&writer.journal());
    });
}

/// `baton status` on the standby: what keeps it from taking over, and what a person can do.
fn says_why(t: &Scenario, leader: &str, standby: &str) {
    let status = t.status(standby).unwrap_or_else(|e| panic!("{e:#}"));
    let reason = status.group_node(standby)["reason"].as_str().unwrap_or_default().to_owned();
    let why = ["sync", "Inconsistent", "resync"].iter().any(|word| reason.contains(word));
    t.expect("status says why the standby does not take over", why, &reason);
    t.expect("status says what to do", status.advice().contains(leader), status.advice().replace('\n', " "));
    t.expect("health", status.0["health"] == "down", &status.0["health"]);
    let shown = t.baton_at(standby, &["status"]).unwrap_or_else(|e| panic!("{e:#}")).text();

    let advised = status.0["advice"][0].as_str().is_some_and(|a| one_line(&shown).contains(&one_line(a)));
    let said = one_line(&shown).contains(&one_line(&reason)) && advised;
    t.expect("baton status shows both", said, shown.lines().count());
}

/// Writes incompressible data into the volume, past the database.
fn fill(t: &Scenario, leader: &str) {
    let containers = docker::of_host(&t.config, leader).unwrap_or_else(|e| panic!("{e:#}"));
    let (service, path) = containers
        .iter()
        .filter(|c| c.running && c.role == docker::Role::Service)
        .find_map(|c| {
            let mine = |m: &&docker::Mount| {
                m.volume.as_ref().is_some_and(|v| v.ends_with(baton_e2e::config::VOLUME))
            };
            c.mounts.iter().find(mine).map(|m| (&c.id, format!("of={}/e2e-fill", m.inside)))
        })
        .unwrap_or_else(|| panic!("no service of {leader} mounts the volume"));
    let count = format!("count={FILL_MIB}");
    let dd = [
        "docker",
        "exec",
        "-u",
        "root",
        service,
        "dd",
        "if=/dev/urandom",
        &path,
        "bs=1M",
        &count,
        "conv=fsync",
    ];
    baton_e2e::shell::run(&dd).unwrap_or_else(|e| panic!("{e:#}"));
}
