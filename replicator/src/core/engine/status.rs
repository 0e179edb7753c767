//! What the agent sees, and when it should look again.

use super::{Action, Engine};
use crate::api::{PeerStatus, VolumeStatus};
use crate::types::{DiskState, Role};
use std::hash::{DefaultHasher, Hash, Hasher};

impl Engine {
    /// Why I/O is frozen, as one sentence; none while it flows or there is none.
    fn frozen_reason(&self) -> Option<String> {
        if self.role != Role::Primary {
            return None;
        }
        if self.disk == DiskState::Failed {
            return Some("the local disk failed".into());
        }
        if let Some(reason) = self.why_frozen_detached() {
            return Some(reason);
        }
        if let Some(reason) = &self.deposed {
            return Some(format!("deposed: {reason}"));
        }
        if self.stopping {
            return Some("the replicator is stopping".into());
        }
        match self.until {
            Some((epoch, until)) if epoch == self.superblock.epoch => {
                if until <= self.now {
                    return Some("the agent's permission to serve has run out".into());
                }
            }
            Some(_) | None => {
                return Some("the agent has not given permission to serve in this epoch".into());
            }
        }
        for member in &self.required {
            let Some(peer) = self.peer_index(&member.node) else {
                return Some(format!("{} is required and is not a peer of this volume", member.node));
            };
            let p = &self.peers[peer];
            if !self.counts(peer) {
                let why = match p.boot {
                    Some(boot) if boot != member.boot => {
                        "its host lost power since it was admitted".to_owned()
                    }
                    Some(_) | None => p.reason.clone().unwrap_or_else(|| "not connected".into()),
                };
                return Some(format!("waiting for {}: {why}", member.node));
            }
        }
        if self.generation.is_some() {
            return Some("a new generation is being recorded".into());
        }
        self.disk_reason.clone().filter(|_| !self.full.is_empty())
    }

    fn peer_status(&self, index: usize) -> PeerStatus {
        let p = &self.peers[index];
        let primary = self.role == Role::Primary;
        let connection =
            if primary { p.connection() } else { self.upstream_state(index).unwrap_or_default() };
        let connected = p.link == super::peer::Link::Connected;
        let waited_for = primary && (connected || self.counts(index));
        let resynced = waited_for && !self.is_asynchronous(index);
        PeerStatus {
            node: p.node.clone(),
            protocol: self.config.protocol_of(&p.node),
            connection,
            reason: self.odds(index).or_else(|| p.reason.clone()),
            apart: self.apart(index),
            boot: p.boot,
            disk: p.disk,
            resynced,
            settled: resynced && connected && p.settled && self.counts(index),
            dirty_bytes: p.bitmap.dirty_bytes(),
            unacked_bytes: p.inflight.values().map(|s| s.range.bytes()).sum(),
            oldest_unacked_ms: p
                .oldest()
                .map_or(0, |at| u64::try_from(self.now.since(at).as_millis()).unwrap_or(u64::MAX)),
            lag_us: p.lag_us,
            resync: self.resync_progress(index),
            copied_bytes: p.copied_bytes,
            spared_bytes: p.spared_bytes,
            // The owner of the sessions knows.
            link: None,
        }
    }

    /// Everything about this volume.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let sb = &self.superblock;
        let mut peers: Vec<PeerStatus> =
            (0..self.peers.len()).filter(|i| self.configured(*i)).map(|i| self.peer_status(i)).collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        VolumeStatus {
            volume: sb.volume.clone(),
            group: self.config.group.clone(),
            size_bytes: sb.offered,
            growth: self.growth_status(),
            role: self.role,
            epoch: sb.epoch,
            disk: self.disk,
            disk_reason: self.disk_reason.clone(),
            full: !self.full.is_empty(),
            membership: Some(self.membership),
            generation: sb.generation,
            boot: sb.boot,
            device: self.usable_device(),
            held: self.device_left,
            filesystem: self.filesystem.clone(),
            frozen: self.frozen.clone(),
            frozen_since: self.frozen_since,
            required: self.required.clone(),
            peers,
            activity_log_extents: self.log.len() as u64,
            counters: self.counters,
            alarms: self.alarms.iter().cloned().collect(),
            verify: self.verify_status(),
            resync_paused: self.paused,
            // The owner of the backing store knows.
            snapshots: Vec::new(),
            export: None,
            clients: None,
        }
    }

    /// The device once the promotion is in force: before that it is not known what is on it.
    fn usable_device(&self) -> Option<std::path::PathBuf> {
        self.device.clone().filter(|_| self.transition.is_none())
    }

    /// Looks whether anything changed that an agent would react to.
    pub(super) fn note_changes(&mut self) {
        self.frozen = self.frozen_reason();
        self.frozen_since = match (&self.frozen, self.frozen_since) {
            (None, _) => None,
            (Some(_), None) => Some(self.now),
            (Some(_), since) => since,
        };
        let mut h = DefaultHasher::new();
        let sb = &self.superblock;
        (
            sb.epoch,
            sb.generation,
            sb.boot,
            &self.frozen,
            self.usable_device(),
            &self.filesystem,
            &self.required,
            self.device_left,
            self.paused,
        )
            .hash(&mut h);
        (self.role == Role::Primary, self.disk as u8, &self.alarms).hash(&mut h);
        (&self.disk_reason, self.full.is_empty(), self.membership).hash(&mut h);
        for (index, p) in self.peers.iter().enumerate() {
            let connection =
                if self.role == Role::Primary { Some(p.connection()) } else { self.upstream_state(index) };
            (
                (self.configured(index), self.is_asynchronous(index)),
                connection.map(|c| c as u8),
                (p.at_odds, &p.reason, self.discard.is_some()),
                p.boot,
                p.disk as u8,
                p.settled,
                p.bitmap.is_empty(),
            )
                .hash(&mut h);
        }
        (sb.offered, self.growth_status()).hash(&mut h);
        self.verify.as_ref().map(|v| v.digest()).hash(&mut h);
        let digest = h.finish();
        if digest != self.digest {
            self.digest = digest;
            self.out.push(Action::StatusChanged);
        }
    }
}
