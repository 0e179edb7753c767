//! `baton explain`: for each group the facts, the reason, and what would change it, from one snapshot. Pure.
//!
//! It says nothing that the snapshot does not hold: reasons are the agents' own sentences.

use super::paint::{Paint, Tone, cell, flow, hanging};
use super::status_page::group_health;
use super::words;
use crate::status::{ClusterStatus, GroupNode, GroupState, GroupStatus, Health};
use serde::Serialize;

/// A group explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The group.
    pub group: String,
    /// `ok`, `degraded` or `down`, for this group alone.
    pub health: &'static str,
    /// What is, one sentence each.
    pub facts: Vec<String>,
    /// Why it is so, one sentence each; empty if the snapshot gives no reason.
    pub because: Vec<String>,
    /// What would change it, one sentence each.
    pub changes: Vec<String>,
}

/// Explains one group of a snapshot.
#[must_use]
pub fn explain(status: &ClusterStatus, group: &GroupStatus) -> Explanation {
    let name = group.name.as_str();
    let mut facts = vec![match (&group.leader, group.state) {
        (Some(leader), GroupState::Serving) => {
            format!("{leader} leads group {name} in epoch {} and serves.", group.epoch.number)
        }
        (Some(leader), state) => format!(
            "{leader} leads group {name} in epoch {} and does not serve; its state is {}.",
            group.epoch.number,
            words::group_state(state)
        ),
        (None, _) => format!("Nobody leads group {name}; the last epoch known is {}.", group.epoch.number),
    }];
    let in_sync: Vec<&str> = group.in_sync.iter().map(|n| n.as_str()).collect();
    facts.push(match in_sync.as_slice() {
        [] => "No node is known to hold every acknowledged write.".to_owned(),
        [one] => format!("Only {one} holds every acknowledged write."),
        several => format!("{} hold every acknowledged write.", several.join(", ")),
    });
    if !status.etcd.reachable {
        facts.push(format!(
            "{} cannot reach etcd: who serves goes on, leadership cannot change.",
            status.node
        ));
    }
    if let Some(target) = &group.target {
        facts.push(format!("A person asked for it to move to {target}."));
    }
    let mut because = Vec::new();
    if !group.reason.is_empty() {
        because.push(format!("{name}: {}", group.reason));
    }
    for part in others(group).filter(|part| !part.ready && !part.reason.is_empty()) {
        because.push(format!("{} could not take over: {}", part.node, part.reason));
    }
    for volume in &group.volumes {
        if let Some(frozen) = &volume.frozen {
            because.push(format!("volume {} is frozen: {frozen}", volume.volume));
        }
    }
    Explanation {
        group: name.to_owned(),
        health: words::health(group_health(group)),
        facts,
        because,
        changes: changes(status, group),
    }
}

fn others(group: &GroupStatus) -> impl Iterator<Item = &GroupNode> {
    group.nodes.iter().filter(|part| Some(&part.node) != group.leader.as_ref())
}

fn changes(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let mut all = Vec::new();
    let ready: Vec<&str> = others(group).filter(|p| p.ready).map(|p| p.node.as_str()).collect();
    let serving = group.state == GroupState::Serving;
    match (&group.leader, ready.as_slice(), status.etcd.reachable) {
        (Some(leader), [], _) if serving => {
            all.push(format!("If {leader} fails now, the service stops until {leader} is back."));
        }
        (Some(leader), ready, true) if serving => {
            let who = ready.join(" or ");
            all.push(format!("If {leader} fails now, {who} takes over by itself."));
            all.push(format!("'baton move {} --to {}' hands it over in order.", group.name, ready[0]));
        }
        (Some(leader), _, false) if serving => {
            all.push(format!("If {leader} fails now, nobody takes over before etcd answers again."));
        }
        (_, [], _) => {}
        (_, ready, _) => all.push(format!("{} may start it by itself.", ready.join(" or "))),
    }
    for part in others(group) {
        if let Some(percent) = part.resync_percent {
            let eta = group.volumes.iter().flat_map(|v| &v.peers).find(|p| p.node == part.node);
            let eta = eta.and_then(|p| p.resync).and_then(|r| r.eta_s);
            let eta = eta.map(|s| format!(", in about {s} s")).unwrap_or_default();
            all.push(format!("When {}'s resync ends (now {percent:.1} %{eta}) it may take over.", part.node));
        }
    }
    // The agents' advice about this group, or about everything when it is the only one.
    let about = |text: &String| {
        let word = |w: &str| w.trim_matches(|c: char| !c.is_alphanumeric()) == group.name.as_str();
        text.split_whitespace().any(word) || status.groups.len() == 1
    };
    all.extend(status.advice.iter().filter(|text| about(text)).cloned());
    all
}

/// The explanation as text.
#[must_use]
pub fn render(explanation: &Explanation, paint: Paint) -> String {
    let tone = match explanation.health {
        word if word == words::health(Health::Ok) => Tone::Good,
        word if word == words::health(Health::Degraded) => Tone::Warn,
        _ => Tone::Bad,
    };
    let mut out = flow(
        paint,
        0,
        2,
        &[
            (format!("Group {}", explanation.group), Tone::Head),
            cell(": "),
            (explanation.health.to_owned(), tone),
        ],
    );
    let none = ["(nothing is known to be wrong)".to_owned()];
    let because = if explanation.because.is_empty() { &none[..] } else { &explanation.because };
    for (title, lines) in [
        ("What is", explanation.facts.as_slice()),
        ("Because", because),
        ("What would change it", explanation.changes.as_slice()),
    ] {
        if lines.is_empty() {
            continue;
        }
        out.push_str(&format!("  {title}\n"));
        for line in lines {
            out.push_str(&hanging("    * ", line));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn of(status: &ClusterStatus) -> Explanation {
        explain(status, &status.groups[0])
    }

    #[test]
    fn what_a_failure_would_mean_follows_from_who_is_ready() {
        let healthy = of(&fixture::healthy());
        assert_eq!(healthy.health, "ok");
        assert_eq!(healthy.changes[0], "If alpha fails now, beta takes over by itself.");
        assert!(healthy.because.is_empty());

        let resyncing = of(&fixture::resyncing());
        assert_eq!(resyncing.health, "degraded");
        assert_eq!(resyncing.changes[0], "If alpha fails now, the service stops until alpha is back.");
        assert!(resyncing.changes[1].contains("now 46.9 %, in about 18 s"), "{resyncing:?}");
        assert!(resyncing.because[0].starts_with("beta could not take over: its replica"));

        let mut no_etcd = fixture::healthy();
        no_etcd.etcd.reachable = false;
        assert!(of(&no_etcd).changes[0].ends_with("nobody takes over before etcd answers again."));

        let down = of(&fixture::down());
        assert_eq!(down.health, "down");
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
}
