//! What the keeper does on command: hold, release, linger, strays. Every command is answered exactly once.

use super::run::{Held, Keeper, Slot};
use super::{Command, GATE_TIMEOUT, KeeperError, KeeperEvent, RemovalReason, Reply, Wanted, plan};
use crate::net::NetError;
use baton_replicator::types::GroupName;
use std::net::IpAddr;
use std::time::Duration;

/// How long `hold` waits for serve-until to get far enough ahead. A leader that is entitled sends it every
/// keepalive, so this is long; it only has to end before an operator wonders.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

impl Keeper {
    /// Carries out one command. That nobody waits for an answer any more is fine.
    pub(super) async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Hold { group, addresses, reply } => self.hold(group, &addresses, reply).await,
            Command::Release { group, reply } => {
                let outcome = self.let_go(&group, RemovalReason::Released).await;
                self.publish();
                let _ = reply.send(outcome.map_err(KeeperError::Net));
            }
            Command::Linger { group, lifetime_s, reply } => {
                let outcome = self.linger(&group, lifetime_s).await;
                self.publish();
                let _ = reply.send(outcome);
            }
            Command::Configure { own_address, fencetime, reply } => {
                (self.setup.own_address, self.setup.fencetime) = (own_address, fencetime);
                let _ = reply.send(Ok(()));
            }
            Command::Strays { addresses, reply } => {
                let _ = reply.send(self.strays(&addresses).await.map_err(KeeperError::Net));
            }
        }
    }

    async fn hold(&mut self, group: GroupName, addresses: &[Wanted], reply: Reply<()>) {
        let mut before = self.held.remove(&group).unwrap_or_default();
        give_up(&mut before);
        if let Some(gate) = &self.setup.shared.gate {
            let all: Vec<IpAddr> = addresses.iter().map(|w| w.address).collect();
            gate.want(&group, &all);
        }
        let asked = |s: &Slot| addresses.iter().find(|w| (w.address, w.prefix) == (s.address, s.prefix));
        let (mut kept, dropped): (Vec<Slot>, Vec<Slot>) =
            before.slots.into_iter().partition(|s| asked(s).is_some());
        for mut slot in dropped {
            // Reported by `remove`; without extension the kernel lifetime ends it.
            let _ = self.remove(Some(&group), &mut slot, RemovalReason::Released).await;
        }
        for slot in &mut kept {
            slot.error = None;
            // Said with its next lifetime.
            slot.preferred = asked(slot).is_none_or(|w| w.preferred);
        }
        for wanted in addresses {
            self.lingering.retain(|l| *l != wanted.address);
            if !kept.iter().any(|s| s.address == wanted.address) {
                kept.push(Slot::new(*wanted));
            }
        }
        let waiting = Some((self.now().plus(HOLD_TIMEOUT), reply));
        self.held.insert(group, Held { slots: kept, waiting, told: None });
    }

    /// Tells the one who waits for `hold`, if there is something to tell.
    pub(super) fn answer(&self, held: &mut Held) {
        let Some((deadline, reply)) = held.waiting.take() else { return };
        let failed = held.slots.iter().find_map(|s| s.error.clone().filter(|_| !s.up));
        let outcome = if held.slots.iter().all(|s| s.up) {
            Ok(())
        } else if let Some(error) = failed.or_else(|| self.look_error.clone()) {
            Err(KeeperError::Net(error))
        } else if self.now() >= deadline {
            Err(KeeperError::NotEntitled { waited: HOLD_TIMEOUT })
        } else {
            held.waiting = Some((deadline, reply));
            return;
        };
        // Who is told looks at the snapshot next.
        held.told = Some((reply, outcome));
    }

    /// Removes all addresses of the group and forgets it. What the kernel refuses to remove is not extended any
    /// more, so that its lifetime ends it.
    pub(super) async fn let_go(&mut self, group: &GroupName, why: RemovalReason) -> Result<(), NetError> {
        let Some(mut held) = self.held.remove(group) else { return Ok(()) };
        give_up(&mut held);
        if let Some(gate) = &self.setup.shared.gate {
            gate.want(group, &[]);
        }
        let mut outcome = Ok(());
        for slot in held.slots.iter_mut().filter(|s| s.up) {
            outcome = outcome.and(self.remove(Some(group), slot, why).await);
        }
        if held.slots.iter().any(|s| s.place.is_none()) && self.look(false).await {
            // Never put up by us, but perhaps left by an earlier run of the agent.
            for slot in held.slots.iter_mut().filter(|s| s.place.is_none()) {
                outcome = outcome.and(self.remove(Some(group), slot, why).await);
            }
        }
        outcome
    }

    async fn linger(&mut self, group: &GroupName, asked_s: u32) -> Result<u32, KeeperError> {
        let lifetime_s = plan::linger_s(asked_s, self.until(group), self.now());
        let mut held = self.held.remove(group).ok_or(KeeperError::NotHeld)?;
        give_up(&mut held);
        let mut outcome = Ok(lifetime_s);
        for slot in held.slots.iter().filter(|s| s.up) {
            self.lingering.push(slot.address);
            let Some(place) = slot.place.as_ref().filter(|_| lifetime_s > plan::LIFETIME_S) else { continue };
            let (index, connected) = (place.link.index, place.connected);
            let wanted = (slot.prefix, slot.preferred);
            let given = self.netlink.add_or_extend(index, slot.address, wanted, lifetime_s, connected).await;
            outcome = given.map_err(KeeperError::Net).and(outcome);
        }
        // The gate stays open as long; it has to know before this process ends.
        if let Some(gate) = &self.setup.shared.gate
            && !gate.settle(GATE_TIMEOUT)
        {
            tracing::warn!(%group, "nftables took too long: packets may stop before the addresses go");
        }
        outcome
    }

    async fn strays(&mut self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NetError> {
        if !self.look(false).await {
            return Err(self
                .look_error
                .clone()
                .unwrap_or(NetError::Timeout { what: "list addresses".into(), timeout_ms: 0 }));
        }
        let ours = self.managed();
        let stray = |address: &IpAddr| addresses.contains(address) && !ours.contains(address);
        let found: Vec<_> =
            self.addresses.iter().filter(|l| l.valid_lft_s.is_some() && stray(&l.address)).copied().collect();
        let mut outcome = Ok(());
        let mut removed = Vec::new();
        for listed in found {
            match self.netlink.remove(listed.index, listed.address, listed.prefix).await {
                Ok(()) => {
                    removed.push(listed.address);
                    let (address, why) = (listed.address, RemovalReason::Stray);
                    self.tell(KeeperEvent::Removed { group: None, address, why });
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| removed)
    }

    /// All addresses that this keeper put up or lets linger.
    pub(super) fn managed(&self) -> Vec<IpAddr> {
        let held = self.held.values().flat_map(|h| &h.slots).map(|s| s.address);
        held.chain(self.lingering.iter().copied()).collect()
    }
}

/// Tells the one who waits that it is over.
fn give_up(held: &mut Held) {
    if let Some((_, reply)) = held.waiting.take() {
        let _ = reply.send(Err(KeeperError::Released));
    }
}
