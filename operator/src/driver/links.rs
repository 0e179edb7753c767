//! Heartbeat links for people: their status, what to do about them, and what is worth an event. Pure.

use super::snapshot::millis;
use crate::core::group::Severity;
use crate::core::links::{GAP_BOUNDS_MS, Hearing, Link, Links, PeerOnLink, Refusal};
use crate::core::timing::Timers;
use crate::spec::{HeartbeatLink, Profile, Spec};
use crate::status::{
    GapBucket, HeardNode, HearingStatus, HeartbeatLinkCounters, HeartbeatLinkStatus, HeartbeatPeerCounters,
    HeartbeatPeerStatus, HeartbeatStatus, LinkState, MeasuredGaps, RefusedDatagrams,
};
use baton_replicator::types::{Instant, NodeName};
use std::collections::BTreeSet;

/// What the heartbeat thread knows, under the names of the specification.
pub(super) fn status(
    links: &Links,
    spec: &Spec,
    me: &NodeName,
    timers: &Timers,
    now: Instant,
) -> HeartbeatStatus {
    let own = spec.nodes.get(me).map(|n| n.heartbeat.as_slice()).unwrap_or_default();
    let link = |(i, (own, link)): (usize, (&HeartbeatLink, &Link))| {
        let address = |name: &NodeName| {
            let theirs = spec.nodes.get(name).and_then(|n| n.heartbeat.get(i));
            theirs.and_then(HeartbeatLink::address).map_or_else(|| own.to_string(), |a| a.to_string())
        };
        let peers = link.peers.iter().map(|(name, at)| peer(name, address(name), at, i, now));
        HeartbeatLinkStatus {
            link: number(i),
            kind: own.kind().into(),
            name: own.to_string(),
            error: link.error.clone(),
            turns: link.turns.max(1),
            counters: HeartbeatLinkCounters {
                sent: link.sent,
                dropped: link.dropped,
                refused: Refusal::ALL.into_iter().map(|why| refused(link, why)).collect(),
            },
            peers: peers.collect(),
        }
    };
    let heard = |(node, bits): (NodeName, u32)| HeardNode {
        node,
        links: (0..u32::BITS).filter(|i| bits >> i & 1 == 1).map(|i| i + 1).collect(),
    };
    let hearing = links
        .matrix(now)
        .into_iter()
        .map(|(node, hears)| HearingStatus { node, hears: hears.into_iter().map(heard).collect() });
    let measured = links.measured(now);
    let suggested = links.suggestion(now);
    HeartbeatStatus {
        links: own.iter().zip(links.links()).enumerate().map(link).collect(),
        hearing: hearing.collect(),
        measured: MeasuredGaps {
            worst_ms: millis(measured.worst),
            gaps: measured.gaps,
            silences: measured.silences,
            over_s: measured.over.as_secs(),
            warntime_ms: millis(timers.warntime),
            deadtime_ms: millis(timers.deadtime),
            suggested_warntime_ms: suggested.map(|s| millis(s.warntime)),
            suggested_deadtime_ms: suggested.map(|s| millis(s.deadtime)),
        },
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

fn refused(link: &Link, why: Refusal) -> RefusedDatagrams {
    RefusedDatagrams { reason: why.word().into(), datagrams: link.refused.get(&why).copied().unwrap_or(0) }
}

fn peer(name: &NodeName, address: String, at: &PeerOnLink, link: usize, now: Instant) -> HeartbeatPeerStatus {
    let bounds = GAP_BOUNDS_MS.into_iter().map(Some).chain([None]);
    HeartbeatPeerStatus {
        node: name.clone(),
        address,
        state: match at.hearing {
            Hearing::Unknown => LinkState::Unknown,
            Hearing::Up => LinkState::Up,
            Hearing::Late => LinkState::Late,
            Hearing::Down => LinkState::Down,
        },
        hears_us: at.hears_us,
        one_way: at.one_way,
        crossed: at.theirs.map(usize::from).filter(|theirs| *theirs != link).map(number),
        counters: HeartbeatPeerCounters {
            state_ms: millis(now.since(at.since)),
            age_ms: at.heard.map(|heard| millis(now.since(heard))),
            received: at.received,
            lost: at.lost,
            late: at.late,
            longest_gap_ms: millis(at.longest),
            gaps: bounds.zip(at.gaps).map(|(up_to_ms, gaps)| GapBucket { up_to_ms, gaps }).collect(),
        },
    }
}

/// The peer is heard on some link: what is wrong with another one is the link's fault and not the peer's.
fn alive(status: &HeartbeatStatus, node: &NodeName) -> bool {
    status.links.iter().flat_map(|l| &l.peers).any(|p| p.node == *node && p.state == LinkState::Up)
}

fn direction(me: &NodeName, link: &HeartbeatLinkStatus, peer: &HeartbeatPeerStatus) -> String {
    let (hears, deaf) = match peer.state {
        LinkState::Up => (me, &peer.node),
        LinkState::Unknown | LinkState::Late | LinkState::Down => (&peer.node, me),
    };
    format!(
        "heartbeat link {} ({}) is one-way: {hears} hears {deaf}, {deaf} does not hear {hears}",
        link.link, link.name
    )
}

/// What a person should do about links, one sentence each.
pub(super) fn advice(status: &HeartbeatStatus, me: &NodeName, timers: &Timers) -> Vec<String> {
    let mut all = Vec::new();
    for link in &status.links {
        let called = format!("heartbeat link {} ({})", link.link, link.name);
        let silent =
            |p: &&HeartbeatPeerStatus| p.state == LinkState::Down && !p.one_way && alive(status, &p.node);
        let down: Vec<&str> = link.peers.iter().filter(silent).map(|p| p.node.as_str()).collect();
        if !down.is_empty() {
            let why = link.error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
            all.push(format!(
                "{me} hears nothing from {} by {called}{why}: mend it before another link fails; 'baton links' shows all",
                down.join(", ")
            ));
        }
        for peer in &link.peers {
            if peer.one_way {
                all.push(format!(
                    "{}: look for a packet filter, a broken fibre or a wrong address",
                    direction(me, link, peer)
                ));
            }
            if let Some(theirs) = peer.crossed {
                all.push(format!(
                    "what {} sends on its heartbeat link {theirs} arrives here on link {}: cables or addresses are \
                     crossed, and the links may fail together",
                    peer.node, link.link
                ));
            }
        }
        let round = timers.keepalive * link.turns;
        if round >= timers.warntime {
            all.push(format!(
                "{called} carries the heartbeat of each group only once in {} ms ({} turns): if no other link is left, \
                 groups may lose their standby or be fenced; take a faster line or a longer warntime and deadtime",
                round.as_millis(),
                link.turns
            ));
        }
    }
    all
}

/// What was told about links, so that each change is told once.
#[derive(Debug, Default)]
pub(super) struct Told {
    down: BTreeSet<(u32, NodeName)>,
    one_way: BTreeSet<(u32, NodeName)>,
}

impl Told {
    /// What has changed since the last look.
    pub(super) fn news(&mut self, status: &HeartbeatStatus, me: &NodeName) -> Vec<(Severity, String)> {
        let mut news = Vec::new();
        let mut there = BTreeSet::new();
        for link in &status.links {
            for peer in &link.peers {
                let key = (link.link, peer.node.clone());
                let called = format!("heartbeat link {} ({})", link.link, link.name);
                if peer.one_way && self.one_way.insert(key.clone()) {
                    news.push((Severity::Warning, direction(me, link, peer)));
                } else if !peer.one_way && self.one_way.remove(&key) {
                    news.push((
                        Severity::Info,
                        format!("{called} is not one-way any more between {me} and {}", peer.node),
                    ));
                }
                let down = peer.state == LinkState::Down && !peer.one_way && alive(status, &peer.node);
                if down && self.down.insert(key.clone()) {
                    let text = format!("nothing comes from {} by {called}; other links carry on", peer.node);
                    news.push((Severity::Warning, text));
                } else if peer.state == LinkState::Up && self.down.remove(&key) {
                    news.push((Severity::Info, format!("{} is heard by {called} again", peer.node)));
                }
                there.insert(key);
            }
        }
        self.down.retain(|key| there.contains(key));
        self.one_way.retain(|key| there.contains(key));
        news
    }
}

/// What is to be said about short timers on hosts that were too late for them.
pub(super) fn profile_advice(status: &HeartbeatStatus, me: &NodeName, profile: Profile) -> Option<String> {
    let m = &status.measured;
    let needed = m.suggested_deadtime_ms.filter(|ms| profile == Profile::Fast && *ms > m.deadtime_ms)?;
    Some(format!(
        "profile: fast does not hold on these hosts: {me} waited up to {} ms for a heartbeat, which needs a deadtime of {needed} \
         ms, and {} ms are in force; give a longer deadtime beside the profile, or leave the profile out",
        m.worst_ms, m.deadtime_ms
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn me() -> NodeName {
        fixture::node("alpha")
    }

    #[test]
    fn a_link_that_is_down_or_one_way_is_advised_and_told_once() {
        let mut told = Told::default();
        let timers = Timers::default();
        let well = fixture::heartbeat();
        assert!(told.news(&well, &me()).is_empty() && advice(&well, &me(), &timers).is_empty());

        let mut cut = well.clone();
        cut.links[1].peers[0].state = LinkState::Down;
        let news = told.news(&cut, &me());
        assert_eq!(
            news,
            [(
                Severity::Warning,
                "nothing comes from beta by heartbeat link 2 (broadcast eth1); other links carry on"
                    .to_owned()
            )]
        );
        assert!(told.news(&cut, &me()).is_empty(), "once");
        assert!(advice(&cut, &me(), &timers)[0].contains("mend it before another link fails"));

        let mut half = well.clone();
        half.links[1].peers[0].one_way = true;
        let told_now = told.news(&half, &me());
        assert_eq!(told_now.len(), 2, "{told_now:?}");
        assert!(
            told_now[0].1.contains("is one-way: alpha hears beta, beta does not hear alpha"),
            "{told_now:?}"
        );
        assert!(told_now[1].1.contains("beta is heard by heartbeat link 2"), "{told_now:?}");
        assert!(advice(&half, &me(), &timers)[0].contains("packet filter"));
        assert_eq!(told.news(&well, &me()).len(), 1, "over");
    }

    #[test]
    fn a_node_that_is_away_is_no_fault_of_its_links() {
        let mut away = fixture::heartbeat();
        away.links.iter_mut().flat_map(|l| &mut l.peers).for_each(|p| p.state = LinkState::Down);
        assert!(Told::default().news(&away, &me()).is_empty());
        assert!(advice(&away, &me(), &Timers::default()).is_empty());
    }

    #[test]
    fn a_profile_that_the_hosts_are_too_late_for_is_advised_against() {
        let mut measured = fixture::heartbeat();
        let said = |status: &HeartbeatStatus, profile| profile_advice(status, &me(), profile);
        assert_eq!(said(&measured, Profile::Fast), None, "600 ms are enough, 1500 ms in force");
        measured.measured.deadtime_ms = 500;
        let advice = said(&measured, Profile::Fast).expect("600 ms are needed");
        assert!(advice.contains("up to 140 ms") && advice.contains("a deadtime of 600 ms"), "{advice}");
        assert_eq!(said(&measured, Profile::Default), None, "timers that a person gave are that person's");
        measured.measured.suggested_deadtime_ms = None;
        assert_eq!(said(&measured, Profile::Fast), None, "too little was measured");
    }

    #[test]
    fn a_line_that_is_too_slow_and_a_crossed_cable_are_advised() {
        let mut slow = fixture::heartbeat();
        slow.links[1].turns = 5;
        slow.links[1].peers[0].crossed = Some(3);
        let said = advice(&slow, &me(), &Timers::default());
        assert!(said[0].contains("beta sends on its heartbeat link 3 arrives here on link 2"), "{said:?}");
        assert!(said[1].contains("once in 500 ms (5 turns)"), "{said:?}");
    }
}
