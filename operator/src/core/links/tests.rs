//! Links on a clock of their own.

use super::*;

const KEEPALIVE: Duration = Duration::from_millis(100);
const WARN: Duration = Duration::from_millis(500);
const DEAD: Duration = Duration::from_millis(1500);

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

/// Two links to one peer.
fn links() -> Links {
    Links::new(node("alpha"), [KEEPALIVE, WARN, DEAD], &[vec![node("beta")], vec![node("beta")]], ms(0))
}

fn beat(link: u8, number: u64, hears: u32) -> LinkBeat {
    LinkBeat { link, stream: u32::from(link) + 1, number, hears: vec![(node("alpha"), hears)] }
}

fn beta(l: &Links, link: usize) -> &PeerOnLink {
    &l.links()[link].peers[&node("beta")]
}

/// beta is heard on `on` at every keepalive from `from` to `to`, and says that it hears alpha on `hears`.
fn run(l: &mut Links, from: u64, to: u64, on: &[u8], hears: u32) {
    for t in (from..=to).step_by(100) {
        for link in on {
            assert!(l.arrived(
                usize::from(*link),
                &node("beta"),
                7,
                Some(&beat(*link, t / 100, hears)),
                ms(t)
            ));
        }
        l.tick(ms(t));
    }
}

#[test]
fn up_late_down_and_up_again_with_since_and_counts() {
    let mut l = links();
    l.tick(ms(100));
    assert_eq!(beta(&l, 0).hearing, Hearing::Unknown);
    run(&mut l, 200, 1000, &[0, 1], 0b11);
    assert_eq!((beta(&l, 0).hearing, beta(&l, 0).since), (Hearing::Up, ms(200)));
    assert_eq!(l.hears(), [(node("beta"), 0b11)]);
    run(&mut l, 1100, 1500, &[0], 0b11);
    assert_eq!((beta(&l, 0).hearing, beta(&l, 1).hearing), (Hearing::Up, Hearing::Late));
    assert_eq!(l.hears(), [(node("beta"), 0b01)], "late is not heard");
    run(&mut l, 1600, 2500, &[0], 0b11);
    assert_eq!((beta(&l, 1).hearing, beta(&l, 1).since), (Hearing::Down, ms(2500)));
    run(&mut l, 2600, 2600, &[0, 1], 0b11);
    let at = beta(&l, 1);
    assert_eq!((at.hearing, at.since, at.late, at.received), (Hearing::Up, ms(2600), 1, 10));
    assert_eq!(at.longest, Duration::from_millis(1600));
    assert_eq!(at.gaps.iter().sum::<u64>(), 9);
    assert_eq!(at.lost, 15, "numbers 11 to 25 never came");
    assert_eq!(beta(&l, 0).lost, 0);
}

#[test]
fn a_link_never_heard_is_down_after_deadtime() {
    let mut l = links();
    run(&mut l, 100, 1400, &[0], 0b01);
    assert_eq!(beta(&l, 1).hearing, Hearing::Unknown);
    run(&mut l, 1500, 1500, &[0], 0b01);
    assert_eq!(beta(&l, 1).hearing, Hearing::Down);
}

#[test]
fn one_way_is_seen_from_both_sides_and_only_when_it_lasts() {
    // beta hears us on link 0 only, we hear it on both.
    let mut l = links();
    run(&mut l, 100, 1000, &[0, 1], 0b01);
    assert_eq!((beta(&l, 1).hears_us, beta(&l, 1).one_way), (Some(false), false), "not yet for deadtime");
    run(&mut l, 1100, 2000, &[0, 1], 0b01);
    assert!(beta(&l, 1).one_way && !beta(&l, 0).one_way);
    run(&mut l, 2100, 2100, &[0, 1], 0b11);
    assert!(!beta(&l, 1).one_way, "over at once");
    // The other direction: it hears us on both, we hear it on link 0 only.
    let mut l = links();
    run(&mut l, 100, 1000, &[0, 1], 0b11);
    run(&mut l, 1100, 4000, &[0], 0b11);
    assert!(beta(&l, 1).one_way && beta(&l, 1).hearing == Hearing::Down);
    assert_eq!(l.matrix(ms(4000))[&node("alpha")][&node("beta")], 0b01);
    assert_eq!(l.matrix(ms(4000))[&node("beta")][&node("alpha")], 0b11);
    // Dead on both sides is not one-way, and who is not heard at all says nothing.
    run(&mut l, 4100, 7000, &[0], 0b01);
    assert!(!beta(&l, 1).one_way);
    assert!(!l.matrix(ms(9000)).contains_key(&node("beta")));
}

#[test]
fn replays_are_refused_on_whatever_link_and_counted_there() {
    let mut l = links();
    run(&mut l, 100, 1000, &[0, 1], 0b11);
    let (from, old) = (node("beta"), beat(0, 5, 0));
    assert!(!l.arrived(0, &from, 7, Some(&old), ms(1050)));
    assert!(!l.arrived(1, &from, 7, Some(&old), ms(1050)), "captured on the other link");
    for link in 0..2 {
        assert_eq!(l.links()[link].refused[&Refusal::Replayed], 1);
        assert_eq!(beta(&l, link).received, 10);
    }
    assert_eq!(l.matrix(ms(1050))[&from][&node("alpha")], 0b11, "nothing of it was believed");
    // beta's agent starts again; what its former life sent is a replay, and does not make the new one begin anew.
    assert!(l.arrived(0, &from, 8, Some(&beat(0, 1, 0b11)), ms(1100)));
    assert!(!l.arrived(0, &from, 7, Some(&beat(0, 99, 0)), ms(1150)));
    assert!(!l.arrived(0, &from, 8, Some(&beat(0, 1, 0b11)), ms(1160)));
    assert!(l.arrived(0, &from, 8, Some(&beat(0, 2, 0b11)), ms(1200)));
}

#[test]
fn streams_are_bounded_and_forgotten_ones_are_replays() {
    let mut l = links();
    let from = node("beta");
    let of = |stream| LinkBeat { stream, ..beat(0, 1, 0) };
    for stream in 1..=1000 {
        assert!(l.arrived(0, &from, 7, Some(&of(stream)), ms(100)));
    }
    assert!(l.peers[&from].life.as_ref().unwrap().streams.len() <= MAX_STREAMS);
    assert!(!l.arrived(0, &from, 7, Some(&LinkBeat { number: 2, ..of(1) }), ms(100)));
}

#[test]
fn an_agent_of_the_release_before_is_heard_without_numbers() {
    let mut l = links();
    for t in [100, 200, 300] {
        assert!(l.arrived(0, &node("beta"), 7, None, ms(t)));
        l.tick(ms(t));
    }
    let at = beta(&l, 0);
    assert_eq!((at.hearing, at.received, at.lost, at.hears_us, at.one_way), (Hearing::Up, 3, 0, None, false));
}

#[test]
fn links_that_stay_keep_their_counters_under_a_new_number() {
    let mut l = links();
    run(&mut l, 100, 1000, &[0, 1], 0b11);
    l.sent(1);
    let both = [vec![node("beta")], vec![node("beta"), node("gamma")]];
    l.reconfigure([KEEPALIVE, WARN, DEAD], &both, &[Some(1), None], ms(1050));
    assert_eq!((l.links()[0].sent, beta(&l, 0).received), (1, 10));
    assert_eq!((l.links()[1].sent, beta(&l, 1).received), (0, 0));
    assert_eq!(l.links()[1].peers[&node("gamma")].since, ms(1050));
}

#[test]
fn a_late_datagram_of_the_life_before_deafens_nobody() {
    let mut l = links();
    let from = node("beta");
    let take = |l: &mut Links, incarnation, number, t| {
        l.arrived(0, &from, incarnation, Some(&beat(0, number, 0)), ms(t))
    };
    assert!(take(&mut l, 8, 1, 100), "its present life");
    assert!(take(&mut l, 7, 900, 110), "a late one of the life before");
    assert!(!take(&mut l, 8, 2, 200), "as a replay would look");
    let silent = 110 + WARN.as_millis() as u64 + 1;
    assert!(!take(&mut l, 8, 1, silent), "that one was seen");
    assert!(take(&mut l, 8, 3, silent), "it alone goes on");
    assert!(!take(&mut l, 8, 3, silent + 10) && take(&mut l, 8, 4, silent + 100));
    assert!(
        !take(&mut l, 7, 900, silent + 110) && !take(&mut l, 7, 901, silent + 120),
        "the other one is over"
    );
}

#[test]
fn gaps_between_lives_are_no_delay() {
    let mut l = links();
    let from = node("beta");
    for (incarnation, t) in [(7, 100), (7, 200), (8, 1200), (8, 1300)] {
        l.arrived(0, &from, incarnation, Some(&beat(0, t, 0)), ms(t));
        l.first(&from, ms(t));
    }
    let Measured { worst, gaps, .. } = l.measured(ms(1300));
    assert_eq!((worst, gaps), (KEEPALIVE, 2));
}

#[test]
fn gaps_at_another_keepalive_count_no_more() {
    let mut l = links();
    let to = [vec![node("beta")], vec![node("beta")]];
    let stay = [Some(0), Some(1)];
    for t in [100, 1000, 1100] {
        l.first(&node("beta"), ms(t));
    }
    l.reconfigure([KEEPALIVE, WARN * 2, DEAD * 2], &to, &stay, ms(1100));
    assert_eq!(l.measured(ms(1100)).gaps, 2, "the pace is the same");
    l.reconfigure([KEEPALIVE / 2, WARN, DEAD], &to, &stay, ms(1100));
    for t in [1900, 1950, 2000] {
        l.first(&node("beta"), ms(t));
    }
    let Measured { worst, gaps, .. } = l.measured(ms(2000));
    assert_eq!((worst, gaps), (Duration::from_millis(50), 2));
}

#[test]
fn a_crossed_cable_is_seen() {
    let mut l = links();
    l.arrived(0, &node("beta"), 7, Some(&beat(1, 1, 0)), ms(100));
    assert_eq!(beta(&l, 0).theirs, Some(1));
}
