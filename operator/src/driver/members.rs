//! Looks at etcd's members: for status and metrics, to warn of versions with known bugs, and to ask etcd to keep its leader
//! off a host that leads groups.
//!
//! Nothing of leadership is decided on it. If the task dies, what it saw last stays, and etcd's leader where it is.

use super::history::History;
use crate::causes::chain;
use crate::core::group::Severity;
use crate::etcd::{Etcd, Look, Mover, better_place, members_of_nodes, version_warnings};
use crate::heartbeat::clock;
use crate::metrics::live;
use crate::spec::Spec;
use crate::status::{ClusterStatus, EtcdMember, EtcdState, EtcdStatus, GroupState};
use baton_replicator::types::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks: as often as people scrape. Each costs a small request per member, and writes nothing.
const EVERY: Duration = Duration::from_secs(10);
/// While etcd confirms nothing, what is wrong with it is looked at this often.
const TROUBLE: Duration = Duration::from_secs(1);

/// What the task needs.
pub(super) struct Parts {
    pub me: NodeName,
    pub etcd: Etcd,
    pub in_force: watch::Receiver<Arc<Spec>>,
    pub status: watch::Receiver<ClusterStatus>,
    pub history: History,
}

/// What was seen last; empty before the first look.
pub(super) type Seen = watch::Receiver<Look>;

/// Starts the task; it ends with the runtime.
pub(super) fn start(parts: Parts) -> Seen {
    let (tell, seen) = watch::channel(Look::default());
    tokio::spawn(async move {
        let mut mover = Mover::default();
        let mut warned = BTreeSet::new();
        loop {
            let look = parts.etcd.look().await;
            live().etcd_members(&look.members);
            warn(&look, &mut warned);
            keep_away(&parts, &look, &mut mover).await;
            tell.send_replace(look);
            let confirms = parts.status.borrow().etcd.reachable;
            tokio::time::sleep(if confirms { EVERY } else { TROUBLE }).await;
        }
    });
    seen
}

/// One line in the log per member and version.
fn warn(look: &Look, warned: &mut BTreeSet<(String, String)>) {
    for member in &look.members {
        let Some(version) = &member.version else { continue };
        if warned.insert((member.endpoint.clone(), version.clone()))
            && let Some(warning) = &member.warning
        {
            tracing::warn!(endpoint = member.endpoint, "{warning}");
        }
    }
}

/// Asks etcd's leader on this host to hand over, if this host leads groups and that is settled.
async fn keep_away(parts: &Parts, look: &Look, mover: &mut Mover) {
    let wish = {
        let (spec, status) = (parts.in_force.borrow(), parts.status.borrow());
        let settled = status.groups.iter().all(|g| g.leader.is_none() || g.state == GroupState::Serving);
        let leading = status.groups.iter().filter_map(|g| g.leader.clone()).collect();
        let may = spec.etcd.leader_away && status.etcd.reachable && settled;
        let beside = members_of_nodes(&look.listed, &addresses(&spec));
        may.then(|| better_place(look, &beside, &parts.me, &leading)).flatten()
    };
    let Some(to) = mover.look(wish, clock::now()) else { return };
    let name = look.listed.iter().find(|m| m.id == to).map_or_else(|| format!("{to:x}"), |m| m.name.clone());
    match parts.etcd.move_leader(to).await {
        Ok(()) => {
            live().etcd_leader_moved(true);
            let text = format!("etcd's leader moved to its member {name}: {} leads groups", parts.me);
            parts.history.record(None, Severity::Info, &text);
        }
        Err(error) => {
            live().etcd_leader_moved(false);
            tracing::warn!(to = name, error = %chain(&error), "etcd's leader stays on this host, which leads groups");
        }
    }
}

/// All addresses of each node, as they may stand in a URL.
fn addresses(spec: &Spec) -> BTreeMap<NodeName, Vec<String>> {
    let of = |node: &crate::spec::Node| {
        let links = node.heartbeat.iter().filter_map(|link| link.address());
        [node.address]
            .into_iter()
            .chain(node.replication.iter().copied())
            .chain(links)
            .map(|a| a.to_string())
            .collect()
    };
    spec.nodes.iter().map(|(name, node)| (name.clone(), of(node))).collect()
}

/// Puts what was seen into the snapshot; `reachable` stands there already.
pub(super) fn put_into(etcd: &mut EtcdStatus, look: &Look, spec: &Spec, latency: Option<Duration>) {
    let beside = members_of_nodes(&look.listed, &addresses(spec));
    let answers: Vec<Option<bool>> = look.members.iter().map(|m| m.id.map(|_| m.leader.is_some())).collect();
    etcd.state = EtcdState::of(etcd.reachable, latency, &answers);
    etcd.latency_ms = latency.map(|l| (l.as_secs_f64() * 100_000.0).round() / 100.0);
    etcd.voters = look.voters().and_then(|n| u32::try_from(n).ok());
    let member = |m: &crate::etcd::MemberStatus| {
        let listed = look.listed.iter().find(|l| Some(l.id) == m.id);
        EtcdMember {
            endpoint: m.endpoint.clone(),
            name: listed.map(|l| l.name.clone()),
            on: m.id.and_then(|id| beside.get(&id).cloned()),
            answers: m.id.is_some(),
            leads: m.leads,
            version: m.version.clone(),
            warnings: m.version.as_deref().map(version_warnings).unwrap_or_default(),
        }
    };
    etcd.members = look.members.iter().map(member).collect();
}

/// What a person should do about it.
pub(super) fn advice(etcd: &EtcdStatus, spec: &Spec) -> Option<String> {
    (etcd.voters == Some(2) && !spec.etcd.two_members).then(|| two_members("etcd"))
}

/// Why two members are none too good, and what to do; `whose` begins the sentence.
pub(super) fn two_members(whose: &str) -> String {
    format!(
        "{whose} has two members: the loss of either stops every change of leadership, so they survive less than one \
         would. Add a third, a small witness on any third machine (docs/getting-started.md, step 3), or accept two \
         with 'etcd: {{ two_members: true }}' in the specification"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::{ListedMember, MemberStatus};

    fn spec(more: &str) -> Spec {
        let text = format!(
            "cluster: demo\nnodes:\n  alpha: {{ address: 10.0.0.11 }}\n  beta: {{ address: 10.0.0.12 }}\n\
             groups:\n  web:\n    addresses: [10.0.0.100/24]\n    services: {{ w: {{ image: w }} }}\n{more}"
        );
        Spec::parse(&text, |_| None).unwrap()
    }

    #[test]
    fn the_snapshot_says_who_is_where_and_what_is_known_about_it() {
        let member = |id: u64, version: &str| MemberStatus {
            endpoint: format!("http://10.0.0.1{id}:2379"),
            id: Some(id),
            version: Some(version.into()),
            leads: id == 2,
            leader: Some(2),
            ..MemberStatus::default()
        };
        let listed = |id: u64, name: &str| ListedMember {
            id,
            name: name.into(),
            hosts: vec![format!("10.0.0.1{id}")],
            learner: false,
        };
        let away = MemberStatus { endpoint: "http://10.0.0.13:2379".into(), ..MemberStatus::default() };
        let look = Look {
            members: vec![member(1, "3.6.5"), member(2, "3.4.23"), away],
            listed: vec![listed(1, "m1"), listed(2, "m2")],
        };
        let mut etcd = EtcdStatus { reachable: true, ..EtcdStatus::default() };
        put_into(&mut etcd, &look, &spec(""), Some(Duration::from_micros(1234)));
        assert_eq!((etcd.state, etcd.latency_ms, etcd.voters), (EtcdState::Answers, Some(1.23), Some(2)));
        let on: Vec<Option<&str>> =
            etcd.members.iter().map(|m| m.on.as_ref().map(NodeName::as_str)).collect();
        assert_eq!(on, [Some("alpha"), Some("beta"), None]);
        let bugs: Vec<usize> = etcd.members.iter().map(|m| m.warnings.len()).collect();
        assert_eq!(bugs, [0, 3, 0]);
        assert!(etcd.members[1].leads && !etcd.members[2].answers);
        // Two members: advised against, unless a person said that they are meant.
        assert!(advice(&etcd, &spec("")).is_some_and(|a| a.contains("two_members: true")));
        assert_eq!(advice(&etcd, &spec("etcd: { two_members: true }\n")), None);
        etcd.voters = Some(3);
        assert_eq!(advice(&etcd, &spec("")), None);
    }

    #[tokio::test]
    async fn etcds_leader_leaves_a_host_that_leads_groups() {
        let Some(cluster) = crate::etcd::tests::Cluster::start(3).await else { return };
        let etcd = cluster.etcd("a").await;
        let look = etcd.look().await;
        let leads = |look: &Look| {
            let id = look.members.iter().find(|m| m.leads).and_then(|m| m.id);
            look.listed.iter().find(|m| Some(m.id) == id).map(|m| m.name.clone()).unwrap()
        };
        // The members are called m0 to m2; this node as the one that leads, the other as one of the others.
        let here = leads(&look);
        let there = if here == "m0" { "m1" } else { "m0" };
        let text = format!(
            "cluster: demo\nnodes:\n  {here}: {{ address: 10.0.0.11 }}\n  {there}: {{ address: 10.0.0.12 }}\n\
             groups:\n  web:\n    addresses: [10.0.0.100/24]\n    services: {{ w: {{ image: w }} }}\n"
        );
        let spec = |more: &str| Arc::new(Spec::parse(&format!("{text}{more}"), |_| None).unwrap());
        let me = NodeName::new(here.as_str()).unwrap();
        let mut status = crate::cli::fixture::healthy();
        status.groups.truncate(1);
        status.groups[0].leader = Some(me.clone());
        let (in_force, ear) = watch::channel(spec("etcd: { leader_away: false }\n"));
        let (state, status_ear) = watch::channel(status);
        let (history, _entries) = History::new(me.clone());
        let parts = Parts { me, etcd: etcd.clone(), in_force: ear, status: status_ear, history };
        // It has wanted to for half a minute.
        let long = || {
            let mut mover = Mover::default();
            let before = clock::now().0 - 30_000_000_000;
            assert_eq!(mover.look(Some(1), baton_replicator::types::Instant(before)), None);
            mover
        };
        keep_away(&parts, &look, &mut long()).await;
        assert_eq!(leads(&etcd.look().await), here, "a person wants it so");

        in_force.send_replace(spec(""));
        state.send_modify(|s| s.groups[0].state = GroupState::Starting);
        keep_away(&parts, &look, &mut long()).await;
        assert_eq!(leads(&etcd.look().await), here, "not while a group moves");

        state.send_modify(|s| s.groups[0].state = GroupState::Serving);
        keep_away(&parts, &look, &mut long()).await;
        let witness = ["m0", "m1", "m2"].into_iter().find(|m| *m != here && *m != there).unwrap();
        assert_eq!(leads(&etcd.look().await), witness, "the one on no node");
    }
}
