//! What a check is called, where it is made, and what the engine's word means; the rest is `core::checks` and `probe`.

use super::prober::health;
use super::*;
use crate::docker::{self, Liveness};
use crate::spec::Spec;

fn group(checks: &str, standby: &str) -> Group {
    let text = format!(
        "cluster: c\nnodes: {{ a: {{ address: 10.0.0.1 }}, b: {{ address: 10.0.0.2 }} }}\ngroups:\n  web:\n    \
         addresses: [10.0.0.9/24]\n    standby: {standby}\n    volumes: {{ store: {{ size: 1GiB }} }}\n    services:\n      \
         front: {{ image: x }}\n      db: {{ image: y, volumes: [\"store:/data\"] }}\n    checks:\n{checks}"
    );
    let mut spec = Spec::parse(&text, |_| None).unwrap_or_else(|e| panic!("{e}\n{text}"));
    spec.groups.pop_first().expect("a group").1
}

#[test]
fn every_check_has_a_name_of_its_own() {
    let checks = "      - http: { url: \"http://{address}/\" }\n      - http: { url: \"http://{address}/\", status: 204 }\n      \
                  - tcp: { address: \"{address}:1\", name: front door }\n      - docker: { service: db }\n      \
                  - write: { service: db, path: /data/f }\n      - ping: { address: 10.0.0.254 }\n      \
                  - sql: { address: \"{address}:3306\", user: u, database: d }\n";
    assert_eq!(
        names(&group(checks, "cold").checks),
        [
            "check http://{address}/",
            "check http://{address}/ (2)",
            "front door",
            "docker db",
            "write db:/data/f",
            "ping 10.0.0.254",
            "sql {address}:3306",
        ]
    );
}

#[test]
fn a_check_is_spared_for_what_it_depends_on() {
    let checks = "      - http: { url: \"http://{address}/\", service: front }\n      - docker: { service: db }\n      \
                  - tcp: { address: \"{address}:1\" }\n";
    let mut group = group(checks, "cold");
    let of = |group: &Group, i: usize| {
        about(group.checks[i].service.as_ref(), group).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of(&group, 0), ["front"]);
    let front = group.services.get_mut("front").expect("front");
    front.depends_on = [("db".to_owned(), crate::spec::Condition::ServiceStarted)].into();
    assert_eq!((of(&group, 0), of(&group, 1)), (vec!["db".into(), "front".into()], vec!["db".to_owned()]));
    assert_eq!(of(&group, 2), ["db", "front"], "it blames all");

    let (board, web) = (Board::default(), GroupName::new("web").expect("a name"));
    let last = |i: usize| board.last_disturbed(&web, &about(group.checks[i].service.as_ref(), &group));
    assert_eq!(last(0), None);
    board.disturbed(&web, &[("front".to_owned(), Instant(7)), ("page".to_owned(), Instant(9))].into());
    assert_eq!((last(0), last(1), last(2)), (Some(Instant(7)), None, Some(Instant(7))));
}

/// A standby is judged by what runs there, and nothing is written by it.
#[test]
fn only_what_a_standby_runs_is_checked_there() {
    let checks = "      - http: { url: \"http://{address}/\", service: front }\n      - http: { url: \"http://{address}/\" }\n      \
                  - docker: { service: front }\n      - docker: { service: db }\n      \
                  - sql: { address: \"{address}:3306\", user: u, database: d, service: front }\n";
    let group = group(checks, "hot");
    let judged: Vec<bool> = group.checks.iter().map(|c| judges_standbys(c, &group)).collect();
    assert_eq!(judged, [true, false, true, false, false]);
}

#[test]
fn an_engine_that_is_silent_says_nothing_about_health() {
    let say = |liveness, of| health(liveness, of, Some(" it hurts\n".into()));
    assert_eq!(say(Liveness::Running, Some(docker::Health::Healthy)), Outcome::Good);
    assert_eq!(say(Liveness::Running, None), Outcome::Good);
    assert_eq!(
        say(Liveness::Running, Some(docker::Health::Unhealthy)),
        Outcome::Bad("unhealthy: it hurts".into())
    );
    assert!(matches!(say(Liveness::Running, Some(docker::Health::Starting)), Outcome::Unknown(_)));
    assert!(matches!(say(Liveness::Stopped, None), Outcome::Bad(_)));
    assert!(matches!(say(Liveness::Unknown, None), Outcome::Unknown(_)));
}
