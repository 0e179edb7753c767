//! What is said follows from the snapshot alone.

use super::*;
use crate::cli::fixture;
use crate::status::EtcdState;

fn of(status: &ClusterStatus) -> Explanation {
    explain(status, &status.groups[0])
}

#[test]
fn what_a_failure_would_mean_follows_from_who_is_ready() {
    let healthy = of(&fixture::healthy());
    assert_eq!(healthy.health, Health::Ok);
    assert_eq!(healthy.changes[0], "If alpha fails now, beta takes over by itself.");
    assert!(healthy.because.is_empty());

    let resyncing = of(&fixture::resyncing());
    assert_eq!(resyncing.health, Health::Degraded);
    assert_eq!(resyncing.changes[0], "If alpha fails now, the service stops until alpha is back.");
    assert!(resyncing.changes[1].contains("now 46.9 %, in about 18 s"), "{resyncing:?}");
    assert!(resyncing.because[0].starts_with("beta could not take over: its replica"));

    let mut no_etcd = fixture::healthy();
    no_etcd.etcd.reachable = false;
    assert!(of(&no_etcd).changes[0].ends_with("nobody takes over before etcd answers again."));
    no_etcd.etcd.state = EtcdState::NoLeader;
    let said = of(&no_etcd).facts.join(" ");
    assert!(
        said.contains("(etcd has no leader: ") && said.contains("That is not a lost leadership"),
        "{said}"
    );
    no_etcd.etcd.reachable = true;
    no_etcd.etcd.state = EtcdState::Slow;
    assert!(of(&no_etcd).facts.join(" ").contains("For alpha, etcd is slow"));

    let down = of(&fixture::down());
    assert_eq!(down.health, Health::Down);
    assert!(down.changes.iter().any(|c| c.starts_with("Bring alpha back")), "{down:?}");
    assert!(!down.changes.iter().any(|c| c.contains("takes over by itself")), "{down:?}");
}

#[test]
fn advice_of_other_groups_stays_with_them() {
    let mut status = fixture::resyncing();
    status.advice = vec!["Group web needs a disk.".into(), "Group mail needs a person.".into()];
    let mut mail = status.groups[0].clone();
    mail.name = fixture::group("mail");
    status.groups.push(mail);
    assert!(of(&status).changes.contains(&"Group web needs a disk.".to_owned()));
    assert!(!of(&status).changes.contains(&"Group mail needs a person.".to_owned()));
}

#[test]
fn the_rule_in_force_is_named_with_its_figures() {
    let healthy = of(&fixture::healthy());
    assert_eq!(
        healthy.rule[0],
        "alpha serves while every node of E = {beta} promises not to take over: good for another 0.93 s; each acknowledged heartbeat renews it to 1.00 s (fencetime) after it was sent."
    );
    assert!(
        healthy.rule.iter().any(|r| r.contains("1.50 s (deadtime)") && r.contains("5.00 s (ttl)")),
        "{healthy:?}"
    );
    let alone = of(&fixture::resyncing());
    assert!(alone.rule[0].starts_with("E is empty"), "{alone:?}");
    let mut late = fixture::healthy();
    late.groups[0].entitlement.as_mut().unwrap().promises[0].good_ms = None;
    late.groups[0].entitlement.as_mut().unwrap().serve_ms = 0;
    let late = of(&late);
    assert!(late.lost.contains(&"beta has given no promise that still counts.".to_owned()), "{late:?}");
    assert!(late.rule[0].contains("may not serve now"), "{late:?}");
    let mut elsewhere = fixture::healthy();
    (elsewhere.node, elsewhere.groups[0].entitlement) = (fixture::node("beta"), None);
    let seen = of(&elsewhere);
    assert!(seen.unknown.iter().any(|u| u.contains("only its own agent knows")), "{seen:?}");
    assert!(seen.rule[0].contains("E = {beta}"), "{seen:?}");
    let mut stateless = fixture::healthy();
    stateless.groups[0].settings.data = false;
    assert!(of(&stateless).rule.iter().any(|r| r.contains("its lease in etcd counts for another 3.71 s")));
}

#[test]
fn what_is_lost_and_what_is_unknown_are_kept_apart() {
    let down = of(&fixture::down());
    assert_eq!(down.lost, ["alpha has not been heard for 12 min, and is still in the in-sync set."]);
    assert!(down.unknown.iter().any(|u| u.starts_with("Whether the record in etcd has changed")), "{down:?}");
    let mut never = fixture::healthy();
    never.nodes[1].age_ms = None;
    never.nodes[1].alive = false;
    let never = of(&never);
    assert!(never.unknown[0].starts_with("beta was never heard"), "{never:?}");
    assert!(never.lost.is_empty(), "{never:?}");
}
