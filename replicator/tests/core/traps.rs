//! One test per rule that a weaker design breaks; the names are those of the list of traps.

use crate::world::{BLOCK, World, data, epoch, name};
use baton_replicator::api::{Desired, Membership};
use baton_replicator::core::engine::{Event, FrontOp, SessionId, Token};
use baton_replicator::core::frame::{Frame, Message};
use baton_replicator::types::{ConnectionState, DiskState, Role};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIZE: u64 = 16 << 20;
/// A block in an extent that nothing else touches: only its own log entry can cover it.
const FAR: u64 = 3000;

/// alpha leads at epoch 1, beta is in the required set.
fn pair() -> World {
    let mut w = World::with_idle(2, SIZE, 7, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    calm(&mut w);
    w
}

/// What the full syncs logged leaves the logs, so that they cannot cover what the test is about.
fn calm(w: &mut World) {
    assert!(w.write(0, 1, 11) && w.flush(0) && w.write(0, 1, 12));
    let nodes = w.nodes.len();
    wait(w, "short logs", |w| (1..nodes).all(|n| w.engine(n).status().activity_log_extents <= 1));
}

fn wait(w: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    w.until(what, Duration::from_secs(20), done);
}

#[test]
fn a_new_pair_syncs_fully_and_counts() {
    let mut w = World::new(2, SIZE, 1);
    w.promote_first(0);
    assert!(w.write(0, 5, 55), "alone");
    w.admit(0, 1, 1);
    assert_eq!(w.nodes[1].disk.get(5), 55);
    assert!(w.write(0, 6, 66));
    assert_eq!(w.nodes[1].disk.get(6), 66, "acknowledged means both have it");
    let status = w.engine(1).status();
    assert_eq!((status.disk, status.generation), (DiskState::UpToDate, w.engine(0).data_generation()));
    assert!(w.alarms.is_empty(), "{:?}", w.alarms);
}

#[test]
fn nothing_leaves_without_permission_or_after_it() {
    let mut w = World::new(2, SIZE, 2);
    w.until("attach", Duration::from_secs(1), |w| w.is_attached(0));
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    wait(&mut w, "device", |w| w.nodes[0].device);
    assert!(!w.write(0, 1, 11), "no permission yet");
    let frozen = w.engine(0).status().frozen.expect("frozen");
    assert!(frozen.contains("not given permission"), "{frozen}");
    w.serve(0, 2, Duration::from_secs(9));
    assert!(w.reply(0, 1_000_011).is_none(), "permission for another epoch");
    // A later epoch's permission does not count for this one; this one's does.
    let mut w = World::new(2, SIZE, 2);
    w.promote_first(0);
    w.serve(0, 1, 100 * MS);
    assert!(w.write(0, 1, 11));
    w.run_for(150 * MS);
    assert!(!w.write(0, 2, 22), "permission ran out");
    w.request(0, 77, FrontOp::Read(w.range(1, 1)));
    w.run_for(50 * MS);
    assert!(w.reply(0, 77).is_none(), "reads stop too");
    w.serve(0, 1, Duration::from_secs(9));
    assert_eq!(w.reply(0, 1_000_022), Some(Ok(bytes::Bytes::new())), "released in order");
    assert_eq!(w.reply(0, 77).and_then(Result::ok), Some(data(11, 1)));
}

#[test]
fn reconnect_before_removal_sends_unanswered_writes_first() {
    let mut w = pair();
    w.cut(0, 1);
    assert!(!w.write(0, 3, 33), "a required member is away: frozen");
    assert!(w.engine(0).status().frozen.expect("frozen").contains("waiting for beta"));
    w.mend(0, 1);
    wait(&mut w, "the answer", |w| w.reply(0, 1_000_033).is_some());
    assert_eq!(w.nodes[1].disk.get(3), 33);
    assert!(w.peer(0, 1).resynced);
    assert_eq!(w.engine(0).status().generation, w.engine(1).status().generation);
}

#[test]
fn removal_releases_writes_marks_what_the_peer_lacks_and_begins_a_generation() {
    let mut w = pair();
    assert!(w.write(0, 2, 22), "acknowledged by both, not flushed");
    let before = w.engine(0).data_generation();
    w.cut(0, 1);
    assert!(!w.write(0, 3, 33));
    let token = w.desire(0, Role::Primary, 1, Vec::new(), false);
    wait(&mut w, "the answer", |w| w.reply(0, 1_000_033).is_some());
    assert_eq!(w.nodes[0].done.get(&token), Some(&Ok(())), "answered when it is in force");
    assert_ne!(w.engine(0).data_generation(), before);
    assert!(w.peer(0, 1).dirty_bytes >= 2 * BLOCK, "the unanswered and the unflushed one");
    w.mend(0, 1);
    w.admit(0, 1, 1);
    assert_eq!((w.nodes[1].disk.get(2), w.nodes[1].disk.get(3)), (22, 33));
    assert_eq!(w.peer(0, 1).dirty_bytes, 0);
    assert_eq!(w.engine(1).data_generation(), w.engine(0).data_generation());
}

#[test]
fn nothing_is_acknowledged_alone_before_the_new_generation_is_durable() {
    let mut w = pair();
    w.cut(0, 1);
    assert!(!w.write(0, 3, 33));
    w.nodes[0].meta_held = true;
    let token = w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(300 * MS);
    assert!(!w.write(0, 4, 44), "nor is what comes meanwhile");
    assert!(w.reply(0, 1_000_033).is_none() && !w.nodes[0].done.contains_key(&token));
    w.nodes[0].meta_held = false;
    wait(&mut w, "the answer", |w| w.reply(0, 1_000_033).is_some());
    w.crash(0, true);
    w.start(0);
    assert_ne!(w.engine(0).data_generation(), w.engine(1).data_generation(), "who forces beta now is told");
}

#[test]
fn a_member_with_another_boot_id_does_not_count_until_admitted_anew() {
    let mut w = pair();
    assert!(w.write(0, 2, 22));
    w.crash(1, true);
    w.start(1);
    wait(&mut w, "beta is back", |w| w.peer(0, 1).resynced);
    assert!(!w.write(0, 3, 33), "it is not the member that was admitted");
    assert!(w.engine(0).status().frozen.expect("frozen").contains("lost power"));
    assert!(!w.peer(0, 1).settled);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    wait(&mut w, "the answer", |w| w.reply(0, 1_000_033).is_some());
    w.admit(0, 1, 1);
    assert_eq!(w.nodes[1].disk.get(2), 22, "what its power cut may have lost was copied again");
}

#[test]
fn a_peer_is_settled_when_it_has_what_was_answered_without_it() {
    let mut w = World::with_idle(2, SIZE, 5, 100 * MS);
    w.promote_first(0);
    wait(&mut w, "resync", |w| w.peer(0, 1).resynced);
    // A new session begins with an empty log: the first one's is full of what the resync wrote.
    w.cut(0, 1);
    w.mend(0, 1);
    wait(&mut w, "the next session", |w| w.peer(0, 1).resynced);
    calm(&mut w);
    // beta's log holds the write up, not its disk: a flush passes it.
    w.nodes[1].meta_held = true;
    assert!(w.write(0, FAR, 33), "beta need not have it yet");
    let required = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, required, false);
    w.run_for(150 * MS);
    assert_eq!(w.nodes[1].disk.get(FAR), 0);
    assert!(!w.peer(0, 1).settled, "or etcd would be told, and beta could be promoted without it");
    w.nodes[1].meta_held = false;
    wait(&mut w, "settled", |w| w.peer(0, 1).settled);
    assert_eq!(w.nodes[1].disk.durable(FAR), 33);
}

#[test]
fn flush_on_one_side_does_not_clean_the_log() {
    // Without the rule, alpha's own flush empties its log although beta may still lose the block.
    let mut w = pair();
    assert!(w.write(0, 2, 22));
    let logged = w.engine(0).status().activity_log_extents;
    assert!(logged > 0);
    w.stalled.insert((0, 1));
    w.request(0, 5, FrontOp::Flush);
    w.run_for(400 * MS);
    assert!(w.reply(0, 5).is_none(), "beta has not flushed");
    assert!(w.engine(0).status().activity_log_extents >= logged);
    w.crash(1, true);
    w.crash(0, false);
    w.mend(0, 1);
    w.start(0);
    w.start(1);
    wait(&mut w, "attached", |w| w.is_attached(0) && w.is_attached(1));
    assert!(w.peer(0, 1).dirty_bytes >= BLOCK, "the extent was still in the log, so its blocks are dirty");
    w.desire(0, Role::Primary, 2, Vec::new(), false);
    w.serve(0, 2, Duration::from_secs(99));
    w.admit(0, 1, 2);
    assert_eq!(w.nodes[1].disk.get(2), w.nodes[0].disk.get(2));
}

#[test]
fn deposed_tail_is_overwritten_when_the_old_primary_comes_back() {
    let mut w = pair();
    assert!(w.write(0, 2, 22));
    w.cut(0, 1);
    assert!(!w.write(0, FAR, 33), "never acknowledged, but on alpha's disk");
    assert_eq!(w.nodes[0].disk.get(FAR), 33);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "promotion", |w| w.nodes[1].device);
    assert_eq!((w.nodes[1].disk.get(2), w.nodes[1].disk.get(FAR)), (22, 0));
    assert!(w.write(1, 4, 44));
    w.mend(0, 1);
    w.run_for(1000 * MS);
    assert!(w.reply(0, 1_000_033).is_none(), "alpha acknowledges nothing any more");
    assert!(w.engine(0).status().frozen.expect("frozen").contains("deposed"), "it heard of epoch 2");
    let token = w.desire(0, Role::Secondary, 2, Vec::new(), true);
    wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.reply(0, 1_000_033), Some(Err(())), "failed, not forgotten");
    w.admit(1, 0, 2);
    assert_eq!((w.nodes[0].disk.get(FAR), w.nodes[0].disk.get(4)), (0, 44), "its tail is gone");
}

/// alpha leads with beta and gamma in the set; its last write reaches only one of them, then it is gone.
fn three_way(reached: usize) -> World {
    let mut w = World::with_idle(3, SIZE, 3, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.admit(0, 2, 1);
    calm(&mut w);
    w.cut(0, 3 - reached);
    assert!(!w.write(0, FAR, 99));
    wait(&mut w, "one has it", |w| w.nodes[reached].disk.get(FAR) == 99);
    w.crash(0, true);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "handshake", |w| w.peer(1, 2).resync.is_some());
    let total = w.peer(1, 2).resync.expect("a resync").total_bytes;
    assert!(total > 0 && total < SIZE, "by the logs, not a full sync: {total}");
    w.admit(1, 2, 2);
    w
}

#[test]
fn three_way_tail_that_only_the_other_secondary_has() {
    let w = three_way(2);
    assert_eq!((w.nodes[1].disk.get(FAR), w.nodes[2].disk.get(FAR)), (0, 0), "gamma's log named it");
}

#[test]
fn three_way_tail_that_only_the_new_primary_has() {
    let w = three_way(1);
    assert_eq!((w.nodes[1].disk.get(FAR), w.nodes[2].disk.get(FAR)), (99, 99), "beta's log named it");
}

#[test]
fn a_replica_that_was_out_gets_what_it_missed_from_the_next_primary() {
    let mut w = World::with_idle(3, SIZE, 4, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.admit(0, 2, 1);
    calm(&mut w);
    // gamma is taken out with a write that beta and alpha have; then the logs forget it.
    w.cut(0, 2);
    assert!(!w.write(0, FAR, 99));
    let required = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, required, false);
    wait(&mut w, "released", |w| w.reply(0, 1_000_099).is_some());
    assert!(w.write(0, 1100, 98));
    calm(&mut w);
    w.crash(0, true);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "handshake", |w| w.peer(1, 2).resync.is_some());
    let total = w.peer(1, 2).resync.expect("a resync").total_bytes;
    assert!(total > 0 && total < SIZE, "not a full sync: {total}");
    w.admit(1, 2, 2);
    assert_eq!((w.nodes[2].disk.get(FAR), w.nodes[2].disk.get(1100)), (99, 98));
}

#[test]
fn an_older_epoch_is_refused_durably() {
    let mut w = pair();
    let token = w.desire(1, Role::Secondary, 5, Vec::new(), false);
    wait(&mut w, "recorded", |w| w.nodes[1].done.contains_key(&token));
    wait(&mut w, "alpha deposed", |w| w.engine(0).status().frozen.is_some_and(|f| f.contains("epoch 5")));
    assert!(!w.write(0, 3, 33));
    w.crash(1, true);
    w.start(1);
    wait(&mut w, "attached", |w| w.is_attached(1));
    assert_eq!(w.engine(1).status().epoch, epoch(5));
    for (number, kind) in [(4, "too old"), (0, "too old")] {
        let token = w.desire(1, Role::Primary, number, Vec::new(), false);
        assert!(w.nodes[1].done[&token].as_ref().is_err_and(|e| e.contains(kind)));
    }
}

#[test]
fn a_command_that_was_given_up_and_arrives_late_is_refused() {
    // The agent adds beta, gives up waiting, removes it; then the first command arrives after the second.
    let mut w = pair();
    let late = Desired {
        epoch: epoch(1),
        role: Role::Primary,
        required: vec![w.member(1)],
        accept_data_loss: false,
        force: false,
        order: w.now.0,
        membership: Membership::Member,
    };
    w.run_for(10 * MS);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.give(0, Event::Desired { token: Token(800), desired: late.clone() });
    assert!(w.nodes[0].done[&800].as_ref().is_err_and(|e| e.contains("Superseded")), "{:?}", w.nodes[0].done);
    assert!(w.engine(0).status().required.is_empty(), "the later command stands");
    // The same instant is a repetition, and 0 is not ordered (a person with curl).
    w.give(0, Event::Desired { token: Token(801), desired: Desired { order: 0, ..late } });
    wait(&mut w, "the answer", |w| w.nodes[0].done.contains_key(&801));
    assert_eq!(w.nodes[0].done[&801], Ok(()));
    assert_eq!(w.engine(0).status().required.len(), 1);
}

#[test]
fn a_resync_target_is_not_promotable_until_the_end() {
    let mut w = pair();
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    for block in 0..64 {
        w.request(0, block, FrontOp::Write(block * 32 * BLOCK, data(block + 1, 1)));
    }
    w.run_for(300 * MS);
    w.mend(0, 1);
    wait(&mut w, "sync begins", |w| w.engine(1).status().disk == DiskState::Inconsistent);
    w.cut(0, 1);
    w.run_for(50 * MS);
    let token = w.desire(1, Role::Primary, 2, Vec::new(), false);
    assert!(w.nodes[1].done[&token].as_ref().is_err_and(|e| e.contains("Not promotable")));
    w.crash(1, true);
    w.start(1);
    wait(&mut w, "attached", |w| w.is_attached(1));
    assert_eq!(w.engine(1).status().disk, DiskState::Inconsistent, "durably");
    w.mend(0, 1);
    w.admit(0, 1, 1);
    assert!((0..64).all(|b| w.nodes[1].disk.get(b * 32) == b + 1));
}

#[test]
fn split_brain_stands_alone_and_says_so() {
    let mut w = pair();
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, 1, 11), "alpha went on alone");
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "promotion", |w| w.nodes[1].device);
    assert!(w.write(1, 1, 12), "so did beta, against all rules");
    w.desire(0, Role::Secondary, 2, Vec::new(), true);
    w.mend(0, 1);
    wait(&mut w, "stand alone", |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    assert!(w.peer(1, 0).reason.expect("a reason").contains("split brain"));
    assert_eq!(w.nodes[0].disk.get(1), 11, "nothing was overwritten");
}

#[test]
fn a_local_error_is_reported_and_never_acknowledged() {
    let mut w = pair();
    // An agent of the release before knows no primary without a disk.
    w.nodes[0].membership = Membership::Untold;
    let required = w.engine(0).status().required;
    w.desire(0, Role::Primary, 1, required, false);
    w.nodes[0].broken = true;
    assert!(!w.write(0, 3, 33));
    let status = w.engine(0).status();
    assert_eq!(status.disk, DiskState::Failed);
    assert!(status.alarms.iter().any(|a| a.contains("I/O error")));
    // What comes later gets an error at once: an application that hangs could not be stopped for a handover.
    w.request(0, 77, FrontOp::Flush);
    let mut answer = None;
    wait(&mut w, "an error", |w| {
        answer = w.reply(0, 77);
        answer.is_some()
    });
    assert_eq!(answer, Some(Err(())));
    let token = w.desire(0, Role::Secondary, 2, Vec::new(), true);
    wait(&mut w, "demotion works all the same", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.engine(0).status().role, Role::Secondary);
    let token = w.desire(0, Role::Primary, 3, Vec::new(), false);
    assert!(w.nodes[0].done[&token].is_err());
}

#[test]
fn a_silent_peer_times_out_and_freezes_but_is_never_dropped() {
    let mut w = pair();
    w.nodes[1].paused = true;
    assert!(!w.write(0, 3, 33));
    wait(&mut w, "timeout", |w| w.peer(0, 1).connection == ConnectionState::Timeout);
    assert_eq!(w.engine(0).status().required.len(), 1);
    assert!(w.reply(0, 1_000_033).is_none());
    w.nodes[1].paused = false;
    wait(&mut w, "the answer", |w| w.reply(0, 1_000_033).is_some());
}

#[test]
fn a_flush_that_was_under_way_is_sent_again_after_a_reconnect() {
    let mut w = pair();
    assert!(w.write(0, 2, 22));
    w.stalled.insert((0, 1));
    w.request(0, 5, FrontOp::Flush);
    w.run_for(50 * MS);
    w.cut(0, 1);
    w.mend(0, 1);
    wait(&mut w, "the answer", |w| w.reply(0, 5).is_some());
    assert_eq!(w.engine(0).status().required.len(), 1);
}

#[test]
fn one_volume_of_two_nothing_goes_on_without_a_peer_before_the_agent_says_so() {
    // Two volumes of a group are two engines; beta is lost for the first one only. The first stays frozen for
    // as long as the agent has not taken beta out, however long that takes.
    let (mut web, mut db) = (pair(), pair());
    web.cut(0, 1);
    assert!(!web.write(0, 3, 33));
    assert!(db.write(0, 3, 33));
    web.run_for(Duration::from_secs(30));
    assert!(web.reply(0, 1_000_033).is_none(), "still frozen");
    assert!(web.engine(0).status().frozen_since.is_some());
    for w in [&mut db, &mut web] {
        w.desire(0, Role::Primary, 1, Vec::new(), false);
    }
    wait(&mut web, "the answer", |w| w.reply(0, 1_000_033).is_some());
    assert!(db.write(0, 4, 44));
    db.run_for(100 * MS);
    assert_eq!(db.peer(0, 1).dirty_bytes, 0, "connected, so nothing to mark");
    assert!(!db.peer(0, 1).settled, "but beta is out of this volume's set as well");
}

#[test]
fn nonsense_from_a_peer_costs_its_session_and_nothing_else() {
    let mut w = pair();
    let session = w.links[0].ends.iter().find(|(n, _)| *n == 0).map(|(_, s)| *s).expect("a session");
    let nonsense: Vec<Message> = vec![
        Message::Ack(987_654),
        Message::FlushAck(4),
        Message::Ready,
        Message::SyncDoneAck(baton_replicator::types::Generation(3)),
        Message::Dirty(vec![w.range(0, 1)]),
        Message::Write { seq: 1, offset: 0, durable: 0, data: data(1, 1) },
    ];
    for message in nonsense {
        let mut w = pair();
        let frame = Frame { epoch: epoch(1), message: message.clone() };
        w.give(0, Event::Frame { session, frame });
        assert!(w.alarms.iter().any(|a| a.contains("beta was disconnected")), "{message:?}");
        wait(&mut w, "reconnected", |w| w.peer(0, 1).resynced);
        assert!(w.write(0, 3, 33), "{message:?}");
    }
    // To the secondary: out of the volume, of another epoch, from nobody.
    let session = w.links[0].ends.iter().find(|(n, _)| *n == 1).map(|(_, s)| *s).expect("a session");
    w.give(
        1,
        Event::Frame {
            session: SessionId(424_242),
            frame: Frame { epoch: epoch(1), message: Message::Ping },
        },
    );
    let message = Message::Write { seq: 9, offset: SIZE, durable: 0, data: data(1, 1) };
    w.give(1, Event::Frame { session, frame: Frame { epoch: epoch(1), message } });
    assert!(w.alarms.iter().any(|a| a.contains("alpha was disconnected")));
    wait(&mut w, "reconnected", |w| w.peer(0, 1).resynced);
}

#[test]
fn a_handover_loses_nothing_and_copies_nothing() {
    let mut w = pair();
    for block in 0..20 {
        assert!(w.write(0, block, block + 1));
    }
    let token = w.desire(0, Role::Secondary, 1, Vec::new(), false);
    wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.engine(0).status().activity_log_extents, 0, "flushed everywhere: the log is empty");
    let required = vec![w.member(0)];
    w.desire(1, Role::Primary, 2, required, false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "device", |w| w.nodes[1].device);
    wait(&mut w, "connected", |w| w.peer(1, 0).resynced);
    assert!(w.write(1, 30, 31));
    assert_eq!(w.nodes[0].disk.get(30), 31);
    assert!((0..20).all(|b| w.nodes[1].disk.get(b) == b + 1));
}

#[test]
fn a_restarted_replicator_resumes_and_the_peer_catches_up_before_anything_is_acknowledged() {
    let mut w = pair();
    assert!(w.write(0, 2, 22));
    w.cut(0, 1);
    assert!(!w.write(0, FAR, 33));
    w.crash(0, false);
    w.start(0);
    w.mend(0, 1);
    wait(&mut w, "attached", |w| w.is_attached(0));
    let boot = w.boot(0);
    let required = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, required, false);
    w.serve(0, 1, Duration::from_secs(99));
    wait(&mut w, "device", |w| w.nodes[0].device);
    wait(&mut w, "caught up", |w| w.peer(0, 1).resynced);
    assert_eq!(w.boot(0), boot, "a restart of the process is no reboot");
    assert_eq!(
        w.nodes[0].disk.get(FAR),
        w.nodes[1].disk.get(FAR),
        "the unanswered write is on both or on none"
    );
    assert!(w.write(0, 4, 44));
    assert_ne!(w.engine(1).status().disk, DiskState::Inconsistent);
}

#[test]
fn a_clean_stop_keeps_the_boot_id_and_a_power_cut_changes_it() {
    let mut w = World::new(2, SIZE, 11);
    wait(&mut w, "attached", |w| w.is_attached(1));
    let boot = w.boot(1);
    w.give(1, Event::Stop { token: Token(900), even_primary: false });
    wait(&mut w, "stopped", |w| w.nodes[1].done.contains_key(&900));
    w.crash(1, true);
    w.start(1);
    wait(&mut w, "attached", |w| w.is_attached(1));
    assert_eq!(w.boot(1), boot, "clean: nothing volatile was lost");
    w.crash(1, true);
    w.start(1);
    assert_ne!(w.boot(1), boot);
    assert_eq!(w.engine(1).status().volume.as_str(), "vol");
    assert_eq!(name(1), w.nodes[1].name);
}

#[test]
fn without_a_device_there_is_no_promotion_and_a_lost_device_is_made_again() {
    let mut w = pair();
    w.give(0, Event::FrontEndStopped(Ok(())));
    assert!(w.alarms.iter().any(|a| a.contains("went away")), "{:?}", w.alarms);
    assert_eq!(w.engine(0).status().device, None);
    let required = vec![w.member(1)];
    let token = w.desire(0, Role::Primary, 1, required, false);
    wait(&mut w, "the device", |w| w.nodes[0].done.contains_key(&token));
    assert!(w.engine(0).status().device.is_some() && w.write(0, 1, 11));
    w.crash(0, true);
    w.nodes[1].no_device = true;
    let token = w.desire(1, Role::Primary, 2, Vec::new(), false);
    wait(&mut w, "the refusal", |w| w.nodes[1].done.contains_key(&token));
    assert!(w.nodes[1].done[&token].as_ref().is_err_and(|e| e.contains("no loop device")));
    assert_eq!(w.engine(1).status().role, Role::Secondary);
    w.nodes[1].no_device = false;
    w.serve(1, 3, Duration::from_secs(99));
    let token = w.desire(1, Role::Primary, 3, Vec::new(), false);
    wait(&mut w, "promotion", |w| w.nodes[1].done.get(&token) == Some(&Ok(())));
    assert!(w.write(1, 2, 22));
    assert_eq!(w.nodes[1].disk.get(1), 11);
}

#[test]
fn a_discard_of_the_whole_device_runs_in_pieces_and_is_replicated() {
    let mut w = World::new(2, 160 << 20, 5);
    w.promote_first(0);
    assert!(w.write(0, 100, 5) && w.write(0, 40_000, 6));
    w.admit(0, 1, 1);
    w.request(0, 8, FrontOp::Discard(w.range(0, (160 << 20) / BLOCK)));
    wait(&mut w, "the answer", |w| w.reply(0, 8).is_some());
    assert!((0..2).all(|n| w.nodes[n].disk.get(100) == 0 && w.nodes[n].disk.get(40_000) == 0));
}

#[test]
fn a_log_that_fills_up_is_cleaned_and_writes_go_on() {
    // 1100 extents are touched, the log holds 1015.
    let mut w = World::new(2, 1100 * (4 << 20), 6);
    w.promote_first(0);
    for extent in 0..1100 {
        assert!(w.write(0, extent * 1024, extent + 1), "extent {extent}; {}", w.describe());
    }
    assert!(w.engine(0).status().activity_log_extents < 1015);
    w.crash(0, true);
    w.start(0);
    wait(&mut w, "attached", |w| w.is_attached(0));
    assert_eq!(w.peer(0, 1).dirty_bytes % BLOCK, 0);
}

#[test]
fn a_primary_with_nothing_to_write_keeps_its_sessions() {
    let mut w = World::new(2, 16 << 20, 23);
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 1, 11));
    let opened = w.sessions();
    // Twenty times what a secondary takes for silence.
    w.run_for(Duration::from_secs(30));
    assert_eq!(w.sessions(), opened, "nobody ended the session of an idle pair: {}", w.describe());
    assert!(w.peer(0, 1).settled);
}
