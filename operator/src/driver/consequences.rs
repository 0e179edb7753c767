//! What a command means for services and hosts, in sentences: shown before somebody confirms it and after.
//!
//! Pure functions of the status snapshot. They describe; whether a command is refused is decided elsewhere.

use crate::api::Place;
use crate::core::record::ModeWish;
use crate::fence::Action;
use crate::status::{ClusterStatus, GroupState, GroupStatus, NodeMode};
use baton_replicator::types::NodeName;

/// A move of `group` to `to`.
pub(super) fn of_move(group: &GroupStatus, to: &NodeName) -> Vec<String> {
    let Some(from) = group.leader.as_ref() else {
        return vec![format!("{} starts on {to}; nobody serves it at present", group.name)];
    };
    if from == to && group.state == GroupState::Failed {
        return vec![format!("{} is started on {from} at once, as if it had not failed", group.name)];
    }
    if from == to {
        return vec![format!("{} stays on {from}: a move that waits is taken back", group.name)];
    }
    let mut all = Vec::new();
    let services: Vec<&str> = group.services.iter().map(|s| s.name.as_str()).collect();
    if !services.is_empty() {
        let (names, s) = (list(&services), if services.len() == 1 { "s" } else { "" });
        all.push(format!("{names} stop{s} on {from} and start{s} on {to}"));
    }
    if !group.addresses.is_empty() {
        let addresses: Vec<&str> = group.addresses.iter().map(|a| a.split('/').next().unwrap_or(a)).collect();
        let (names, s) = (list(&addresses), if addresses.len() == 1 { "s" } else { "" });
        all.push(format!("{names} move{s} to {to}; open connections are closed"));
    }
    let last = group.last_takeover.as_ref().filter(|t| t.kind == "handover");
    all.push(match last {
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        Some(t) => format!(
            "nobody serves {} meanwhile; the last handover took {:.1} s",
            group.name,
            t.total_ms as f64 / 1000.0
        ),
        None => format!("nobody serves {} meanwhile", group.name),
    });
    all
}

/// A pin, a stop for good, or the end of one.
pub(super) fn of_place(group: &GroupStatus, what: &Place, to: Option<&NodeName>) -> Vec<String> {
    let name = &group.name;
    match (what, &group.leader) {
        (Place::Pin(_), _) => {
            let mut all = to.map(|to| of_move(group, to)).unwrap_or_default();
            all.push(format!(
                "{name} leaves its node only if that dies, goes into standby mode or cannot run it, and stays then where \
                 it was taken over"
            ));
            all
        }
        (Place::Unpin, _) if group.settings.auto_failback => {
            vec![format!("{name} may go back to a more preferred node by itself")]
        }
        (Place::Unpin, _) => Vec::new(),
        (Place::Disable, Some(leader)) => vec![
            format!("{name} is stopped on {leader}; nobody serves it until it is enabled"),
            format!("its volumes stay replicated, and {leader} in maintenance mode would stop nothing"),
        ],
        (Place::Disable, None) => vec![format!("nobody starts {name} until it is enabled")],
        (Place::Enable, _) => vec![match &group.rests_with {
            Some(lead) => {
                format!("{name} stays stopped all the same: it goes with {lead}, which is disabled")
            }
            None => format!("a node that holds its data starts {name}, preferred ones first"),
        }],
    }
}

/// What a stop for good, or its end, means for the groups that go with `group`; `all` are the groups there are.
pub(super) fn of_company(group: &GroupStatus, what: &Place, all: &[GroupStatus]) -> Vec<String> {
    let said = match what {
        Place::Disable => "is stopped before",
        Place::Enable if group.rests_with.is_none() => "starts when it serves",
        Place::Enable | Place::Pin(_) | Place::Unpin => return Vec::new(),
    };
    let followers = super::placement::followers(&group.name, all);
    followers.map(|other| format!("{other}, which goes with it, {said}")).collect()
}

/// A new mode of `node`.
pub(super) fn of_mode(status: &ClusterStatus, node: &NodeName, wish: &ModeWish) -> Vec<String> {
    let leads = |g: &&GroupStatus| g.leader.as_ref() == Some(node);
    let mut all = Vec::new();
    match wish.mode {
        NodeMode::Online => {
            for group in status.groups.iter().filter(|g| g.leader.is_none()) {
                all.push(format!("{} has no leader: {node} may take it if it holds its data", group.name));
            }
        }
        NodeMode::Standby => {
            for group in status.groups.iter().filter(leads) {
                let other = |n: &&crate::status::GroupNode| n.node != *node;
                match group.nodes.iter().filter(other).find(|n| n.ready) {
                    Some(next) => all.extend(of_move(group, &next.node)),
                    None => all.push(format!(
                        "{} stays on {node} until another node can take it; none can now",
                        group.name
                    )),
                }
            }
            for group in status.groups.iter().filter(|g| !leads(g)) {
                let mut spares = group.ready_standbys();
                if spares.next() == Some(node) && spares.next().is_none() {
                    all.push(format!(
                        "no node could take {} over while {node} is in standby mode",
                        group.name
                    ));
                }
            }
        }
        NodeMode::Maintenance => {
            for group in status.groups.iter().filter(leads) {
                all.push(format!(
                    "{} stays on {node} whatever fails there: its services are not restarted and it is not moved",
                    group.name
                ));
            }
            if wish.note.as_ref().is_some_and(|note| note.until.is_some()) {
                all.push(format!(
                    "when its time is over, status, event and alert say so; {node} stays in maintenance until it is set \
                     online"
                ));
            }
        }
    }
    all
}

/// What switching a node's power means for the groups.
pub(super) fn of_fence(status: &ClusterStatus, node: &NodeName, action: Action) -> Vec<String> {
    match action {
        Action::Status => return vec![format!("the fence devices of {node} are asked whether it is on")],
        Action::On => return vec![format!("{node} gets power; its agent joins when it has started")],
        Action::Off | Action::Reboot => {}
    }
    let back = if action == Action::Off {
        "and stays off until somebody switches it on"
    } else {
        "and starts again"
    };
    let mut all = vec![format!("{node} loses power at once, nothing on it is stopped in order, {back}")];
    for group in status.groups.iter().filter(|g| g.leader.as_ref() == Some(node)) {
        let name = &group.name;
        all.push(match group.ready_standbys().next() {
            Some(standby) => format!("{name} stops there and is taken over, as by {standby}"),
            None => format!("{name} stops there, and nobody can take it over"),
        });
    }
    all
}

/// Trust in etcd's record of `group` by the agent on `me`.
pub(super) fn of_recovery(group: &GroupStatus, me: &NodeName) -> Vec<String> {
    let name = &group.name;
    let mut all = vec![format!("the agents on the other nodes do not: ask each of them")];
    match (&group.leader, group.state) {
        (Some(leader), GroupState::Serving) => {
            all.push(format!("{leader} goes on serving {name} and writes the record anew"));
        }
        _ => all.push(format!(
            "{me} may take {name} over by what etcd says; if that is older than the data, newer writes are lost"
        )),
    }
    all
}

fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::{down, healthy, node, resyncing};
    use baton_replicator::types::GroupName;

    #[test]
    fn a_move_names_services_addresses_and_the_gap() {
        let status = healthy();
        assert_eq!(
            of_move(&status.groups[0], &node("beta")),
            [
                "mysql and apache stop on alpha and start on beta",
                "10.77.0.100 moves to beta; open connections are closed",
                "nobody serves web meanwhile"
            ]
        );
        let mut after = healthy().groups.remove(0);
        if let Some(last) = &mut after.last_takeover {
            (last.kind, last.total_ms) = ("handover".into(), 1460);
        }
        after.services.truncate(1);
        let said = of_move(&after, &node("beta"));
        assert_eq!(said[0], "mysql stops on alpha and starts on beta");
        assert_eq!(said[2], "nobody serves web meanwhile; the last handover took 1.5 s");
        assert_eq!(of_move(&after, &node("alpha")), ["web stays on alpha: a move that waits is taken back"]);
        after.state = GroupState::Failed;
        let again = of_move(&after, &node("alpha"));
        assert_eq!(again, ["web is started on alpha at once, as if it had not failed"]);
    }

    #[test]
    fn a_mode_says_what_becomes_of_the_groups() {
        let standby = |status, name: &str| of_mode(&status, &node(name), &NodeMode::Standby.into());
        assert_eq!(standby(healthy(), "alpha").len(), 3, "as a move to beta");
        assert_eq!(standby(healthy(), "beta"), ["no node could take web over while beta is in standby mode"]);
        assert_eq!(
            standby(resyncing(), "alpha"),
            ["web stays on alpha until another node can take it; none can now"]
        );
        let said = of_mode(&healthy(), &node("alpha"), &NodeMode::Maintenance.into());
        assert!(said[0].starts_with("web stays on alpha whatever fails there"), "{said:?}");
        assert!(of_mode(&healthy(), &node("alpha"), &NodeMode::Online.into()).is_empty());
    }

    #[test]
    fn what_goes_with_a_group_is_named() {
        let mut all = healthy().groups;
        let mut app = all[0].clone();
        (app.name, app.settings.with) = (GroupName::new("app").unwrap(), Some(all[0].name.clone()));
        all.push(app);
        let of = |group: &GroupStatus, what| of_company(group, &what, &all);
        assert_eq!(of(&all[0], Place::Disable), ["app, which goes with it, is stopped before"]);
        assert_eq!(of(&all[0], Place::Enable), ["app, which goes with it, starts when it serves"]);
        assert!(of(&all[0], Place::Unpin).is_empty() && of(&all[1], Place::Disable).is_empty());
        let mut app = all[1].clone();
        app.rests_with = Some(all[0].name.clone());
        let said = [of_place(&app, &Place::Enable, None), of(&app, Place::Enable)].concat();
        assert_eq!(said, ["app stays stopped all the same: it goes with web, which is disabled"]);
    }

    #[test]
    fn a_recovery_warns_where_data_is_at_stake() {
        assert!(of_recovery(&healthy().groups[0], &node("beta"))[1].starts_with("alpha goes on serving"));
        assert!(of_recovery(&down().groups[0], &node("beta"))[1].contains("newer writes are lost"));
    }
}
