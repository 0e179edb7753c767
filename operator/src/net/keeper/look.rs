//! The keeper's eyes: what the kernel has, which links carry, and the snapshot that status reads.

use super::run::{IDLE_TICK, Keeper};
use super::{AddressState, KeeperEvent, LinkState, lock};
use crate::net::{NetError, interface};
use std::collections::BTreeMap;
use std::error::Error;

impl Keeper {
    /// Lists addresses, and links if asked to or if the last list is old. False if the kernel did not answer.
    pub(super) async fn look(&mut self, links: bool) -> bool {
        let now = self.now();
        let mut outcome = self.netlink.addresses().await.map(|listed| self.addresses = listed);
        if outcome.is_ok() && (links || now.since(self.looked_at_links) >= IDLE_TICK) {
            outcome = self.netlink.links().await.map(|listed| self.links = listed);
            if outcome.is_ok() {
                self.looked_at_links = now;
                self.watch_carriers();
            }
        }
        self.looked = now;
        match outcome {
            Ok(()) => self.look_error = None,
            Err(error) => {
                let known = self.look_error.as_ref().is_some_and(|e| chain(e) == chain(&error));
                self.look_error = Some(error.clone());
                if !known {
                    self.tell(KeeperEvent::Failed { address: None, error });
                }
            }
        }
        self.look_error.is_none()
    }

    /// Reports the carrier of the node's own interface and of those that hold addresses, when it changes. Where
    /// it came back, a new burst of announcements is due: the cable may be in another switch.
    fn watch_carriers(&mut self) {
        let own = interface::own_link(self.setup.own_address, &self.addresses, &self.links);
        if let Some(own) = own {
            self.own_interface = Some(own.name.clone());
        }
        let places = self.held.values().flat_map(|h| &h.slots).filter_map(|s| s.place.as_ref());
        let names = places.map(|p| p.link.name.clone()).chain(self.own_interface.clone());
        let carriers: BTreeMap<String, bool> =
            names.map(|name| (name.clone(), self.carrier(&name))).collect();
        for (interface, carrier) in &carriers {
            if self.carriers.get(interface).is_some_and(|before| before != carrier) {
                self.tell(KeeperEvent::Link(LinkState { interface: interface.clone(), carrier: *carrier }));
                let now = self.now();
                let slots = self.held.values_mut().flat_map(|h| &mut h.slots);
                for slot in
                    slots.filter(|s| *carrier && s.place.as_ref().is_some_and(|p| p.link.name == *interface))
                {
                    (slot.up_since, slot.announced) = (now, 0);
                }
            }
        }
        self.carriers = carriers;
    }

    fn carrier(&self, interface: &str) -> bool {
        self.links.iter().any(|l| l.name == interface && l.carrier)
    }

    /// Puts down for others how things are.
    pub(super) fn publish(&self) {
        let held = self.held.values().flat_map(|held| &held.slots);
        self.claims.watch(held.filter(|slot| slot.up).map(|slot| slot.address), &self.links);
        let mut addresses = Vec::new();
        for (group, held) in &self.held {
            for slot in &held.slots {
                let interface = slot.place.as_ref().map(|p| p.link.name.clone());
                addresses.push(AddressState {
                    group: group.clone(),
                    address: slot.address,
                    prefix: slot.prefix,
                    up: slot.up,
                    carrier: interface.as_deref().is_some_and(|i| self.carrier(i)),
                    interface,
                    conflict: slot.conflict.map(|c| c.mac),
                    error: slot.error.as_ref().map(chain),
                });
            }
        }
        let own = self.own_interface.as_ref();
        let own = own.map(|i| LinkState { interface: i.clone(), carrier: self.carrier(i) });
        let mut snapshot = lock(&self.setup.shared.snapshot);
        snapshot.addresses = addresses;
        snapshot.own = own;
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &NetError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
