//! The keeper's thread: looks what is, asks `plan` what to do, does it, looks again.
//!
//! Owns every held address from its first announcement to its removal. Each pass is level-triggered: a wake-up
//! (new serve-until, kernel report, command, time) only makes it look sooner. If it dies, addresses end with
//! their kernel lifetime.

use super::defend::Conflict;
use super::look::chain;
use super::plan::{self, LIFETIME_S, Presence, Step, View};
use super::{Command, KeeperError, KeeperEvent, RemovalReason, Reply, Shared, Wanted, lock};
use crate::net::NetError;
use crate::net::announce::{self, Announcer};
use crate::net::claims::Claims;
use crate::net::gate::Gate;
use crate::net::interface::{self, Choice};
use crate::net::monitor::Monitor;
use crate::net::netlink::{Link, Listed, Netlink};
use baton_replicator::types::{GroupName, Instant};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest sleep while something is held. The runtime's timers stand still while the machine is suspended, so
/// this is also how soon after a resume a lapsed address goes.
const TICK: Duration = plan::EXTEND_EVERY;
/// Longest sleep while nothing is held, and how often links are listed without a report of the kernel.
pub(super) const IDLE_TICK: Duration = Duration::from_secs(1);
/// What the thread starts with.
pub(super) struct Setup {
    pub own_address: IpAddr,
    pub fencetime: Duration,
    pub clock: fn() -> Instant,
    pub on_event: Box<dyn Fn(KeeperEvent) + Send>,
    pub shared: Arc<Shared>,
    pub queue: mpsc::Receiver<Command>,
}

/// One held address.
pub(super) struct Slot {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    pub(super) preferred: bool,
    pub(super) place: Option<Choice>,
    pub(super) up: bool,
    pub(super) extended: Instant,
    pub(super) up_since: Instant,
    pub(super) announced: u32,
    /// Since when the gate is to open for it.
    pub(super) asked: Option<Instant>,
    pub(super) conflict: Option<Conflict>,
    pub(super) error: Option<NetError>,
}

impl Slot {
    pub(super) fn new(wanted: Wanted) -> Self {
        let Wanted { address, prefix, preferred } = wanted;
        Self {
            address,
            prefix,
            preferred,
            place: None,
            up: false,
            extended: Instant::ZERO,
            up_since: Instant::ZERO,
            announced: 0,
            asked: None,
            conflict: None,
            error: None,
        }
    }
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) slots: Vec<Slot>,
    /// Who waits for `hold`, and until when.
    pub(super) waiting: Option<(Instant, Reply<()>)>,
    /// Who is told, and what, once the snapshot shows it.
    pub(super) told: Option<(Reply<()>, Result<(), KeeperError>)>,
}

pub(super) struct Keeper {
    pub(super) setup: Setup,
    pub(super) netlink: Netlink,
    pub(super) announcer: Announcer,
    pub(super) monitor: Monitor,
    pub(super) claims: Claims,
    pub(super) held: BTreeMap<GroupName, Held>,
    pub(super) lingering: Vec<IpAddr>,
    /// Of a look that succeeded; empty before the first.
    pub(super) addresses: Vec<Listed>,
    pub(super) links: Vec<Link>,
    pub(super) looked: Instant,
    pub(super) looked_at_links: Instant,
    /// Carrier of the interfaces that were reported.
    pub(super) carriers: BTreeMap<String, bool>,
    pub(super) own_interface: Option<String>,
    pub(super) look_error: Option<NetError>,
}

/// Body of the thread. Sends exactly one outcome to `started`.
pub(super) fn thread(setup: Setup, started: &SyncSender<Result<(), NetError>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = started.send(Err(NetError::refused("start the address keeper's runtime", e)));
            return;
        }
    };
    runtime.block_on(async {
        match Keeper::open(setup).await {
            Ok(keeper) => {
                // Whoever started us may have given up waiting; then the queue is closed and the loop ends.
                let _ = started.send(Ok(()));
                keeper.run().await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    });
}

impl Keeper {
    async fn open(setup: Setup) -> Result<Self, NetError> {
        let (netlink, announcer, monitor) = (Netlink::open()?, Announcer::open()?, Monitor::open()?);
        let claims = Claims::open()?;
        let mut keeper = Self {
            setup,
            netlink,
            announcer,
            monitor,
            claims,
            held: BTreeMap::new(),
            lingering: Vec::new(),
            addresses: Vec::new(),
            links: Vec::new(),
            looked: Instant::ZERO,
            looked_at_links: Instant::ZERO,
            carriers: BTreeMap::new(),
            own_interface: None,
            look_error: None,
        };
        keeper.look(true).await;
        keeper.publish();
        Ok(keeper)
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.setup.shared);
        loop {
            let rest = self.rest();
            let mut changed = false;
            let mut command = None;
            let mut claim = None;
            tokio::select! {
                biased;
                received = self.setup.queue.recv() => match received {
                    Some(received) => command = Some(received),
                    None => break,
                },
                () = shared.wake.notified() => {}
                () = self.monitor.changed() => changed = true,
                heard = self.claims.heard() => claim = heard,
                () = tokio::time::sleep(rest) => {}
            }
            // What must go goes before anything else is looked at.
            self.fence().await;
            if let Some(command) = command {
                self.carry_out(command).await;
                changed = true;
            }
            if let Some((address, mac)) = claim {
                self.claimed(address, mac);
            }
            self.pass(changed).await;
            for news in shared.gate.iter().flat_map(Gate::news) {
                self.tell(KeeperEvent::Gate(news));
            }
            self.publish();
            for held in self.held.values_mut() {
                if let Some((reply, outcome)) = held.told.take() {
                    let _ = reply.send(outcome);
                }
            }
        }
        for group in self.held.keys().cloned().collect::<Vec<_>>() {
            let _ = self.let_go(&group, RemovalReason::Released).await;
        }
        self.publish();
    }

    pub(super) fn now(&self) -> Instant {
        (self.setup.clock)()
    }

    pub(super) fn until(&self, group: &GroupName) -> Option<Instant> {
        lock(&self.setup.shared.until).get(group).copied()
    }

    pub(super) fn tell(&self, event: KeeperEvent) {
        (self.setup.on_event)(event);
    }

    /// How long nothing needs to be done.
    fn rest(&self) -> Duration {
        if self.held.is_empty() {
            return IDLE_TICK;
        }
        let now = self.now();
        let mut next = now.plus(TICK);
        for (group, held) in &self.held {
            // A lapsed group is up only because the kernel refused to remove it: once per tick is enough.
            let Some(until) = self.until(group).filter(|until| *until > now) else { continue };
            for slot in held.slots.iter().filter(|s| s.up) {
                next = next.min(slot.up_since.plus(announce::due_after(slot.announced))).min(until);
            }
        }
        next.since(now)
    }

    /// Removes what is up and has no right to be, without looking first.
    async fn fence(&mut self) {
        for group in self.held.keys().cloned().collect::<Vec<_>>() {
            if plan::lapsed(self.until(&group), self.now()) {
                self.take_down(&group, RemovalReason::Fenced).await;
            }
        }
    }

    async fn pass(&mut self, changed: bool) {
        let now = self.now();
        let starting = self.held.iter().any(|(group, held)| {
            plan::entitled(self.until(group), now, self.setup.fencetime) && held.slots.iter().any(|s| !s.up)
        });
        let tick = if self.held.is_empty() { IDLE_TICK } else { TICK };
        let looked = (changed || starting || now.since(self.looked) >= tick) && self.look(changed).await;
        let managed = self.managed();
        for group in self.held.keys().cloned().collect::<Vec<_>>() {
            // Taken out while we work on it, so that the borrow of `self` is free.
            let Some(mut held) = self.held.remove(&group) else { continue };
            for slot in &mut held.slots {
                let presence = if looked { self.presence(slot.address) } else { Presence::Unknown };
                self.tend(&group, slot, presence, &managed).await;
            }
            self.answer(&mut held);
            self.held.insert(group, held);
        }
    }

    fn presence(&self, address: IpAddr) -> Presence {
        let found = self.addresses.iter().filter(|l| l.address == address);
        // One without a lifetime outweighs one with.
        found.fold(Presence::Absent, |seen, l| match (seen, l.valid_lft_s) {
            (Presence::Permanent, _) | (_, None) => Presence::Permanent,
            (_, Some(_)) => Presence::Ours,
        })
    }

    async fn tend(&mut self, group: &GroupName, slot: &mut Slot, presence: Presence, managed: &[IpAddr]) {
        let now = self.now();
        let view = View { up: slot.up, presence, until: self.until(group), now, extended: slot.extended };
        match plan::step(&view, self.setup.fencetime) {
            Step::Rest => {}
            // What it announces must get through.
            Step::Add if self.gate_opens(slot) => {}
            Step::Add => self.put_up(group, slot, managed).await,
            Step::Extend => self.extend(group, slot).await,
            Step::Readd => {
                slot.up = false;
                self.tell(KeeperEvent::Vanished { group: group.clone(), address: slot.address });
                self.put_up(group, slot, managed).await;
            }
            Step::Expired => {
                slot.up = false;
                let why = RemovalReason::Expired;
                self.tell(KeeperEvent::Removed { group: Some(group.clone()), address: slot.address, why });
            }
            Step::Remove => {
                // Fenced, or left by an earlier run and no longer ours to serve.
                let _ = self.remove(Some(group), slot, RemovalReason::Fenced).await;
            }
            Step::Refuse => {
                slot.up = false;
                let permanent = |l: &&Listed| l.address == slot.address && l.valid_lft_s.is_none();
                let at = self.addresses.iter().find(permanent).map_or(0, |l| l.index);
                let interface =
                    self.links.iter().find(|l| l.index == at).map_or("?".into(), |l| l.name.clone());
                self.failed(slot, NetError::Foreign { address: slot.address, interface });
            }
        }
        self.defend(group, slot);
        let due = slot.up && self.now() >= slot.up_since.plus(announce::due_after(slot.announced));
        if due && !plan::lapsed(self.until(group), self.now()) {
            self.announce(slot);
        }
    }

    /// Puts the address on the interface where it belongs and announces it.
    async fn put_up(&mut self, group: &GroupName, slot: &mut Slot, managed: &[IpAddr]) {
        let (address, own) = (slot.address, self.setup.own_address);
        let Some(choice) = interface::choose(address, own, &self.addresses, &self.links, managed) else {
            return self.failed(slot, NetError::NoInterface { address, own });
        };
        let name = choice.link.name.clone();
        slot.place = Some(choice);
        self.extend(group, slot).await;
        // Extending notices by itself if time ran out meanwhile.
        if slot.error.is_some() || plan::lapsed(self.until(group), self.now()) {
            return;
        }
        slot.up = true;
        slot.up_since = self.now();
        slot.announced = 0;
        self.announce(slot);
        self.tell(KeeperEvent::Up { group: group.clone(), address, interface: name });
    }

    /// Gives the address its next lifetime. The thread may have been stopped between the decision and the
    /// request; if serve-until has passed meanwhile, the address goes at once.
    async fn extend(&mut self, group: &GroupName, slot: &mut Slot) {
        let Some(place) = &slot.place else { return };
        let (index, connected) = (place.link.index, place.connected);
        let wanted = (slot.prefix, slot.preferred);
        let given = self.netlink.add_or_extend(index, slot.address, wanted, LIFETIME_S, connected).await;
        match given {
            Ok(()) => {
                slot.extended = self.now();
                slot.error = None;
            }
            Err(error) => self.failed(slot, error),
        }
        if plan::lapsed(self.until(group), self.now()) {
            let _ = self.remove(Some(group), slot, RemovalReason::Fenced).await;
        }
    }

    pub(super) fn announce(&mut self, slot: &mut Slot) {
        // A refresh that is late (suspend) is sent once, not as often as it was missed.
        let now = self.now();
        while slot.up_since.plus(announce::due_after(slot.announced)) <= now {
            slot.announced = slot.announced.saturating_add(1);
        }
        let Some(place) = &slot.place else { return };
        // As last listed: it may have changed since the address came up. Interfaces without one need no ARP.
        let link = self.links.iter().find(|l| l.index == place.link.index);
        let Some(mac) = link.and_then(|l| l.mac) else { return };
        match self.announcer.announce(place.link.index, mac, slot.address) {
            Ok(()) => slot.error = None,
            Err(error) => self.failed(slot, error),
        }
    }

    pub(super) async fn remove(
        &mut self,
        group: Option<&GroupName>,
        slot: &mut Slot,
        why: RemovalReason,
    ) -> Result<(), NetError> {
        let listed = self.addresses.iter().find(|l| l.address == slot.address && l.valid_lft_s.is_some());
        let place = slot.place.as_ref().map(|p| (p.link.index, slot.prefix));
        let Some((index, prefix)) = place.or(listed.map(|l| (l.index, l.prefix))) else { return Ok(()) };
        if let Err(error) = self.netlink.remove(index, slot.address, prefix).await {
            self.failed(slot, error.clone());
            return Err(error);
        }
        slot.up = false;
        slot.place = None;
        slot.error = None;
        self.addresses.retain(|l| l.address != slot.address);
        self.tell(KeeperEvent::Removed { group: group.cloned(), address: slot.address, why });
        Ok(())
    }

    /// Reports an error once, until another one or a success takes its place.
    fn failed(&self, slot: &mut Slot, error: NetError) {
        let known = slot.error.as_ref().is_some_and(|e| chain(e) == chain(&error));
        slot.error = Some(error.clone());
        if !known {
            self.tell(KeeperEvent::Failed { address: Some(slot.address), error });
        }
    }

    /// Removes all of the group's addresses that are up.
    async fn take_down(&mut self, group: &GroupName, why: RemovalReason) -> Option<NetError> {
        let mut held = self.held.remove(group)?;
        let mut first = None;
        for slot in held.slots.iter_mut().filter(|s| s.up) {
            first = first.or(self.remove(Some(group), slot, why).await.err());
        }
        self.held.insert(group.clone(), held);
        first
    }
}
