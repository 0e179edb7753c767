//! A replica of the one volume of a simulated host: which writes it holds, which of them would survive a
//! power cut, and the sessions that a primary has with its peers.

use super::writes::Writes;
use baton_replicator::api::{Desired, Membership, PeerStatus, VolumeStatus};
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Generation, GroupName, Instant, Member, NodeName, Role,
    VolumeName,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub role: Role,
    pub epoch: Epoch,
    pub boot: BootId,
    pub required: Vec<Member>,
    pub have: Writes,
    pub durable: Writes,
    pub filesystem: bool,
    pub disk: DiskState,
    pub membership: Membership,
    /// Peers this primary has brought up to date: they receive every write.
    pub synced: BTreeMap<NodeName, BootId>,
    /// Members of the required set that have answered a flush since they got there.
    pub settled: BTreeSet<NodeName>,
    pub frozen_since: Option<Instant>,
    pub pending: Option<u64>,
}

impl Replica {
    pub(super) fn new(boot: u64) -> Self {
        Self {
            role: Role::Secondary,
            epoch: Epoch::ZERO,
            boot: BootId(boot),
            required: Vec::new(),
            have: Writes::default(),
            durable: Writes::default(),
            filesystem: false,
            disk: DiskState::Consistent,
            membership: Membership::Untold,
            synced: BTreeMap::new(),
            settled: BTreeSet::new(),
            frozen_since: None,
            pending: None,
        }
    }

    pub(super) fn command(&mut self, desired: &Desired) -> Result<(), String> {
        if desired.epoch.number < self.epoch.number {
            return Err(format!("epoch {} is older than {}", desired.epoch, self.epoch));
        }
        if (self.role, desired.role) == (Role::Secondary, Role::Primary) {
            if self.is_gone() {
                return Err("the disk failed".into());
            }
            if desired.membership == Membership::Left {
                return Err("not in the in-sync set".into());
            }
        }
        self.membership = desired.membership;
        if desired.epoch != self.epoch {
            self.synced.clear();
            self.settled.clear();
        }
        self.epoch = desired.epoch;
        self.role = desired.role;
        match desired.role {
            Role::Secondary => {
                self.synced.clear();
                self.required.clear();
                self.pending = None;
                self.frozen_since = None;
            }
            Role::Primary => {
                // Members of the set hold everything: they need no resync.
                for m in &desired.required {
                    self.synced.entry(m.node.clone()).or_insert(m.boot);
                }
                self.required.clone_from(&desired.required);
                self.settled.retain(|n| desired.required.iter().any(|m| m.node == *n));
            }
        }
        Ok(())
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.disk, DiskState::Diskless | DiskState::Failed)
    }

    /// The disk fails: what it holds from now on is what it held.
    pub(super) fn fail_disk(&mut self, a_peer_can_read: bool) {
        let served = self.role == Role::Primary && a_peer_can_read;
        self.disk = if served { DiskState::Diskless } else { DiskState::Failed };
        self.synced.clear();
    }

    pub(super) fn power_cut(&mut self) {
        self.boot = BootId(self.boot.0 + 1);
        // The disk answers again after that, as it was.
        self.disk = DiskState::Consistent;
        self.have.clone_from(&self.durable);
        self.role = Role::Secondary;
        self.required.clear();
        self.synced.clear();
        self.settled.clear();
        self.pending = None;
        self.frozen_since = None;
    }

    pub(super) fn status(
        &self,
        group: &GroupName,
        peers: impl Iterator<Item = (NodeName, bool, Option<BootId>)>,
    ) -> VolumeStatus {
        let peers = peers.map(|(node, connected, boot)| {
            let resynced = connected && self.role == Role::Primary && self.synced.get(&node).copied() == boot;
            let settled = resynced && self.settled.contains(&node);
            PeerStatus {
                connection: if connected { ConnectionState::Connected } else { ConnectionState::Connecting },
                boot,
                resynced,
                settled,
                ..PeerStatus::unknown(node)
            }
        });
        VolumeStatus {
            size_bytes: 1 << 20,
            role: self.role,
            epoch: self.epoch,
            disk: self.disk,
            disk_reason: (self.disk == DiskState::Diskless).then(|| "the disk failed".into()),
            membership: Some(self.membership),
            generation: Generation(u64::from(self.epoch != Epoch::ZERO)),
            boot: self.boot,
            device: (self.role == Role::Primary).then(|| "/dev/baton/store".into()),
            filesystem: self.filesystem.then(|| "ext4".into()),
            frozen: self.frozen_since.map(|_| "waits".into()),
            frozen_since: self.frozen_since,
            required: self.required.clone(),
            peers: peers.collect(),
            ..VolumeStatus::unknown(VolumeName::new("store").expect("name"), group.clone())
        }
    }
}
