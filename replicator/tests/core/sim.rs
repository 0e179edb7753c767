//! One seed: two or three replicas, a client, an ideal agent with an ideal etcd, and every fault the core claims
//! to survive. Serve-until is unlimited here, so safety must come from the required set and the epochs alone.
//!
//! Judged by: after each promotion, every block holds its last acknowledged write or a later one (last
//! *flushed* one if every member lost power); a deposed primary acknowledges nothing; once the faults stop, the
//! group heals and the replicas are equal, block by block. Leaders verify now and then: while no block has rotted, no
//! verify may ever find a difference; at the end one rots, and a verify under load must find just that and mend it.
//! In some of them hosts are replaced meanwhile ([`hosts`]), or the volume grows ([`growing`]); in one of four a leader's
//! disk fails ([`disks`]).
//!
//! In two seeds of three a holder keeps the leader's device when its process dies: what was not answered is sent again,
//! in any order of what does not overlap, to the process that takes the device over.

mod disks;
mod growing;
mod hosts;

use crate::bugs::Bug;
use crate::world::{BLOCK, World, data, name};
use baton_replicator::api::{Membership, VerifyState};
use baton_replicator::core::engine::{Event, FrontOp, Token};
use baton_replicator::types::{BootId, ConnectionState, DiskState, Member, NodeName, Protocol, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const SIZE: u64 = 24 << 20;
/// Where hosts are replaced: each is filled in full, which takes most of the time.
pub const SMALL: u64 = 12 << 20;
const EXTENT_BLOCKS: u64 = 1024;
/// Compared at once: few enough pieces for a storm to see most of them.
const COMPARED: u64 = 1 << 20;
/// Few blocks in each extent, so that log entries come and go and one does not cover all.
fn used(size: u64) -> impl Iterator<Item = u64> {
    (0..size / BLOCK / EXTENT_BLOCKS).flat_map(|e| (0..6).map(move |b| e * EXTENT_BLOCKS + b))
}

/// The writes of one block since the last change of leadership, in order. Index 0 is what was there.
#[derive(Clone, Default)]
struct History {
    values: Vec<u64>,
    acked: usize,
    flushed: usize,
}

#[derive(Clone)]
struct Issued {
    block: u64,
    blocks: u64,
    at: Vec<usize>,
}

pub struct Sim {
    w: World,
    seed: u64,
    // etcd
    number: u64,
    leader: Option<usize>,
    insync: BTreeMap<usize, BootId>,
    /// Sent to the leader's replicator: the union of all sets that may be current.
    required: BTreeMap<usize, BootId>,
    promoting: Option<u64>,
    /// The leader may be promoted with less than the acknowledged writes (everybody lost power).
    only_flushed: bool,
    checked: bool,
    /// Another leader, not a restarted one.
    fresh: bool,
    next: u64,
    history: BTreeMap<u64, History>,
    issued: BTreeMap<u64, Issued>,
    flushes: BTreeMap<u64, BTreeMap<u64, usize>>,
    /// Reads under way: the block, and what was acknowledged when it was asked.
    reads: BTreeMap<u64, (u64, usize)>,
    disks: disks::Disks,
    /// What `issued` asked, to be asked again.
    asked: BTreeMap<u64, FrontOp>,
    resumed: u64,
    stale: BTreeSet<u64>,
    late: BTreeSet<u64>,
    down_since: BTreeMap<usize, u64>,
    acks: u64,
    takeovers: u64,
    /// Pauses of resyncs begun, and bytes that resyncs compared instead of copying.
    pauses: u64,
    spared: BTreeMap<(u64, usize), u64>,
    /// Bytes that each verify compared.
    compared: BTreeMap<u64, u64>,
    hosts: hosts::Hosts,
    growing: growing::Growing,
    /// Reached by protocol A: never in the set, never waited for, and equal in the end.
    asynchronous: BTreeSet<usize>,
}

/// What a number of seeds came to.
#[derive(Debug, Default)]
pub struct Sums {
    pub acks: u64,
    pub takeovers: u64,
    pub compared: u64,
    /// Pauses of resyncs begun.
    pub pauses: u64,
    /// Bytes that resyncs found to be the same and did not copy.
    pub spared: u64,
    pub replaced: u64,
    /// Devices taken over from a process that had died.
    pub resumed: u64,
    /// Leaders that went on without a disk, and what was acknowledged by them.
    pub diskless: u64,
    pub diskless_acks: u64,
    /// Bytes by which a device got larger under its clients.
    pub grown: u64,
}

impl Sim {
    pub fn new(nodes: usize, size: u64, seed: u64) -> Self {
        let mut w = World::with(nodes, size, seed, Duration::from_millis(60), COMPARED);
        w.pace = 6;
        w.nodes.iter_mut().for_each(|n| n.keeps = !seed.is_multiple_of(3));
        w.until("attach", Duration::from_secs(5), |w| (0..nodes).all(|n| w.is_attached(n)));
        Self {
            w,
            seed,
            number: 0,
            leader: None,
            insync: BTreeMap::new(),
            required: BTreeMap::new(),
            promoting: None,
            only_flushed: false,
            checked: false,
            fresh: false,
            next: 1,
            history: BTreeMap::new(),
            issued: BTreeMap::new(),
            flushes: BTreeMap::new(),
            reads: BTreeMap::new(),
            disks: disks::Disks::default(),
            asked: BTreeMap::new(),
            resumed: 0,
            stale: BTreeSet::new(),
            late: BTreeSet::new(),
            down_since: BTreeMap::new(),
            acks: 0,
            takeovers: 0,
            pauses: 0,
            spared: BTreeMap::new(),
            compared: BTreeMap::new(),
            hosts: hosts::Hosts::new(nodes),
            growing: growing::Growing::default(),
            asynchronous: BTreeSet::new(),
        }
    }

    /// Those that are not gone for good.
    fn alive(&self) -> Vec<usize> {
        (0..self.w.nodes.len()).filter(|n| !self.hosts.gone.contains(n)).collect()
    }

    fn members(&self) -> Vec<Member> {
        self.required.iter().map(|(n, boot)| Member { node: name(*n), boot: *boot }).collect()
    }

    fn note(&mut self, text: String) {
        self.w.log.push(format!("{:?} {text}", self.w.now));
    }

    /// Etcd names a new leader; its replicator is told.
    fn elect(&mut self, node: usize, insync: BTreeMap<usize, BootId>) {
        self.number += 1;
        self.takeovers += 1;
        self.note(format!("{} leads epoch {} with {insync:?}", name(node), self.number));
        self.leader = Some(node);
        self.insync = insync;
        self.required = self.insync.iter().filter(|(n, _)| **n != node).map(|(n, b)| (*n, *b)).collect();
        self.checked = false;
        self.fresh = true;
        // What is on the new leader's disk may still be acknowledged by the old one: the acknowledgement may
        // be on its way. Nothing else ever may.
        for (id, issued) in std::mem::take(&mut self.issued) {
            let blocks = (issued.block..issued.block + issued.blocks).zip(&issued.at);
            let there = blocks.into_iter().all(|(b, at)| {
                let found = self.w.nodes[node].disk.get(b);
                self.history.get(&b).is_some_and(|h| h.values[*at..].contains(&found))
            });
            if there {
                self.late.insert(id)
            } else {
                self.stale.insert(id)
            };
        }
        self.late.extend(std::mem::take(&mut self.flushes).into_keys());
        self.late.extend(std::mem::take(&mut self.reads).into_keys());
        self.new_leader_has_a_disk(node);
        self.promote(node);
    }

    fn promote(&mut self, node: usize) {
        let (number, members) = (self.number, self.members());
        self.w.nodes[node].membership = Membership::Member;
        self.promoting = Some(self.w.desire(node, Role::Primary, number, members, false));
        self.w.serve(node, number, Duration::from_secs(1_000_000));
    }

    /// What the promoted replica holds must be allowed; it is the truth from now on.
    fn check_promoted(&mut self, node: usize, fresh: bool) {
        if self.leader == Some(node) {
            self.offers_enough(node);
        }
        // What is behind the volume's size is nobody's, yet.
        let size = self.w.engine(node).status().size_bytes;
        for block in used(size) {
            let found = self.w.nodes[node].disk.get(block);
            let h = self.history.entry(block).or_insert_with(|| History {
                values: vec![0],
                acked: 0,
                flushed: 0,
            });
            let least = if self.only_flushed { h.flushed } else { h.acked };
            let ok = h.values[least..].contains(&found);
            if !ok {
                let (h, seed) = (h.clone(), self.seed);
                panic!(
                    "seed {seed}: block {block} of {} holds {found}; wrote {:?}, acknowledged up to #{}, flushed #{}\n{}",
                    name(node),
                    h.values,
                    h.acked,
                    h.flushed,
                    self.w.describe()
                );
            }
            if fresh {
                // What is not flushed may come back older after a power cut. A discard reads like what was there first:
                // whichever it is, all between them may have been on the disk.
                let at = least + h.values[least..].iter().rposition(|v| *v == found).expect("checked");
                let values = h.values[h.flushed.min(least)..=at].to_vec();
                *h = History { acked: values.len() - 1, flushed: 0, values };
            }
        }
        self.only_flushed = false;
    }

    fn client(&mut self) {
        let Some(leader) = self.leader.filter(|l| self.w.is_up(*l) && self.w.nodes[*l].device) else {
            return;
        };
        if !self.checked || self.issued.len() + self.flushes.len() > 24 {
            return;
        }
        let id = self.next;
        self.next += 1;
        if self.w.random.chance(120) {
            let upto = self.history.iter().map(|(b, h)| (*b, h.acked)).collect();
            self.flushes.insert(id, upto);
            self.w.request(leader, id, FrontOp::Flush);
            return;
        }
        if self.w.random.chance(100) {
            return self.read(leader, id);
        }
        // One extent is busy, the others are touched now and then.
        let extents = self.exports(leader) / BLOCK / EXTENT_BLOCKS;
        let extent =
            if self.w.random.chance(600) { self.number % extents } else { self.w.random.below(extents) };
        let first = self.w.random.below(6);
        let block = extent * EXTENT_BLOCKS + first;
        let blocks = (1 + self.w.random.below(3)).min(6 - first);
        let zero = self.w.random.chance(60);
        let value = if zero { 0 } else { id };
        let at = (block..block + blocks)
            .map(|b| {
                let h = self.history.entry(b).or_insert_with(|| History {
                    values: vec![0],
                    acked: 0,
                    flushed: 0,
                });
                h.values.push(value);
                h.values.len() - 1
            })
            .collect();
        self.issued.insert(id, Issued { block, blocks, at });
        let range = self.w.range(block, blocks);
        let op =
            if zero { FrontOp::Discard(range) } else { FrontOp::Write(block * BLOCK, data(value, blocks)) };
        self.asked.insert(id, op.clone());
        self.w.request(leader, id, op);
    }

    /// The kernel sends a process that took a device over what was not answered.
    fn resend(&mut self) {
        for node in 0..self.w.nodes.len() {
            if !std::mem::take(&mut self.w.nodes[node].taken_over) || self.leader != Some(node) {
                continue;
            }
            self.resumed += 1;
            // A read is not worth the order: the kernel's caller gives it up here.
            self.stale.extend(std::mem::take(&mut self.reads).into_keys());
            let mut open: Vec<u64> = self.issued.keys().chain(self.flushes.keys()).copied().collect();
            while !open.is_empty() {
                // Overlapping ones have no order for the kernel, but for the judge they do.
                let mut id = open[self.w.random.below(open.len() as u64) as usize];
                while let Some(older) = open.iter().copied().filter(|o| *o < id && self.overlap(*o, id)).min()
                {
                    id = older;
                }
                open.retain(|o| *o != id);
                let op = if self.flushes.contains_key(&id) {
                    FrontOp::Flush
                } else {
                    self.asked.get(&id).cloned().expect("asked before")
                };
                self.w.request(node, id, op);
            }
        }
    }

    fn overlap(&self, a: u64, b: u64) -> bool {
        let blocks = |id| self.issued.get(&id).map(|i| (i.block, i.block + i.blocks));
        matches!((blocks(a), blocks(b)), (Some(a), Some(b)) if a.0 < b.1 && b.0 < a.1)
    }

    fn replies(&mut self) {
        self.resend();
        for node in 0..self.w.nodes.len() {
            for (id, result) in std::mem::take(&mut self.w.nodes[node].replies) {
                let ok = result.is_ok();
                self.judge_answer(node, id, &result);
                if self.reads.remove(&id).is_some() {
                    continue;
                }
                if let Some(issued) = self.issued.remove(&id) {
                    assert_eq!(Some(node), self.leader, "seed {}: answered by another node", self.seed);
                    if ok {
                        self.acks += 1;
                        for (b, at) in (issued.block..issued.block + issued.blocks).zip(issued.at) {
                            if let Some(h) = self.history.get_mut(&b) {
                                h.acked = h.acked.max(at);
                            }
                        }
                    }
                } else if let Some(upto) = self.flushes.remove(&id) {
                    if ok {
                        for (b, at) in upto {
                            if let Some(h) = self.history.get_mut(&b) {
                                h.flushed = h.flushed.max(at);
                            }
                        }
                    }
                } else {
                    let stale = self.stale.contains(&id) && !ok;
                    assert!(
                        stale || self.late.contains(&id),
                        "seed {}: {id} was acknowledged by {} after it was deposed\n{}",
                        self.seed,
                        name(node),
                        self.w.describe()
                    );
                }
            }
        }
    }

    /// What agents and etcd do, ideally but at random moments.
    fn agents(&mut self, faults: bool) {
        let Some(leader) = self.leader else {
            if self.w.is_attached(0) {
                let boot = self.w.boot(0);
                self.elect(0, BTreeMap::from([(0, boot)]));
            }
            return;
        };
        for node in self.alive() {
            if node != leader && self.w.is_attached(node) && self.w.random.chance(100) {
                let status = self.w.engine(node).status();
                if status.role == Role::Primary && status.epoch.number < self.number {
                    let number = self.number;
                    self.w.desire(node, Role::Secondary, number, Vec::new(), true);
                }
            }
        }
        if self.w.is_attached(leader) {
            self.lead(leader, faults);
        } else if !self.w.is_up(leader) && self.w.random.chance(200) {
            self.take_over();
        }
        if faults && self.leader == Some(leader) && self.w.random.chance(20) {
            // The standbys do not hear it, or think so.
            let unheard =
                |pairs: &BTreeSet<(usize, usize)>| pairs.iter().any(|(a, b)| *a == leader || *b == leader);
            if self.w.nodes[leader].paused || unheard(&self.w.cut) || unheard(&self.w.stalled) {
                self.take_over();
            }
        }
    }

    fn lead(&mut self, leader: usize, faults: bool) {
        let boot = self.w.boot(leader);
        if self.disks.outside == Some(leader) && self.w.engine(leader).status().role == Role::Primary {
            // It goes on through its peers.
        } else if self.insync.get(&leader) != Some(&boot) {
            return self.take_over(); // It lost power: it competes like any other.
        }
        let status = self.w.engine(leader).status();
        let unusable = status.disk == DiskState::Failed
            || (status.disk == DiskState::Diskless && status.role == Role::Secondary);
        if self.w.nodes[leader].broken && unusable {
            // Its process died after the disk did, and the next one finds that it is gone.
            self.promoting = None;
            return self.take_over();
        }
        if let Some(token) = self.promoting {
            match self.w.nodes[leader].done.get(&token).cloned() {
                Some(Ok(())) => {
                    self.promoting = None;
                    self.check_promoted(leader, self.fresh && self.stale_epoch());
                    self.fresh = false;
                    self.checked = true;
                }
                Some(Err(why)) if why.contains("attached") => self.promote(leader),
                Some(Err(why)) => {
                    panic!("seed {}: promotion refused: {why}\n{}", self.seed, self.w.describe())
                }
                None => {}
            }
            return;
        }
        if status.role != Role::Primary {
            self.promote(leader); // Its replicator restarted: resume in place.
            return;
        }
        if self.disk_is_gone(leader, faults) {
            return;
        }
        for peer in self.alive() {
            if peer == leader {
                continue;
            }
            let leaves = !self.hosts.spec.contains(&peer);
            let Some(p) = status.peers.iter().find(|p| p.node == name(peer)) else { continue };
            let seed = self.seed;
            assert!(!(p.resynced && self.asynchronous.contains(&peer)), "seed {seed}: {} counts", name(peer));
            let known = self.required.get(&peer).copied();
            let in_set = self.insync.get(&peer).copied();
            let lost = known.is_some() && (leaves || !p.resynced || p.boot != known);
            if lost && self.last_with_a_disk(leader, peer) {
                continue;
            }
            if lost && self.w.random.chance(if in_set.is_some() && !leaves { 8 } else { 100 }) {
                // Etcd first, then the replicator.
                self.insync.remove(&peer);
                self.required.remove(&peer);
                self.note(format!("{} leaves the set", name(peer)));
            } else if known.is_none() && p.resynced && !leaves && self.w.random.chance(200) {
                self.required.insert(peer, p.boot.expect("connected"));
            } else if let Some(boot) =
                known.filter(|_| in_set.is_none() && !leaves && p.settled && p.boot == known)
                && self.w.random.chance(300)
            {
                self.holds_everything(peer);
                self.insync.insert(peer, boot);
                self.note(format!("{} joins the set", name(peer)));
            } else {
                continue;
            }
            let (number, members) = (self.number, self.members());
            self.w.desire(leader, Role::Primary, number, members, false);
        }
        if faults && self.insync.len() > 1 && self.w.random.chance(2) {
            self.hand_over(leader);
        } else if faults {
            self.verify(leader);
            self.pause(leader);
        }
    }

    /// A person pauses resyncs now and then, for a while.
    fn pause(&mut self, leader: usize) {
        let Some(status) = self.w.nodes[leader].engine.as_ref().map(|e| e.status()) else { return };
        for (index, peer) in status.peers.iter().enumerate() {
            self.spared.insert((self.number, index), peer.spared_bytes);
        }
        if self.w.random.chance(if status.resync_paused { 60 } else { 4 }) {
            self.pauses += u64::from(!status.resync_paused);
            self.w.pause_resync(leader, !status.resync_paused);
        }
    }

    /// Now and then the leader compares; nothing has rotted, so nothing may differ.
    fn verify(&mut self, leader: usize) {
        let Some(status) = self.w.nodes[leader].engine.as_ref().map(|e| e.status()) else { return };
        self.compared.extend(status.verify.as_ref().map(|v| (v.id, v.checked_bytes)));
        let state = status.verify.map(|v| {
            assert!(
                v.mismatched_bytes == 0 && v.unconfirmed == 0,
                "seed {}: a false alarm: {v:?}\n{}",
                self.seed,
                self.w.describe()
            );
            v.state
        });
        if !state.is_some_and(VerifyState::is_running) {
            let (id, repair) = (self.w.random.next(), self.w.random.chance(500));
            if self.w.random.chance(30) {
                // Refused while nobody is connected.
                let _ = self.w.verify(leader, id, repair);
            }
        } else if self.w.random.chance(1) {
            self.stop_verify(leader);
        }
    }

    /// A block of one standby rots; a verify under load finds it and nothing else, and mends it.
    fn rot(&mut self) {
        let leader = self.leader.expect("a leader");
        let all: Vec<usize> = self.hosts.spec.iter().copied().collect();
        let at = all.iter().position(|n| *n == leader).expect("it is in the specification");
        let victim = all[(at + 1 + self.w.random.below(all.len() as u64 - 1) as usize) % all.len()];
        let block = self.w.random.below(self.w.size / BLOCK / EXTENT_BLOCKS) * EXTENT_BLOCKS
            + 6
            + self.w.random.below(EXTENT_BLOCKS - 6);
        self.stop_verify(leader);
        // The last fault may still be felt: a link that times out, or one that was greeted in the words of an older
        // release because its first greetings broke off.
        let limit = self.w.now.plus(Duration::from_secs(60));
        loop {
            let id = self.w.random.next();
            let begun = self.w.verify(leader, id, false).is_ok();
            if begun && self.w.verified(leader).peers.contains(&name(victim)) {
                break;
            }
            assert!(self.w.now < limit, "seed {}: no verify begins\n{}", self.seed, self.w.describe());
            self.stop_verify(leader);
            if self.w.peer(leader, victim).connection == ConnectionState::Connected {
                self.w.cut(leader, victim);
                self.w.mend(leader, victim);
            }
            self.w.run_for(Duration::from_millis(100));
            self.replies();
        }
        self.stop_verify(leader);
        self.w.nodes[victim].disk.rot(block);
        let id = self.w.random.next();
        assert_eq!(self.w.verify(leader, id, true), Ok(()), "seed {}", self.seed);
        let limit = self.w.now.plus(Duration::from_secs(60));
        while self.w.verified(leader).state.is_running() {
            assert!(self.w.now < limit, "seed {}: verify does not end\n{}", self.seed, self.w.describe());
            self.w.step();
            self.replies();
            // Nobody waits for those reached by A, so somebody has to see to it that they can keep up.
            let keeps_up = |n: &usize| self.w.peer(leader, *n).unacked_bytes < 16 * BLOCK;
            if self.asynchronous.iter().all(keeps_up) && self.w.random.chance(300) {
                self.client();
            }
        }
        let v = self.w.verified(leader);
        let found: Vec<(NodeName, u64)> =
            v.mismatches.iter().map(|m| (m.peer.clone(), m.offset / BLOCK)).collect();
        let planted = [(name(victim), block)];
        assert_eq!(found, planted, "seed {}: a verify finds what has not rotted: {v:?}", self.seed);
        assert_eq!((v.state, v.mismatched_bytes, v.repaired_bytes), (VerifyState::Done, BLOCK, BLOCK));
        let equal = self.w.nodes[victim].disk.get(block) == self.w.nodes[leader].disk.get(block);
        assert!(equal, "seed {}: not mended", self.seed);
    }

    fn stop_verify(&mut self, leader: usize) {
        self.w.last_token += 1;
        let token = Token(self.w.last_token);
        self.w.give(leader, Event::StopVerify { token });
    }

    /// The content is the truth from here on only if nobody else of the set can come up with more.
    fn stale_epoch(&self) -> bool {
        self.insync.len() == 1 && self.required.is_empty()
    }

    fn hand_over(&mut self, leader: usize) {
        let successor = self.insync.iter().find(|(n, boot)| {
            **n != leader
                && self.w.is_attached(**n)
                && self.hosts.spec.contains(n)
                && self.w.boot(**n) == **boot
                && self.w.engine(leader).status().peers.iter().any(|p| p.node == name(**n) && p.settled)
        });
        let Some((successor, _)) = successor.map(|(n, b)| (*n, *b)) else { return };
        let known = self.required.len() + usize::from(self.disks.outside != Some(leader));
        let open = !self.issued.is_empty() || !self.flushes.is_empty() || !self.reads.is_empty();
        if open || known != self.insync.len() {
            return;
        }
        let number = self.number;
        let token = self.w.desire(leader, Role::Secondary, number, Vec::new(), false);
        let end = self.w.now.plus(Duration::from_secs(3));
        while !self.w.nodes[leader].done.contains_key(&token) && self.w.now < end {
            self.w.step();
        }
        self.replies();
        let set = self.insync.clone();
        self.note("handover".into());
        self.elect(successor, set);
    }

    fn take_over(&mut self) {
        let qualified: Vec<usize> = self
            .insync
            .iter()
            .filter(|(n, boot)| {
                self.w.is_attached(**n) && self.w.boot(**n) == **boot && Some(**n) != self.leader
            })
            .filter(|(n, _)| self.hosts.spec.contains(n) && !self.w.nodes[**n].broken)
            .map(|(n, _)| *n)
            .collect();
        let mut choice = qualified.first().copied();
        // After a power cut of all members any of them may start.
        // A disk that is gone took its part with it as surely as a power cut.
        let all_changed = self
            .insync
            .iter()
            .all(|(n, boot)| self.w.nodes[*n].broken || (self.w.is_attached(*n) && self.w.boot(*n) != *boot));
        if choice.is_none() && all_changed {
            choice = self
                .insync
                .keys()
                .copied()
                .filter(|n| self.hosts.spec.contains(n) && !self.w.nodes[*n].broken)
                .find(|n| self.w.engine(*n).status().disk != DiskState::Inconsistent);
            self.only_flushed = choice.is_some();
        }
        if choice.is_none() {
            self.roll_back();
        }
        if let Some(node) = choice {
            let boot = self.w.boot(node);
            self.elect(node, BTreeMap::from([(node, boot)]));
        }
    }

    fn fault(&mut self) {
        let all = self.alive();
        let n = all.len() as u64;
        let at = self.w.random.below(n) as usize;
        let (node, other) = (all[at], all[(at + 1 + self.w.random.below(n - 1) as usize) % all.len()]);
        match self.w.random.below(7) {
            0 if self.w.is_up(node) => self.w.crash(node, true),
            1 if self.w.is_up(node) => self.w.crash(node, false),
            2 => self.w.cut(node, other),
            3 => {
                self.w.stalled.insert((node.min(other), node.max(other)));
            }
            4 | 5 => self.w.mend(node, other),
            6 => self.w.nodes[node].paused = !self.w.nodes[node].paused,
            _ => {}
        }
        if !self.w.is_up(node) {
            self.down_since.entry(node).or_insert(self.w.now.0);
        }
    }

    fn revive(&mut self, always: bool) {
        for node in self.alive() {
            let since = self.down_since.get(&node).copied();
            if !self.w.is_up(node)
                && (always || since.is_none_or(|s| self.w.now.0 - s > 300_000_000))
                && (always || self.w.random.chance(30))
            {
                self.down_since.remove(&node);
                self.w.start(node);
                if self.leader == Some(node) && self.w.nodes[node].left {
                    self.promoting = None;
                    self.checked = false;
                } else if self.leader == Some(node) {
                    // Its requests died with the device; they may or may not have happened.
                    self.stale.extend(std::mem::take(&mut self.issued).into_keys());
                    self.stale.extend(std::mem::take(&mut self.flushes).into_keys());
                    self.stale.extend(std::mem::take(&mut self.reads).into_keys());
                    self.promoting = None;
                    self.checked = false;
                }
            }
        }
    }

    /// From now on every node has this bug.
    pub fn with_bug(&mut self, bug: Bug) {
        self.w.bug = Some(bug);
    }

    /// The last node is reached by protocol A, by everybody.
    pub fn with_asynchronous(&mut self) {
        let last = self.w.nodes.len() - 1;
        self.asynchronous.insert(last);
        self.w.protocols.insert(last, Protocol::A);
        for node in 0..=last {
            let peers = self.w.nodes[node].peers.clone();
            self.w.reconfigure(node, peers).expect("protocols change while in use");
        }
    }

    /// Those that can be in the set.
    fn electorate(&self) -> usize {
        self.hosts.spec.difference(&self.asynchronous).count()
    }

    /// Those that nobody waits for have caught up.
    fn others_caught_up(&self) -> bool {
        let Some(leader) = self.leader.filter(|l| self.w.is_up(*l)) else { return false };
        self.asynchronous.iter().all(|node| {
            let p = self.w.peer(leader, *node);
            p.connection == ConnectionState::Connected && p.unacked_bytes + p.dirty_bytes == 0
        })
    }

    /// Hosts leave for good and new ones come.
    pub fn with_replacements(&mut self) {
        self.hosts.replacing = true;
    }

    pub fn run(mut self, steps: u64) -> Sums {
        // Some seeds are stormier than others; a bug is looked for in bad weather.
        let clean = if self.w.bug.is_some() { 40 } else { [0, 3, 9][(self.seed % 3) as usize] };
        // The first full sync takes most of the time; the storm begins when it is over.
        let limit = self.w.now.plus(Duration::from_secs(60));
        while self.insync.len() < self.electorate() || !self.others_caught_up() {
            assert!(self.w.now < limit, "seed {}: it does not begin\n{}", self.seed, self.w.describe());
            self.w.step();
            self.replies();
            self.agents(false);
        }
        for _ in 0..steps {
            self.w.step();
            self.replies();
            if self.w.random.chance(250) {
                self.agents(true);
            }
            if self.w.random.chance(300) {
                self.client();
            }
            // A disk is filled between two faults now and then, or nobody would ever be replaced.
            if self.w.random.chance(if self.hosts.replacing { 1 } else { 4 + clean }) {
                self.fault();
            }
            if self.w.random.chance(100) {
                self.revive(false);
            }
            self.disks_fail();
            self.replace_hosts(true);
            self.grow_volumes(true);
        }
        self.heal();
        self.rot();
        Sums {
            acks: self.acks,
            takeovers: self.takeovers,
            compared: self.compared.values().sum(),
            pauses: self.pauses,
            spared: self.spared.values().sum(),
            replaced: self.hosts.replaced,
            resumed: self.resumed,
            diskless: self.disks.detached,
            diskless_acks: self.disks.acks,
            grown: self.growing.online,
        }
    }

    fn mend_all(&mut self) {
        self.w.cut.clear();
        self.w.stalled.clear();
        for node in &mut self.w.nodes {
            node.paused = false;
        }
    }

    /// No more faults: everything must come together.
    /// The leader has nothing left to copy to anybody: a member that lacks only what was never acknowledged may differ.
    fn caught_up(&self) -> bool {
        let Some(leader) = self.leader.filter(|l| self.w.is_attached(*l)) else { return false };
        let status = self.w.engine(leader).status();
        let others = self.hosts.spec.iter().filter(|n| **n != leader);
        others.into_iter().all(|n| {
            status.peers.iter().any(|p| p.node == name(*n) && p.connection == ConnectionState::Connected)
        })
    }

    fn heal(&mut self) {
        self.mend_all();
        self.note("healing".into());
        for node in self.alive() {
            if self.w.is_up(node) {
                self.w.pause_resync(node, false);
            }
        }
        let limit = self.w.now.plus(Duration::from_secs(90));
        loop {
            for _ in 0..20 {
                self.w.step();
            }
            self.replies();
            self.replace_disks(true);
            self.revive(true);
            self.agents(false);
            self.replace_hosts(false);
            self.grow_volumes(false);
            let present =
                self.insync.iter().filter(|(n, boot)| self.w.is_up(**n) && self.w.boot(**n) == **boot);
            let whole = present.count() == self.electorate()
                && self.insync.len() == self.electorate()
                && self.others_caught_up()
                && self.promoting.is_none()
                && self.caught_up()
                && self.hosts_agree()
                && self.grown();
            if whole
                && self.issued.is_empty()
                && self.flushes.is_empty()
                && self.reads.is_empty()
                && self.checked
            {
                break;
            }
            let (seed, set, waiting) = (self.seed, self.insync.clone(), self.issued.len());
            assert!(
                self.w.now < limit,
                "seed {seed}: it does not heal: set {set:?}, {waiting} unanswered\n{}",
                self.w.describe()
            );
        }
        let leader = self.leader.expect("a leader");
        let id = self.next;
        self.w.request(leader, id, FrontOp::Flush);
        self.w.until("the last flush", Duration::from_secs(5), |w| w.reply(leader, id).is_some());
        let limit = self.w.now.plus(Duration::from_secs(60));
        while !self.others_caught_up() {
            assert!(self.w.now < limit, "seed {}: never caught up\n{}", self.seed, self.w.describe());
            self.w.step();
        }
        for node in self.hosts.spec.clone() {
            self.check_promoted(node, false);
            for block in used(self.w.size) {
                let (a, b) = (self.w.nodes[leader].disk.get(block), self.w.nodes[node].disk.get(block));
                assert_eq!(
                    a,
                    b,
                    "seed {}: block {block} differs on {}\n{}",
                    self.seed,
                    name(node),
                    self.w.describe()
                );
            }
        }
    }
}
