//! What comes before and after an address stands: that the gate is open for it, and that no other machine has it.

use super::run::{Keeper, Slot};
use super::{GATE_TIMEOUT, KeeperEvent, plan};
use crate::net::frames::Mac;
use baton_replicator::types::{GroupName, Instant};
use std::net::IpAddr;
use std::time::Duration;

/// How often an address that somebody else has, too, is announced: neighbours change an entry once a second at most.
const DEFEND_EVERY: Duration = Duration::from_secs(1);
/// With each announcement the other machine is asked; it is gone when that many seconds went by without an answer.
const CONFLICT_OVER: Duration = Duration::from_secs(5);

/// Another machine that has the address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conflict {
    pub(super) mac: Mac,
    heard: Instant,
    answered: Instant,
}

impl Keeper {
    /// Somebody else says that an address that is up here is theirs.
    pub(super) fn claimed(&mut self, address: IpAddr, mac: Mac) {
        let now = self.now();
        let mut news = None;
        for (group, held) in &mut self.held {
            for slot in held.slots.iter_mut().filter(|s| s.up && s.address == address) {
                // Told once however many they are: whoever forges claims must not fill the history.
                if slot.conflict.is_none() {
                    news = Some(KeeperEvent::Conflict { group: group.clone(), address, mac });
                }
                let answered = slot.conflict.map_or(Instant::ZERO, |c| c.answered);
                slot.conflict = Some(Conflict { mac, heard: now, answered });
            }
        }
        news.into_iter().for_each(|event| self.tell(event));
    }

    /// Whoever leads has the address: neighbours are told again, and the other machine is asked again.
    pub(super) fn defend(&mut self, group: &GroupName, slot: &mut Slot) {
        let now = self.now();
        let Some(mut conflict) = slot.conflict else { return };
        if !slot.up {
            slot.conflict = None;
        } else if now.since(conflict.heard) >= CONFLICT_OVER {
            slot.conflict = None;
            self.tell(KeeperEvent::ConflictOver { group: group.clone(), address: slot.address });
        } else if now.since(conflict.answered) >= DEFEND_EVERY && !plan::lapsed(self.until(group), now) {
            conflict.answered = now;
            slot.conflict = Some(conflict);
            self.announce(slot);
        }
    }

    /// The gate does not let the address pass yet, but is about to.
    pub(super) fn gate_opens(&self, slot: &mut Slot) -> bool {
        let now = self.now();
        let passes = self.setup.shared.gate.as_ref().is_none_or(|gate| gate.passes(slot.address));
        if passes {
            slot.asked = None;
            return false;
        }
        now.since(*slot.asked.get_or_insert(now)) < GATE_TIMEOUT
    }
}
