//! From a snapshot to a sentence.

use super::*;
use crate::cli::fixture;
use crate::status::TakeoverStep;

fn see(status: &ClusterStatus, down: &str) -> Forecast {
    all(status, down).groups.remove(0)
}

fn all(status: &ClusterStatus, down: &str) -> WhatIf {
    foresee(status, &Fault::list(down, status).unwrap(), None, &[]).unwrap()
}

#[test]
fn a_dead_leader_is_followed_by_the_one_in_sync() {
    let web = see(&fixture::healthy(), "alpha");
    assert_eq!(
        web.summary,
        "beta takes over after 1.5 s (deadtime), serves about 2.1 s after the fault; in-sync set then {beta}"
    );
    assert_eq!((web.verdict, web.in_sync), (Verdict::Takeover, vec![fixture::node("beta")]));
    assert!(
        web.timeline.iter().any(|s| s.node == fixture::node("beta") && s.at_ms >= 1500),
        "{:?}",
        web.timeline
    );
    let mut unknown = fixture::healthy();
    unknown.groups[0].last_takeover = None;
    let web = see(&unknown, "alpha");
    assert!(web.summary.contains("how long it then needs to start is unknown"), "{}", web.summary);
    assert_eq!((web.serves_ms, web.start_ms), (None, None));
}

#[test]
fn the_newest_start_on_that_node_counts() {
    let status = fixture::healthy();
    let mut history = fixture::history();
    let step = |ms| vec![TakeoverStep { step: "services".into(), ms, at_ms: ms }];
    for (i, node, ms) in [(0, "beta", 300), (1, "beta", 400), (2, "alpha", 900)] {
        history[i].node = fixture::node(node);
        history[i].takeover = Some(Takeover { steps: step(ms), ..Takeover::default() });
    }
    let faults = Fault::list("alpha", &status).unwrap();
    let web = foresee(&status, &faults, None, &history).unwrap().groups.remove(0);
    assert_eq!((web.start_ms, web.start_of), (Some(400), Some(fixture::node("beta"))));
    history.truncate(1);
    history[0].node = fixture::node("alpha");
    let web = foresee(&status, &faults, None, &history).unwrap().groups.remove(0);
    assert_eq!(
        (web.start_ms, web.start_of),
        (Some(300), Some(fixture::node("alpha"))),
        "better than nothing"
    );
}

#[test]
fn a_standby_that_lacks_writes_does_not_take_over() {
    let web = see(&fixture::resyncing(), "alpha");
    assert_eq!(
        web.summary,
        "nobody takes over: beta is not in sync: its replica lacks 272 MiB; it waits for alpha"
    );
    assert!(all(&fixture::resyncing(), "alpha").stops());
}

#[test]
fn etcd_is_not_needed_to_go_on_but_to_take_over() {
    let status = fixture::healthy();
    assert_eq!(see(&status, "etcd").summary, "alpha goes on; changes of leadership wait until etcd is back");
    let both = see(&status, "alpha,etcd");
    assert_eq!(both.verdict, Verdict::Stops);
    assert!(both.summary.starts_with("nobody takes over: beta: etcd is out of reach"), "{}", both.summary);
    let standby = see(&status, "beta,etcd");
    assert!(
        standby.summary.starts_with("alpha stops serving after 1.0 s: no promise of beta"),
        "{}",
        standby.summary
    );
}

#[test]
fn one_link_of_two_moves_nothing() {
    let mut status = fixture::healthy();
    assert_eq!(see(&status, "link").summary, "nothing moves: alpha goes on, heartbeats go on over link 2");
    // The second is the only one that replicates: beta is removed although it is heard.
    let web = see(&status, "link:2");
    assert_eq!((web.verdict, web.in_sync), (Verdict::GoesOn, vec![fixture::node("alpha")]));
    assert!(
        web.summary.contains("beta leaves the in-sync set after 0.5 s, until then writes wait"),
        "{}",
        web.summary
    );
    for node in &mut status.nodes {
        node.heartbeat.truncate(1);
        node.replication.clear();
    }
    let web = see(&status, "link");
    assert_eq!(
        (web.verdict, web.in_sync),
        (Verdict::GoesOn, vec![fixture::node("alpha")]),
        "{}",
        web.summary
    );
    assert!(Fault::list("link:2", &status).unwrap_err().contains("there is no link 2"));
}

#[test]
fn a_pulled_cable_fences_the_leader_before_the_other_serves() {
    let web = see(&fixture::healthy(), "cable:alpha");
    assert_eq!((web.verdict, web.after.clone()), (Verdict::Takeover, Some(fixture::node("beta"))));
    let fenced = web.timeline.iter().find(|s| s.text.contains("-> fenced")).expect("alpha fences itself");
    assert_eq!(fenced.node, fixture::node("alpha"));
    assert!(fenced.at_ms < web.leads_ms.unwrap(), "{:?}", web.timeline);
}

#[test]
fn an_etcd_whose_majority_is_on_the_hosts_goes_with_them() {
    let mut status = fixture::healthy();
    let on = |hosts: &[&str]| hosts.iter().map(|h| format!("https://{h}:2379")).collect::<Vec<_>>();
    status.etcd.endpoints = on(&["10.77.0.11", "10.77.0.12"]);
    assert_eq!(see(&status, "alpha").verdict, Verdict::Stops, "one of two is no majority");
    assert!(
        all(&status, "alpha").assumptions.contains(&"etcd loses its majority with these hosts".to_owned())
    );
    status.etcd.endpoints = on(&["10.77.0.11", "10.77.0.12", "10.77.0.23"]);
    assert_eq!(see(&status, "alpha").verdict, Verdict::Takeover);
    for (endpoints, expected) in [
        (on(&["127.0.0.1"]), None),
        (on(&["alpha", "beta", "witness"]), Some(false)),
        (vec!["http://[fd00::1]:2379".into()], Some(false)),
        (vec!["10.77.0.11:2379".into()], Some(true)),
        (vec![], None),
    ] {
        status.etcd.endpoints = endpoints;
        let faults = Fault::list("alpha", &status).unwrap();
        assert_eq!(scene::majority_lost(&status, &faults), expected, "{:?}", status.etcd.endpoints);
    }
}

#[test]
fn what_is_down_already_stays_down() {
    let web = see(&fixture::down(), "beta");
    assert_eq!((web.verdict, web.before), (Verdict::StaysDown, None));
    assert!(!all(&fixture::down(), "beta").stops());
    let seen = all(&fixture::down(), "etcd");
    assert!(
        seen.assumptions.contains(&"alpha is not heard and taken for switched off".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn a_group_that_does_not_serve_is_said_not_to() {
    let mut status = fixture::healthy();
    status.groups[0].state = crate::status::GroupState::Failed;
    let web = see(&status, "beta");
    assert!(web.summary.starts_with("(it is failed on alpha now; once it serves:) "), "{}", web.summary);
}

#[test]
fn a_hundred_groups_are_foreseen_at_once() {
    let status = fixture::large(100);
    let seen = all(&status, "alpha");
    assert_eq!(seen.groups.len(), 100);
    assert!(seen.groups.iter().all(|g| g.before != g.after || g.verdict == Verdict::GoesOn));
}

#[test]
fn faults_are_read_as_they_are_written() {
    let status = fixture::healthy();
    let all = "node:alpha,agent:beta,cable:alpha,etcd,etcd:beta,link:2";
    let read = Fault::list(all, &status).unwrap();
    let written: Vec<String> = read.iter().map(ToString::to_string).collect();
    assert_eq!(written.join(","), all);
    for (bad, why) in [
        ("", "nothing goes down"),
        ("gamma", "'gamma' is not known here"),
        ("power:alpha", "is not known here"),
        ("link:0", "there is no link 0"),
        ("link:x", "is not known here"),
        (&vec!["etcd"; 17].join(","), "at most 16"),
    ] {
        assert!(Fault::list(bad, &status).unwrap_err().contains(why), "{bad}");
    }
}
