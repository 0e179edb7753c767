//! A leader's disk fails in the middle of a storm, with or without its metadata. The agent takes the leader out of the
//! set, hands over when somebody is ready, and a person gives the node its old disk back, or an empty one.
//!
//! Judged by: no request of the leadership in force gets an error while the leader goes on without a disk; every read
//! finds what was acknowledged before it was asked; and everything that all storms are judged by.

use super::Sim;
use crate::world::{BLOCK, name};
use baton_replicator::api::Membership;
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{DiskState, Role};
use bytes::Bytes;
use std::time::Duration;

/// A leader that has been frozen for so long without a disk gives up.
const PATIENCE: Duration = Duration::from_millis(1500);

#[derive(Default)]
pub struct Disks {
    /// The leader that is not in etcd's set any more.
    pub outside: Option<usize>,
    /// Leaders that went on without a disk, and what was acknowledged meanwhile.
    pub detached: u64,
    pub acks: u64,
    seen: Option<u64>,
    frozen_since: Option<u64>,
}

impl Sim {
    /// In one seed of four; one disk at a time, or nobody could be asked for what is lost.
    pub(super) fn disks_fail(&mut self) {
        self.replace_disks(false);
        let quiet = self.seed % 4 != 1 || self.hosts.replacing || self.w.bug.is_some();
        if quiet || self.w.nodes.iter().any(|n| n.broken) || !self.w.random.chance(4) {
            return;
        }
        let Some(leader) = self.leader.filter(|l| self.w.is_up(*l) && self.promoting.is_none()) else {
            return;
        };
        // Alone it would be the end of the data.
        if self.insync.len() < 2 {
            return;
        }
        self.note(format!("the disk of {} fails", name(leader)));
        self.w.nodes[leader].broken = true;
        self.w.nodes[leader].meta_broken = self.w.random.chance(500);
    }

    /// The leader's agent looks at its disk; true if it does nothing else this time.
    pub(super) fn disk_is_gone(&mut self, leader: usize, faults: bool) -> bool {
        let status = self.w.engine(leader).status();
        if status.disk == DiskState::Failed {
            self.take_over();
            return true;
        }
        if status.disk != DiskState::Diskless {
            self.disks.frozen_since = None;
            return false;
        }
        if self.disks.seen != Some(self.number) {
            self.disks.seen = Some(self.number);
            self.disks.detached += 1;
        }
        let now = self.w.now.0;
        let since = *self.disks.frozen_since.get_or_insert(now);
        if status.frozen.is_none() {
            self.disks.frozen_since = None;
        } else if u128::from(now - since) > PATIENCE.as_nanos() {
            self.disks.frozen_since = None;
            self.take_over();
            return true;
        }
        if self.insync.contains_key(&leader) {
            if self.insync.len() > 1 && self.w.random.chance(150) {
                self.note(format!("{} has no disk and leaves the set", name(leader)));
                self.insync.remove(&leader);
                self.disks.outside = Some(leader);
                self.w.nodes[leader].membership = Membership::Left;
                let (number, members) = (self.number, self.members());
                self.w.desire(leader, Role::Primary, number, members, false);
            }
        } else if !faults || self.w.random.chance(20) {
            self.hand_over(leader);
        }
        self.leader != Some(leader) || self.promoting.is_some()
    }

    /// `peer` may not be removed: without it the set would be without data.
    pub(super) fn last_with_a_disk(&self, leader: usize, peer: usize) -> bool {
        self.w.nodes[leader].broken && !self.insync.keys().any(|n| *n != leader && *n != peer)
    }

    pub(super) fn new_leader_has_a_disk(&mut self, node: usize) {
        self.disks.outside = None;
        assert!(!self.w.nodes[node].broken, "seed {}: no candidate", self.seed);
    }

    /// The others are away, or were being copied to when the leader's disk went: only that disk has the data.
    fn nobody_but(&self, leader: usize) -> bool {
        let whole =
            |n: &usize| self.w.is_attached(*n) && self.w.engine(*n).status().disk != DiskState::Inconsistent;
        !self.insync.keys().any(|n| *n != leader && whole(n))
    }

    /// A person replaces the disk of a node that leads no more, or it answers again as it was. Where nobody else has the
    /// data, they see to it that it does.
    pub(super) fn replace_disks(&mut self, always: bool) {
        for node in 0..self.w.nodes.len() {
            let leads = self.leader == Some(node);
            let due = if leads { always && self.nobody_but(node) } else { always || self.w.random.chance(5) };
            if !self.w.nodes[node].broken || !due {
                continue;
            }
            let new = self.w.random.chance(300) && !leads;
            self.note(format!("{} gets {} disk", name(node), if new { "a new" } else { "its old" }));
            if self.w.is_up(node) {
                let power = self.w.random.chance(500);
                self.w.crash(node, power);
                // What waits for a process that will never answer.
                self.w.nodes[node].left = false;
            }
            if leads {
                self.stale.extend(std::mem::take(&mut self.issued).into_keys());
                self.stale.extend(std::mem::take(&mut self.flushes).into_keys());
                self.stale.extend(std::mem::take(&mut self.reads).into_keys());
                self.promoting = None;
                self.checked = false;
            }
            if new {
                self.w.wipe(node);
            }
            (self.w.nodes[node].broken, self.w.nodes[node].meta_broken) = (false, false);
            self.w.start(node);
        }
    }

    pub(super) fn read(&mut self, leader: usize, id: u64) {
        let blocks: Vec<u64> = super::used(self.exports(leader)).collect();
        let block = blocks[self.w.random.below(blocks.len() as u64) as usize];
        let acked = self.history.get(&block).map_or(0, |h| h.acked);
        self.reads.insert(id, (block, acked));
        let range = self.w.range(block, 1);
        self.w.request(leader, id, FrontOp::Read(range));
    }

    pub(super) fn judge_answer(&mut self, node: usize, id: u64, result: &Result<Bytes, ()>) {
        let mine = self.leader == Some(node);
        let diskless = self.w.is_up(node) && self.w.engine(node).status().disk == DiskState::Diskless;
        let current = self.issued.contains_key(&id) || self.flushes.contains_key(&id);
        let read = self.reads.get(&id).copied();
        if mine && diskless && (current || read.is_some()) {
            assert!(result.is_ok(), "seed {}: {id} failed\n{}", self.seed, self.w.describe());
            assert_eq!(
                (self.disks.outside, self.insync.contains_key(&node)),
                (Some(node), false),
                "seed {}: answered by a member without a disk",
                self.seed
            );
            self.disks.acks += 1;
        }
        if let (Some((block, acked)), Ok(data)) = (read, result) {
            let found = u64::from_le_bytes(data[..8].try_into().expect("eight bytes"));
            let h = self.history.get(&block).cloned().unwrap_or_default();
            let known = h.values.get(acked..).is_some_and(|v| v.contains(&found));
            assert!(
                known || (h.values.is_empty() && found == 0) || data.len() as u64 != BLOCK,
                "seed {}: a read of block {block} found {found}; wrote {:?}, acknowledged up to #{acked}\n{}",
                self.seed,
                h.values,
                self.w.describe()
            );
        }
    }
}
