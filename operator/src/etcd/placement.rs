//! Where etcd's own leader should be: not on a host that leads groups.
//!
//! If that host dies, its groups need etcd at once, and etcd would have to elect a leader first. The agent beside etcd's
//! leader asks it to hand over, when all members are well, when it has wanted that for a while, and ever more rarely if
//! it has to be asked again and again. Pure: the driver looks, and asks.

use super::members::{ListedMember, Look};
use baton_replicator::types::{Instant, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The wish must stand for so long: a group that has just been taken over has other worries than an election.
const SETTLED: Duration = Duration::from_secs(20);
/// Between two requests, doubled by each that is needed soon after the last.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest pause; twice this long after the last request the first pause counts again.
const CALM: Duration = Duration::from_secs(3600);

/// Which members stand on which nodes: by the member's name, else by an address in its URLs. A member that belongs to no
/// node is a witness.
#[must_use]
pub fn members_of_nodes(
    listed: &[ListedMember],
    nodes: &BTreeMap<NodeName, Vec<String>>,
) -> BTreeMap<u64, NodeName> {
    let of = |member: &ListedMember| {
        let named = nodes.keys().find(|node| node.as_str() == member.name);
        let here = |addresses: &Vec<String>| addresses.iter().any(|a| member.hosts.contains(a));
        named.or_else(|| nodes.iter().find(|(_, addresses)| here(addresses)).map(|(node, _)| node)).cloned()
    };
    listed.iter().filter_map(|m| Some((m.id, of(m)?))).collect()
}

/// Whom the agent of `me` should ask etcd's leader beside it to hand over to; none if all is well or nobody is better.
/// `leading` are the nodes that lead groups.
#[must_use]
pub fn better_place(
    look: &Look,
    beside: &BTreeMap<u64, NodeName>,
    me: &NodeName,
    leading: &BTreeSet<NodeName>,
) -> Option<u64> {
    let voters: Vec<&ListedMember> = look.listed.iter().filter(|m| !m.learner).collect();
    // With fewer the transfer is a risk without a gain.
    if !leading.contains(me) || voters.len() < 3 {
        return None;
    }
    let leader = look.members.iter().find(|m| m.leads)?.id?;
    if beside.get(&leader) != Some(me) {
        return None;
    }
    let well = |id: u64| {
        let answers = |m: &&super::MemberStatus| m.id == Some(id) && m.leader == Some(leader);
        look.members.iter().find(answers).is_some_and(|m| m.errors.is_empty() && !m.learner)
    };
    if !voters.iter().all(|m| well(m.id)) {
        return None;
    }
    // A witness first, then a host that leads nothing; never one that leads, too: the two would throw it at each other.
    let rank = |id: u64| match beside.get(&id) {
        None => Some(0),
        Some(node) if !leading.contains(node) => Some(1),
        Some(_) => None,
    };
    let ranked =
        voters.iter().map(|m| m.id).filter(|id| *id != leader).filter_map(|id| Some((rank(id)?, id)));
    ranked.min().map(|(_, id)| id)
}

/// Limits how often etcd's leader is asked.
#[derive(Debug, Clone, Default)]
pub struct Mover {
    /// Since when the wish stands.
    since: Option<Instant>,
    /// When it was asked last, and the pause after that.
    asked: Option<(Instant, Duration)>,
}

impl Mover {
    /// A look, with what it wishes for. Returns whom to ask for now; that counts as asked.
    pub fn look(&mut self, wish: Option<u64>, now: Instant) -> Option<u64> {
        let Some(to) = wish else {
            self.since = None;
            return None;
        };
        let since = *self.since.get_or_insert(now);
        if now.since(since) < SETTLED {
            return None;
        }
        let pause = match self.asked {
            Some((at, pause)) if now.since(at) < pause => return None,
            Some((at, pause)) if now.since(at) < CALM * 2 => (pause * 2).min(CALM),
            _ => PAUSE,
        };
        self.asked = Some((now, pause));
        self.since = None;
        Some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemberStatus;
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn listed(id: u64, name: &str, host: &str) -> ListedMember {
        ListedMember { id, name: name.into(), hosts: vec![host.into()], learner: false }
    }

    /// Three members, the first of which leads.
    fn healthy() -> Look {
        let member = |id| MemberStatus {
            endpoint: format!("http://10.0.0.{id}:2379"),
            id: Some(id),
            version: Some("3.6.5".into()),
            leads: id == 1,
            leader: Some(1),
            ..MemberStatus::default()
        };
        Look {
            members: (1..=3).map(member).collect(),
            listed: vec![
                listed(1, "alpha", "10.0.0.21"),
                listed(2, "x", "10.0.0.12"),
                listed(3, "witness", "10.0.0.13"),
            ],
        }
    }

    fn beside(look: &Look) -> BTreeMap<u64, NodeName> {
        let nodes = [("alpha", "10.0.0.11"), ("beta", "10.0.0.12")];
        members_of_nodes(&look.listed, &nodes.map(|(n, a)| (node(n), vec![a.to_owned()])).into())
    }

    #[test]
    fn members_belong_to_nodes_by_name_or_by_address() {
        assert_eq!(beside(&healthy()), [(1, node("alpha")), (2, node("beta"))].into(), "3 is a witness");
    }

    #[test]
    fn the_leader_goes_to_the_witness_and_else_to_a_host_that_leads_nothing() {
        let place = |look: &Look, me: &str, leading: &[&str]| {
            better_place(look, &beside(look), &node(me), &leading.iter().map(|n| node(n)).collect())
        };
        let look = healthy();
        assert_eq!(place(&look, "alpha", &["alpha"]), Some(3));
        assert_eq!(place(&look, "alpha", &["alpha", "beta"]), Some(3));
        assert_eq!(place(&look, "alpha", &["beta"]), None, "alpha leads nothing");
        assert_eq!(place(&look, "beta", &["beta"]), None, "it is not beside beta");

        // Both other members stand on hosts.
        let mut hosts = healthy();
        hosts.listed[2] = listed(3, "gamma", "10.0.0.14");
        let nodes = [("alpha", "x"), ("beta", "10.0.0.12"), ("gamma", "y")];
        let on = members_of_nodes(&hosts.listed, &nodes.map(|(n, a)| (node(n), vec![a.to_owned()])).into());
        let to = |leading: &[&str]| {
            better_place(&hosts, &on, &node("alpha"), &leading.iter().map(|n| node(n)).collect())
        };
        assert_eq!(to(&["alpha"]), Some(2));
        assert_eq!(to(&["alpha", "beta"]), Some(3), "the one that leads nothing");
        assert_eq!(to(&["alpha", "beta", "gamma"]), None, "nobody is better");
    }

    #[test]
    fn nothing_moves_unless_all_members_are_well() {
        let place = |look: &Look| better_place(look, &beside(look), &node("alpha"), &[node("alpha")].into());
        type Case = (&'static str, fn(&mut Look));
        let spoilt: [Case; 7] = [
            ("a member is away", |l| l.members[1] = MemberStatus::default()),
            ("a member follows another leader", |l| l.members[1].leader = Some(2)),
            ("a member has no leader", |l| l.members[2].leader = None),
            ("a member has an alarm", |l| l.members[1].errors = vec!["NOSPACE".into()]),
            ("a member is in the list and not among the endpoints", |l| l.listed[1].id = 9),
            ("only two vote", |l| l.listed[2].learner = true),
            ("the list is not known", |l| l.listed.clear()),
        ];
        assert_eq!(place(&healthy()), Some(3));
        for (what, spoil) in spoilt {
            let mut look = healthy();
            spoil(&mut look);
            assert_eq!(place(&look), None, "{what}");
        }
    }

    #[test]
    fn it_is_asked_rarely_and_ever_more_rarely() {
        let mut mover = Mover::default();
        let mut asked = Vec::new();
        // etcd's leader comes back at once, again and again: a look every ten seconds for three hours.
        for look in 0..=1080_u64 {
            let now = Instant::ZERO.plus(Duration::from_secs(1000 + look * 10));
            if mover.look(Some(7), now).is_some() {
                asked.push(look * 10);
            }
        }
        assert_eq!(asked, [20, 80, 200, 440, 920, 1880, 3800, 7400], "60 s, doubled up to an hour");
        // A wish that comes and goes is never followed.
        let mut mover = Mover::default();
        for look in 0..100_u64 {
            let now = Instant::ZERO.plus(Duration::from_secs(1000 + look * 10));
            assert_eq!(mover.look((look % 3 != 2).then_some(7), now), None);
        }
    }
}
