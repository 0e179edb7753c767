//! Two heartbeat cores talk to each other by hand.

use super::*;
use baton_replicator::types::TermId;

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

fn web() -> GroupName {
    GroupName::new("web").expect("name")
}

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number) }
}

fn core(name: &str, incarnation: u64, now: Instant) -> HeartbeatCore {
    let nodes = ["l", "s"].map(node);
    HeartbeatCore::new(
        node(name),
        incarnation,
        Timers::default(),
        Rules::default(),
        nodes,
        [(web(), Instant::ZERO)],
        now,
    )
}

fn leads(number: u64, members: &[&str]) -> Intent {
    let part = Part::Leader {
        members: members.iter().map(|m| node(m)).collect(),
        others: Vec::new(),
        lease_until: None,
        serve: true,
        busy: false,
        ask: None,
    };
    Intent { epoch: epoch(number), part, ..Intent::silent() }
}

fn stands_by(number: u64, acknowledge: bool) -> Intent {
    let part = Part::Standby { acknowledge, long_promise: Duration::ZERO };
    Intent { epoch: epoch(number), part, ..Intent::silent() }
}

fn only(mut all: Vec<(NodeName, HeartbeatMsg)>) -> HeartbeatMsg {
    assert_eq!(all.len(), 1);
    all.remove(0).1
}

/// L sends at `at`, S answers, L hears it `later` ms on.
fn exchange(l: &mut HeartbeatCore, s: &mut HeartbeatCore, at: u64, later: u64) {
    l.vouch(ms(at), true);
    s.vouch(ms(at), true);
    let beat = only(l.tick(ms(at)));
    assert_eq!(s.on_datagram(&node("l"), beat, ms(at)), Verdict::Answer);
    let answer = s.answer(ms(at));
    assert_eq!(l.on_datagram(&node("s"), answer, ms(at + later)), Verdict::Taken);
}

fn pair() -> (HeartbeatCore, HeartbeatCore) {
    let (mut l, mut s) = (core("l", 1, ms(0)), core("s", 2, ms(0)));
    l.set_intent(&web(), leads(1, &["s"]));
    s.set_intent(&web(), stands_by(1, true));
    (l, s)
}

#[test]
fn a_promise_counts_from_the_send_time_and_binds_from_the_acknowledgement() {
    let (mut l, mut s) = pair();
    exchange(&mut l, &mut s, 5000, 300);
    assert_eq!(l.serve_until(&web(), ms(5300)), Some((epoch(1), ms(6000))));
    assert_eq!(s.facts(&web(), ms(5300)).promised_until, ms(6500));
}

#[test]
fn without_members_the_deadline_is_bounded_by_the_life_of_the_decision_core() {
    let (mut l, _) = pair();
    l.set_intent(&web(), leads(1, &[]));
    l.vouch(ms(5000), true);
    assert_eq!(l.serve_until(&web(), ms(5100)), Some((epoch(1), ms(6100))));
    assert_eq!(l.serve_until(&web(), ms(9000)), Some((epoch(1), ms(6500))), "hung since 5000");
}

#[test]
fn a_leader_nobody_vouches_for_says_nothing_about_the_group() {
    let (mut l, _) = pair();
    l.set_intent(&web(), leads(1, &[]));
    l.vouch(ms(5000), true);
    assert!(only(l.tick(ms(5400))).groups[0].leading);
    let beat = only(l.tick(ms(5600)));
    assert!(!beat.groups[0].leading && !beat.groups[0].holds);
}

#[test]
fn a_campaigning_standby_promises_nothing() {
    let (mut l, mut s) = pair();
    s.set_intent(&web(), stands_by(1, false));
    l.vouch(ms(5000), true);
    let beat = only(l.tick(ms(5000)));
    assert_eq!(s.on_datagram(&node("l"), beat, ms(5000)), Verdict::Taken);
    assert_eq!(s.answer(ms(5000)).groups[0].ack, None);
    assert_eq!(s.facts(&web(), ms(5000)).promised_until, ms(1500), "that of its start");
}

#[test]
fn an_older_epoch_is_not_acknowledged_and_a_higher_one_fences_at_once() {
    let (mut l, mut s) = pair();
    exchange(&mut l, &mut s, 5000, 0);
    assert!(l.serve_until(&web(), ms(5000)).is_some());
    s.set_intent(&web(), stands_by(2, true));
    let beat = only(l.tick(ms(5100)));
    assert_eq!(s.on_datagram(&node("l"), beat, ms(5100)), Verdict::Taken);
    let told = s.answer(ms(5100));
    l.on_datagram(&node("s"), told, ms(5100));
    assert_eq!(l.serve_until(&web(), ms(5100)), None);
    assert!(!only(l.tick(ms(5200))).groups[0].leading);
}

#[test]
fn equal_numbers_of_different_terms_are_foreign() {
    let (mut l, mut s) = (pair().0, core("s", 2, ms(0)));
    let foreign = Epoch { number: 1, term: TermId(77) };
    s.set_intent(&web(), Intent { epoch: foreign, ..stands_by(1, true) });
    l.vouch(ms(5000), true);
    let beat = only(l.tick(ms(5000)));
    assert_eq!(s.on_datagram(&node("l"), beat, ms(5000)), Verdict::Taken);
    assert_eq!(s.facts(&web(), ms(5000)).foreign, Some((node("l"), epoch(1))));
    assert_eq!(s.answer(ms(5000)).groups[0].ack, None);
}

#[test]
fn echoes_of_another_life_epoch_or_the_future_entitle_nobody() {
    let (mut l, mut s) = pair();
    l.vouch(ms(5000), true);
    let beat = only(l.tick(ms(5000)));
    s.on_datagram(&node("l"), beat, ms(5000));
    let good = s.answer(ms(5000));
    let wrong: [fn(&mut Ack); 4] =
        [|a| a.incarnation = 9, |a| a.epoch = epoch(3), |a| a.sent = ms(9000), |a| a.leader = node("s")];
    for (i, spoil) in wrong.into_iter().enumerate() {
        let mut bad = good.clone();
        bad.seq += i as u64;
        spoil(bad.groups[0].ack.as_mut().expect("acknowledged"));
        l.on_datagram(&node("s"), bad, ms(5000));
        assert!(l.facts(&web(), ms(5000)).promises.is_empty(), "case {i}");
    }
    let mut fine = good;
    fine.seq += 10;
    l.on_datagram(&node("s"), fine, ms(5000));
    assert_eq!(l.facts(&web(), ms(5000)).promises.len(), 1);
}

#[test]
fn replays_and_old_incarnations_are_refused() {
    let (mut l, mut s) = pair();
    let first = only(l.tick(ms(100)));
    let second = only(l.tick(ms(200)));
    s.on_datagram(&node("l"), second.clone(), ms(200));
    assert_eq!(s.on_datagram(&node("l"), first, ms(210)), Verdict::Duplicate);
    let mut reborn = core("l", 7, ms(300));
    let third = only(reborn.tick(ms(300)));
    assert_ne!(s.on_datagram(&node("l"), third, ms(300)), Verdict::Refused);
    assert_eq!(s.on_datagram(&node("l"), HeartbeatMsg { seq: 99, ..second }, ms(310)), Verdict::Refused);
    assert_eq!(s.on_datagram(&node("x"), only(l.tick(ms(400))), ms(400)), Verdict::Stranger);
    assert_eq!(s.peers()[&node("l")].refused, 1);
}

/// A serial line carries only some of the groups, and may be faster than a network that is ill.
#[test]
fn a_part_of_a_message_does_not_hide_the_rest() {
    let shop = GroupName::new("shop").expect("name");
    let (mut l, mut s) = pair();
    for core in [&mut l, &mut s] {
        core.add_group(shop.clone(), Instant::ZERO, ms(0));
    }
    let whole = only(l.tick(ms(5000)));
    assert_eq!(whole.groups.len(), 2);
    let part = |group: &GroupName| {
        let groups = whole.groups.iter().filter(|b| b.group == *group).cloned().collect();
        HeartbeatMsg { groups, summary: Vec::new(), ..whole.clone() }
    };
    let heard = |s: &HeartbeatCore, g: &GroupName| s.peers()[&node("l")].groups.contains_key(g);
    assert_ne!(s.on_datagram(&node("l"), part(&shop), ms(5000)), Verdict::Duplicate);
    assert!(heard(&s, &shop) && !heard(&s, &web()));
    assert_eq!(s.on_datagram(&node("l"), part(&shop), ms(5001)), Verdict::Duplicate, "nothing new");
    assert_ne!(s.on_datagram(&node("l"), whole.clone(), ms(5002)), Verdict::Duplicate);
    assert!(heard(&s, &web()), "the rest counts although its number was seen");
    assert_eq!(s.on_datagram(&node("l"), whole.clone(), ms(5003)), Verdict::Duplicate);
    // Of a group, an older message never replaces a newer one.
    let older = HeartbeatMsg { seq: whole.seq, ..whole.clone() };
    let newer = only(l.tick(ms(5100)));
    s.on_datagram(
        &node("l"),
        HeartbeatMsg { groups: vec![newer.groups[0].clone()], ..newer.clone() },
        ms(5100),
    );
    assert_eq!(s.on_datagram(&node("l"), older, ms(5101)), Verdict::Duplicate);
}

/// All peers get one message under one number: on a link that they share it is sent once.
#[test]
fn a_tick_has_one_message_for_all() {
    let peers = ["a", "b", "c"].map(node);
    let mut l =
        HeartbeatCore::new(node("l"), 1, Timers::default(), Rules::default(), peers, [(web(), ms(0))], ms(0));
    let all = l.tick(ms(100));
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(_, m)| *m == all[0].1));
    assert_eq!(l.tick(ms(200))[0].1.seq, all[0].1.seq + 1);
}

#[test]
fn a_promise_for_one_epoch_is_none_for_the_next() {
    let after = |rules| {
        let (_, mut s) = pair();
        let nodes = ["l", "s"].map(node);
        let mut l = HeartbeatCore::new(
            node("l"),
            3,
            Timers::default(),
            rules,
            nodes,
            [(web(), Instant::ZERO)],
            ms(0),
        );
        l.set_intent(&web(), leads(1, &["s"]));
        exchange(&mut l, &mut s, 5000, 0);
        assert!(l.serve_until(&web(), ms(5000)).is_some());
        l.set_intent(&web(), leads(2, &["s"]));
        l.serve_until(&web(), ms(5000))
    };
    assert_eq!(after(Rules::default()), None);
    assert!(after(Rules::bending(Detail::EpochReset)).is_some(), "that is what the rule is for");
}

/// Found by the campaign: both agents restart at once, and a heartbeat of L's life before comes late.
#[test]
fn a_late_datagram_of_the_life_before_does_not_silence_the_present_one() {
    let (mut old, _) = pair();
    let late = only(old.tick(ms(100)));
    let (mut l, mut s) = (core("l", 7, ms(110)), core("s", 8, ms(110)));
    let first = only(l.tick(ms(120)));
    s.on_datagram(&node("l"), first.clone(), ms(121));
    s.on_datagram(&node("l"), late.clone(), ms(150));
    assert_eq!(s.on_datagram(&node("l"), only(l.tick(ms(220))), ms(220)), Verdict::Refused, "for a moment");
    // Nothing more comes of the old life: the present one is heard again, and a replay of either is not.
    assert_eq!(s.on_datagram(&node("l"), first, ms(800)), Verdict::Refused);
    assert_eq!(s.on_datagram(&node("l"), only(l.tick(ms(800))), ms(801)), Verdict::Taken);
    assert_eq!(s.peers()[&node("l")].incarnation, Some(7));
    assert_eq!(s.on_datagram(&node("l"), late, ms(2000)), Verdict::Refused);
}

#[test]
fn a_longer_promise_is_given_only_if_it_is_durable_and_never_shortened() {
    let (mut l, mut s) = pair();
    let ask = |members: &[&str]| {
        let mut intent = leads(1, members);
        if let Part::Leader { ask, .. } = &mut intent.part {
            *ask = Some(Duration::from_secs(10));
        }
        intent
    };
    l.set_intent(&web(), ask(&["s"]));
    exchange(&mut l, &mut s, 5000, 0);
    assert_eq!(l.serve_until(&web(), ms(5000)), Some((epoch(1), ms(6000))), "not durable yet");
    assert_eq!(s.facts(&web(), ms(5000)).asked, Some(Duration::from_secs(10)));
    let long = Part::Standby { acknowledge: true, long_promise: Duration::from_secs(10) };
    s.set_intent(&web(), Intent { part: long, ..stands_by(1, true) });
    exchange(&mut l, &mut s, 5100, 0);
    assert_eq!(l.serve_until(&web(), ms(5100)), Some((epoch(1), ms(13_020))));
    assert_eq!(s.facts(&web(), ms(5100)).promised_until, ms(15_100));
    l.set_intent(&web(), leads(1, &["s"]));
    s.set_intent(&web(), stands_by(1, true));
    exchange(&mut l, &mut s, 5200, 0);
    assert_eq!(s.facts(&web(), ms(5200)).promised_until, ms(15_100), "an ordinary one does not shorten it");
}

#[test]
fn a_release_frees_from_the_promise_to_that_leader_and_epoch_only() {
    let (mut l, mut s) = pair();
    exchange(&mut l, &mut s, 5000, 0);
    l.set_intent(&web(), Intent { released: Some(epoch(1)), ..stands_by(1, true) });
    let beat = only(l.tick(ms(5100)));
    s.on_datagram(&node("l"), beat, ms(5100));
    let facts = s.facts(&web(), ms(5100));
    assert_eq!(facts.released, Some((node("l"), epoch(1))));
    assert_eq!(facts.promised_until, ms(1500), "only that of its start is left");
}

#[test]
fn a_gap_of_the_clock_counts_silence_afresh() {
    let (_, mut s) = pair();
    for t in (0..=2000).step_by(100) {
        s.tick(ms(t));
    }
    assert_eq!(s.facts(&web(), ms(2000)).last_holds, ms(0));
    s.tick(ms(4000));
    assert_eq!(s.facts(&web(), ms(4000)).last_holds, ms(4000));
    assert_eq!(s.gaps(), 1);
}

#[test]
fn outside_its_lease_a_group_without_volumes_needs_every_candidate() {
    let (mut l, mut s) = pair();
    let with = |lease: Option<Instant>| {
        let part = Part::Leader {
            members: Vec::new(),
            others: vec![node("s")],
            lease_until: lease,
            serve: true,
            busy: false,
            ask: None,
        };
        Intent { part, ..leads(1, &[]) }
    };
    l.set_intent(&web(), with(Some(ms(5400))));
    l.vouch(ms(5000), true);
    assert_eq!(l.serve_until(&web(), ms(5000)), Some((epoch(1), ms(5400))), "no longer than the lease");
    l.set_intent(&web(), with(None));
    assert_eq!(l.serve_until(&web(), ms(5000)), Some((epoch(1), Instant::ZERO)), "no lease, no promise");
    exchange(&mut l, &mut s, 5000, 0);
    assert_eq!(
        l.serve_until(&web(), ms(5000)),
        Some((epoch(1), ms(6000))),
        "the candidate's promise will do"
    );
}

#[test]
fn the_longest_silence_of_the_last_minute_is_kept() {
    let (mut l, mut s) = pair();
    for t in [100u64, 200, 900, 1000] {
        let beat = only(l.tick(ms(t)));
        s.on_datagram(&node("l"), beat, ms(t));
    }
    let facts = &s.peers()[&node("l")];
    assert_eq!((facts.longest_gap, facts.late), (Duration::from_millis(700), 1));
}

#[test]
fn a_peer_is_missed_from_two_keepalives_after_its_last_heartbeat_until_it_is_long_gone() {
    let (mut l, mut s) = pair();
    assert!(!l.misses_one(ms(5000)), "never heard");
    exchange(&mut l, &mut s, 5000, 0);
    let missed = [(5199, false), (5200, true), (6500, true), (8000, true), (8001, false)];
    for (at, expected) in missed {
        assert_eq!(l.misses_one(ms(at)), expected, "at {at}");
    }
}

#[test]
fn what_a_peer_says_of_a_group_is_news_once_and_when_it_acknowledges_is_none() {
    let (mut l, mut s) = pair();
    for (at, expected) in [(5000, true), (5100, false)] {
        l.vouch(ms(at), true);
        s.vouch(ms(at), true);
        let beat = only(l.tick(ms(at)));
        s.on_datagram(&node("l"), beat, ms(at));
        let answer = s.answer(ms(at));
        assert_eq!(l.is_news(&node("s"), &answer), expected, "at {at}");
        l.on_datagram(&node("s"), answer.clone(), ms(at));
        assert!(!l.is_news(&node("s"), &answer), "at {at}");
    }
    let mut beat = only(s.tick(ms(5300)));
    beat.groups[0].ready = !beat.groups[0].ready;
    assert!(l.is_news(&node("s"), &beat));
    assert!(!l.is_news(&node("x"), &beat), "a stranger");
    beat.groups[0].group = GroupName::new("unknown").expect("name");
    assert!(!l.is_news(&node("s"), &beat), "a group that is not known here");
}
