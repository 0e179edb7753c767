//! A group's volumes as its leadership sees them: the group's boot id, who has lost or regained which data,
//! and what each replica should be.
//!
//! Level-triggered: what a volume should be is computed anew each time and compared with what the replicator
//! reports; one command per volume is on its way at most, so that an old one can never overtake a newer.

use super::{Action, GroupCore, State};
use crate::core::record::{LeaderKey, TxnKind, Versioned};
use crate::core::rules::{Detail, Rule};
use crate::core::runtime::Phase;
use baton_replicator::api::{Desired, Membership, PeerStatus, VolumeStatus};
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Instant, Member, NodeName, Protocol, Role, VolumeName,
};
use std::time::Duration;

/// Pause after a refused command: a replicator that starts needs about as long.
const RETRY: Duration = Duration::from_millis(200);

/// A command to the replicator about one volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    in_flight: bool,
    pub(super) retry_at: Instant,
    pub(super) error: Option<String>,
}

/// Folds the boot ids of a group's volumes, in the order of their names, into one: a single volume's own.
pub(super) fn fold_boots(boots: impl IntoIterator<Item = BootId>) -> Option<BootId> {
    let mut folded: Option<u64> = None;
    for boot in boots {
        if boot.0 == 0 {
            return None;
        }
        folded = Some(match folded {
            None => boot.0,
            // FNV's prime: order matters, and a change of any one changes the whole.
            Some(sum) => (sum ^ boot.0.rotate_left(17)).wrapping_mul(0x0100_0000_01b3) | 1,
        });
    }
    folded.map(BootId)
}

impl GroupCore {
    /// This node's boot id for the group; none while a volume's is unknown.
    pub(super) fn boot(&self) -> Option<BootId> {
        if self.cfg.volumes.is_empty() {
            // Without data there is nothing that a reboot could lose.
            return Some(BootId(1));
        }
        fold_boots(self.volumes()?.into_iter().map(|v| v.boot))
    }

    /// All volumes of the group, by name; none if one is missing.
    pub(super) fn volumes(&self) -> Option<Vec<&VolumeStatus>> {
        let all = self.replicas.as_ref()?;
        let mut names: Vec<&VolumeName> = self.cfg.volumes.iter().collect();
        names.sort();
        names.into_iter().map(|name| all.iter().find(|v| v.volume == *name)).collect()
    }

    /// A peer as seen by each volume; none if a volume or the peer is missing.
    fn peer(&self, node: &NodeName) -> Option<Vec<&PeerStatus>> {
        self.volumes()?.into_iter().map(|v| v.peers.iter().find(|p| p.node == *node)).collect()
    }

    /// The peer's boot id for the group, as it said in the handshakes of its replicas.
    pub(super) fn peer_boot(&self, node: &NodeName) -> Option<BootId> {
        if self.cfg.volumes.is_empty() {
            return Some(BootId(1));
        }
        let boots: Option<Vec<BootId>> = self.peer(node)?.into_iter().map(|p| p.boot).collect();
        fold_boots(boots?)
    }

    /// Any replica of this node ever held data.
    pub(super) fn has_history(&self) -> bool {
        let held = |v: &VolumeStatus| v.generation.0 != 0 || v.epoch != Epoch::ZERO;
        self.replicas.iter().flatten().any(held)
    }

    /// The first of this node's replicas that cannot be promoted, and why.
    pub(super) fn unfit_volume(&self) -> Option<String> {
        if self.cfg.volumes.is_empty() {
            return None;
        }
        let Some(volumes) = self.volumes() else {
            return Some(super::standby::SILENT_REPLICATOR.into());
        };
        let bad = volumes.into_iter().find(|v| match v.disk {
            DiskState::UpToDate | DiskState::Consistent => false,
            // A replica without data is promotable at the first start only; etcd's record says which it is.
            DiskState::Inconsistent => v.generation.0 != 0 || !self.fresh_or_first(),
            DiskState::Outdated
            | DiskState::Diskless
            | DiskState::Attaching
            | DiskState::Failed
            | DiskState::DUnknown => true,
        });
        bad.map(|v| format!("volume {} is {:?} here", v.volume, v.disk))
    }

    fn fresh_or_first(&self) -> bool {
        self.fresh() || self.view().is_some_and(|v| v.insync.is_none())
    }

    /// The disk of one of this leader's volumes is gone.
    pub(super) fn disk_gone(&self) -> Option<&VolumeStatus> {
        self.volumes()?.into_iter().find(|v| matches!(v.disk, DiskState::Diskless | DiskState::Failed))
    }

    /// A volume of this leader that is served through its peers because its disk is gone.
    pub(super) fn diskless(&self) -> Option<&VolumeStatus> {
        // One that has been stopped in order says Diskless too, and gives no reason.
        let served = |v: &&VolumeStatus| {
            v.disk == DiskState::Diskless
                && v.role == Role::Primary
                && v.disk_reason.is_some()
                && v.membership.is_some()
        };
        self.volumes()?.into_iter().find(served)
    }

    /// This node may be in etcd's in-sync set.
    pub(super) fn in_set(&self) -> bool {
        self.set.iter().any(|m| m.node == self.cfg.me)
    }

    /// What the replicas are told of that.
    fn membership(&self) -> Membership {
        let careless = !self.rules.on(Rule::LeaveDiskless) && self.diskless().is_some();
        let left = !self.in_set() || careless;
        if left { Membership::Left } else { Membership::Member }
    }

    /// A member of E that nothing speaks against.
    pub(super) fn has_well_member(&self) -> bool {
        self.members().iter().any(|m| self.lost(m).is_none())
    }

    pub(super) fn on_replicas(&mut self, replicas: Option<Vec<VolumeStatus>>) {
        let mine = |v: &VolumeStatus| v.group == self.cfg.group && self.cfg.volumes.contains(&v.volume);
        self.replicas = replicas.map(|all| all.into_iter().filter(mine).collect());
        let mut down = std::mem::take(&mut self.link_down);
        let lost = |node: &NodeName| {
            self.volumes().into_iter().flatten().any(|v| {
                let peer = v.peers.iter().find(|p| p.node == *node);
                // One that has to resync holds writes up just as one that is away.
                v.role == Role::Primary && peer.is_none_or(|p| !connected(p.connection) || !p.resynced)
            })
        };
        for node in &self.cfg.nodes {
            if !lost(node) {
                down.remove(node);
            } else if !down.contains_key(node) {
                down.insert(node.clone(), self.now);
            }
        }
        self.link_down = down;
    }

    /// Why a member of E must be removed, if it must.
    pub(super) fn lost(&self, member: &Member) -> Option<String> {
        let t = self.cfg.timers;
        let node = &member.node;
        if !self.cfg.nodes.contains(node) {
            return Some(format!("{node} is no longer in the specification"));
        }
        let sent = self.facts.beats.promises.get(node).map_or(Instant::ZERO, |p| p.sent);
        if self.now.since(sent.max(self.led_since).max(self.awake_since)) >= t.warntime {
            return Some(format!("{node} has acknowledged no heartbeat for {} ms", t.warntime.as_millis()));
        }
        let beat = self.facts.peers.get(node).and_then(|p| p.groups.get(&self.cfg.group));
        let said = beat.map(|b| b.boot).filter(|b| b.0 != 0);
        if [said, self.peer_boot(node)].into_iter().flatten().any(|b| b != member.boot) {
            return Some(format!("{node} has rebooted: what it held in memory is gone"));
        }
        let timed_out = |p: &&PeerStatus| p.connection == ConnectionState::Timeout;
        if self.peer(node).is_some_and(|all| all.iter().any(timed_out)) && self.primary() {
            return Some(format!("{node} does not acknowledge writes"));
        }
        let unwaited = |p: &&PeerStatus| p.protocol == Protocol::A;
        if self.peer(node).is_some_and(|all| all.iter().any(unwaited)) {
            return Some(format!("{node} is reached by protocol A: it may lack acknowledged writes"));
        }
        // A broken connection may be made anew at once while the peer's heartbeats go on.
        let down = self.link_down.get(node).is_some_and(|since| self.now.since(*since) >= t.warntime);
        down.then(|| format!("the replication connection to {node} is down"))
    }

    fn primary(&self) -> bool {
        self.volumes().into_iter().flatten().any(|v| v.role == Role::Primary)
    }

    /// A fresh promise of the node is at hand.
    pub(super) fn promises(&self, node: &NodeName) -> bool {
        let p = self.facts.beats.promises.get(node);
        p.is_some_and(|p| self.now.since(p.sent) < self.cfg.timers.warntime)
    }

    /// Every volume says so about the node.
    pub(super) fn all_volumes(&self, node: &NodeName, what: fn(&PeerStatus) -> bool) -> bool {
        self.cfg.volumes.is_empty() || self.peer(node).is_some_and(|all| all.into_iter().all(what))
    }

    /// E for writes: every set that may be current, and the node that is being admitted.
    pub(super) fn required(&self) -> Vec<Member> {
        let mut set = self.members();
        if let Some(a) = self.admission.as_ref().filter(|a| !a.sent || self.rules.on(Rule::Union))
            && !set.iter().any(|m| m.node == a.member.node)
        {
            set.push(a.member.clone());
        }
        set.sort();
        set
    }

    /// E for promises: every set that may be current.
    pub(super) fn promisers(&self) -> Vec<NodeName> {
        let mut set: Vec<NodeName> = self.members().into_iter().map(|m| m.node).collect();
        if let Some(a) = self.admission.as_ref().filter(|a| a.sent && self.rules.on(Rule::Union))
            && !set.contains(&a.member.node)
        {
            set.push(a.member.node.clone());
        }
        set
    }

    /// The in-sync set without this node. While etcd answers with a foreign record, the last trusted one.
    pub(super) fn members(&self) -> Vec<Member> {
        let leaves = |m: &&Member| match self.ledger.in_flight() {
            Some(TxnKind::Remove(nodes)) if !self.rules.keeps(Detail::MemberStays) => nodes.contains(&m.node),
            _ => false,
        };
        self.set.iter().filter(|m| m.node != self.cfg.me && !leaves(m)).cloned().collect()
    }

    /// Candidates outside of E: only a group without volumes has such that could win.
    pub(super) fn outsiders(&self, members: &[NodeName]) -> Vec<NodeName> {
        if !self.cfg.volumes.is_empty() {
            return Vec::new();
        }
        let outside = |n: &&NodeName| **n != self.cfg.me && !members.contains(n);
        self.candidates.iter().filter(outside).cloned().collect()
    }

    /// Until when the lease counts: only while the leader key stands under this very lease.
    pub(super) fn lease_until(&self) -> Option<Instant> {
        let etcd = self.facts.etcd;
        let key = self.view().and_then(|v| v.leader.as_ref());
        let mine =
            |key: &Versioned<LeaderKey>| key.value.node == self.cfg.me && key.value.epoch == self.epoch;
        let under = key.is_some_and(|k| mine(k) && k.lease == etcd.lease) || !self.rules.on(Rule::LeaseKey);
        (under && etcd.lease != 0).then_some(etcd.lease_until)
    }

    fn desired(&self, volume: &VolumeStatus) -> Option<Desired> {
        let secondary = |epoch, force| {
            Some(Desired {
                epoch,
                role: Role::Secondary,
                required: Vec::new(),
                accept_data_loss: false,
                force,
                order: 0, // The driver's: it knows the time of sending.
                membership: Membership::Untold,
            })
        };
        let primary = || {
            let required = self.required();
            let epoch = self.epoch;
            let (accept_data_loss, force, order) = (false, false, 0);
            let membership = self.membership();
            // Others have writes that this replica lacks: it goes on being primary, and does not become it.
            let may = volume.role == Role::Primary || membership != Membership::Left;
            let role = Role::Primary;
            let desired = Desired { epoch, role, required, accept_data_loss, force, order, membership };
            may.then_some(desired)
        };
        // A replicator that died as primary is primary again, or lets the device go, as if it had not died.
        let is_primary = volume.role == Role::Primary || volume.held;
        match self.state {
            State::Joining => None,
            State::Standby | State::Campaigning if is_primary => secondary(self.known(), true),
            State::Standby | State::Campaigning => None,
            // Already primary: resumed in place; the set in force must be told.
            State::Waiting | State::Fenced if is_primary => primary(),
            State::Waiting | State::Fenced => None,
            State::Starting | State::Serving => primary(),
            State::HandingOver if is_primary && self.run.free => secondary(self.epoch, false),
            State::HandingOver | State::Failed if is_primary => primary(),
            State::HandingOver | State::Failed => None,
        }
    }

    pub(super) fn step_volumes(&mut self) {
        let wanted: Vec<(VolumeName, Desired)> = self
            .volumes()
            .into_iter()
            .flatten()
            .filter_map(|v| Some((v, self.desired(v)?)))
            .filter(|(v, d)| !fulfilled(v, d))
            .map(|(v, d)| (v.volume.clone(), d))
            .collect();
        for (volume, desired) in wanted {
            let call = self.calls.entry(volume.clone()).or_default();
            if !call.in_flight && self.now >= call.retry_at {
                call.in_flight = true;
                self.out.push(Action::SetVolume(volume, desired));
            }
        }
    }

    pub(super) fn on_volume_set(&mut self, volume: &VolumeName, result: Result<(), String>) {
        let retry_at = self.now.plus(RETRY);
        let call = self.calls.entry(volume.clone()).or_default();
        call.in_flight = false;
        call.error = result.err();
        if call.error.is_some() {
            call.retry_at = retry_at;
        }
    }

    /// All volumes are secondary and nothing of the group runs any more.
    pub(super) fn let_go(&self) -> bool {
        self.run.free
            && self.run.phase == Phase::Stopped
            && (self.cfg.volumes.is_empty()
                || self.volumes().is_some_and(|all| all.iter().all(|v| v.role == Role::Secondary && !v.held)))
    }

    /// The first volume of this leader whose I/O has been frozen for longer than `peer_timeout`.
    pub(super) fn frozen(&self) -> Option<String> {
        let long = |v: &&VolumeStatus| {
            v.frozen_since.is_some_and(|since| self.now.since(since) >= self.cfg.timers.peer_timeout)
        };
        let v = self.volumes()?.into_iter().filter(|v| v.role == Role::Primary).find(long)?;
        Some(format!(
            "I/O of volume {} is frozen: {}",
            v.volume,
            v.frozen.as_deref().unwrap_or("no reason given")
        ))
    }
}

fn connected(state: ConnectionState) -> bool {
    match state {
        ConnectionState::Connected | ConnectionState::SyncSource | ConnectionState::SyncTarget => true,
        ConnectionState::StandAlone
        | ConnectionState::Connecting
        | ConnectionState::Handshake
        | ConnectionState::Timeout => false,
    }
}

/// Whether the replica is what it should be.
fn fulfilled(v: &VolumeStatus, d: &Desired) -> bool {
    let mut required = v.required.clone();
    required.sort();
    match d.role {
        Role::Secondary => v.role == Role::Secondary && !v.held,
        Role::Primary => {
            // A replicator of the release before does not say.
            let told = v.membership.is_none_or(|m| m == d.membership);
            v.role == Role::Primary && v.epoch == d.epoch && required == d.required && told
        }
    }
}
