//! The gate's thread: looks what should stand in the sets, puts it there, and sees that the tables are as they
//! should be. If it dies, what stands in the sets ends at its serve-until.

use super::plan::{self, Element, Step};
use super::rules::{self, ARP, INET};
use super::socket::Nft;
use super::wire::{Attrs, attr, attrs};
use super::{GateEvent, GateState, Inner, lock};
use crate::causes::chain;
use crate::net::NetError;
use baton_replicator::types::{GroupName, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// How often elements are moved on while something may be served, in one transaction for all groups: a tenth of what is
/// left until serve-until, within these bounds.
const TICK: Duration = Duration::from_millis(100);
/// See [`TICK`].
const TICK_MIN: Duration = Duration::from_millis(20);
/// How often it is looked whether somebody changed rules.
const LOOK: Duration = Duration::from_millis(250);
/// A kernel without nftables is asked again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Our tables as they stood right after they were made: handles of their rules, which no other rule gets.
type Handles = [Vec<u64>; 2];

struct Runner<'a> {
    inner: &'a Inner,
    table: &'a str,
    nft: Option<Nft>,
    elements: BTreeMap<IpAddr, Element>,
    /// What the tables guard, if they are in force.
    installed: Option<(BTreeSet<IpAddr>, Handles)>,
    /// The kernel's number of its last transaction, as last seen.
    generation: Option<u32>,
    looked: Instant,
    /// After a refusal: not before then.
    retry: Instant,
}

/// What is to be, copied from under the lock.
struct Wish {
    until: BTreeMap<GroupName, Instant>,
    wanted: BTreeMap<IpAddr, GroupName>,
    guarded: BTreeSet<IpAddr>,
    asked: u64,
    stop: bool,
}

/// Body of the thread.
pub(super) fn thread(inner: &Inner, table: &str) {
    let mut runner = Runner {
        inner,
        table,
        nft: None,
        elements: BTreeMap::new(),
        installed: None,
        generation: None,
        looked: Instant::ZERO,
        retry: Instant::ZERO,
    };
    loop {
        let wish = runner.wish();
        runner.round(&wish);
        if wish.stop {
            break;
        }
        runner.rest(&wish);
    }
    runner.end();
}

impl Runner<'_> {
    fn now(&self) -> Instant {
        (self.inner.clock)()
    }

    fn wish(&self) -> Wish {
        let desired = lock(&self.inner.desired);
        Wish {
            until: desired.until.clone(),
            wanted: desired.wanted.clone(),
            // What is held is guarded, whatever the specification says meanwhile.
            guarded: desired.guarded.iter().chain(desired.wanted.keys()).copied().collect(),
            asked: desired.asked,
            stop: desired.stop,
        }
    }

    fn rest(&self, wish: &Wish) {
        let now = self.now();
        let untils = wish.wanted.values().filter_map(|group| wish.until.get(group));
        let ahead = untils.filter(|until| **until > now).map(|until| until.since(now)).min();
        let pause = match ahead {
            _ if wish.wanted.is_empty() => LOOK,
            Some(ahead) => (ahead / 10).clamp(TICK_MIN, TICK),
            None => TICK,
        };
        let desired = lock(&self.inner.desired);
        // Woken early, or not: the next round looks all the same.
        drop(self.inner.changed.wait_timeout_while(desired, pause, |d| d.asked == wish.asked && !d.stop));
    }

    fn round(&mut self, wish: &Wish) {
        let now = self.now();
        lock(&self.inner.told).busy = Some(now);
        let waits = self.installed.is_none() && now < self.retry;
        let outcome = if waits { None } else { Some(self.enforce(wish)) };
        if let Some(Err(_)) = &outcome {
            // A socket in an unknown state is not used again.
            (self.nft, self.installed, self.generation) = (None, None, None);
            self.forget();
            self.retry = self.now().plus(RETRY);
        }
        self.tell(wish, outcome.map(|o| o.map_err(|e| chain(&e))));
    }

    /// One look and what follows from it. Whether the tables had to be made again.
    fn enforce(&mut self, wish: &Wish) -> Result<bool, NetError> {
        if self.nft.is_none() {
            self.nft = Some(Nft::open()?);
        }
        let mut restored = false;
        if self.installed.is_some() && self.now().since(self.looked) >= LOOK {
            restored = self.disturbed()?;
            self.looked = self.now();
        }
        let guards = self.installed.as_ref().map(|(guarded, _)| guarded);
        if restored || guards != Some(&wish.guarded) {
            self.install(&wish.guarded)?;
        }
        if !self.put(wish)? {
            // What the elements belong in is gone: somebody flushed the rules just now.
            restored = true;
            self.install(&wish.guarded)?;
            if !self.put(wish)? {
                return Err(NetError::refused(
                    "keep the nftables rules",
                    std::io::Error::other("they vanish"),
                ));
            }
        }
        Ok(restored)
    }

    /// Whether our tables are not as we made them. Looks closer only if somebody else changed any rule.
    fn disturbed(&mut self) -> Result<bool, NetError> {
        let generation = self.generation_now()?;
        if generation.is_some() && generation == self.generation {
            return Ok(false);
        }
        let handles = self.handles()?;
        let guarded = self.guarded()?;
        self.generation = generation;
        Ok(self.installed.as_ref() != Some(&(guarded, handles)))
    }

    fn install(&mut self, guarded: &BTreeSet<IpAddr>) -> Result<(), NetError> {
        let all: Vec<IpAddr> = guarded.iter().copied().collect();
        let nft = self.nft.as_mut().ok_or_else(closed)?;
        let mut batch = nft.batch();
        rules::install(&mut batch, self.table, &all);
        nft.commit(batch)?.map_err(|refused| refused.into_error("make nftables rules"))?;
        self.forget();
        let handles = self.handles()?;
        for (family, handles) in [INET, ARP].into_iter().zip(&handles) {
            if handles.len() != rules::rules_of(family) {
                let what = format!("{} rules stand where {} belong", handles.len(), rules::rules_of(family));
                return Err(NetError::refused("make nftables rules", std::io::Error::other(what)));
            }
        }
        self.installed = Some((guarded.clone(), handles));
        self.generation = self.generation_now()?;
        self.looked = self.now();
        Ok(())
    }

    /// Elements may be gone with the tables, or stand there all the same.
    fn forget(&mut self) {
        self.elements.values_mut().for_each(|element| *element = Element::Unknown);
    }

    /// Moves the elements on. False if the tables are not there.
    fn put(&mut self, wish: &Wish) -> Result<bool, NetError> {
        // Sent again if this process stood still between reading the clock and the kernel's answer.
        for _ in 0..4 {
            let now = self.now();
            let known = wish.wanted.keys().chain(self.elements.keys()).copied().collect::<BTreeSet<_>>();
            let steps: Vec<(IpAddr, Element, Step)> = known
                .into_iter()
                .map(|address| {
                    let group = wish.wanted.get(&address);
                    let until = group.and_then(|g| wish.until.get(g)).copied();
                    let element = self.elements.get(&address).copied().unwrap_or(Element::Unknown);
                    (address, element, plan::step(group.is_some(), until, element, now))
                })
                .filter(|(_, _, step)| *step != Step::Leave)
                .collect();
            if steps.is_empty() {
                break;
            }
            if !self.carry_out(&steps, now)? {
                return Ok(false);
            }
        }
        let wanted = |address: &IpAddr| wish.wanted.contains_key(address);
        self.elements.retain(|address, element| wanted(address) || *element != Element::Until(Instant::ZERO));
        Ok(true)
    }

    /// One transaction; a second one without what turned out to have ended already.
    fn carry_out(&mut self, steps: &[(IpAddr, Element, Step)], now: Instant) -> Result<bool, NetError> {
        for delete_first in [true, false] {
            let before = self.generation;
            let nft = self.nft.as_mut().ok_or_else(closed)?;
            let mut batch = nft.batch();
            let mut deletions = Vec::new();
            let mut sent = false;
            for (address, element, step) in steps {
                // An element keeps its first end: a new one takes its place in the same transaction.
                let stands = *element == Element::Unknown || matches!(element, Element::Until(e) if *e > now);
                if delete_first && stands {
                    deletions.extend(rules::close(&mut batch, self.table, *address));
                    sent = true;
                }
                if let Step::Open(until) = step {
                    rules::open(&mut batch, self.table, *address, plan::timeout_ms(*until, now).max(1));
                    sent = true;
                }
            }
            let outcome = if sent { nft.commit(batch)? } else { Ok(()) };
            match outcome {
                Ok(()) => {
                    let taken = self.now();
                    for (address, _, step) in steps {
                        let ends = match step {
                            Step::Open(until) => {
                                taken.plus(Duration::from_millis(plan::timeout_ms(*until, now).max(1)))
                            }
                            Step::Close | Step::Leave => Instant::ZERO,
                        };
                        self.elements.insert(*address, Element::Until(ends));
                    }
                    // Ours was one; if there are more, the next look compares.
                    self.generation = before.map(|g| g.wrapping_add(u32::from(sent)));
                    return Ok(true);
                }
                Err(refused) if delete_first && refused.only_missing(&deletions) => {}
                Err(refused) if refused.0.iter().all(|(_, errno)| *errno == libc::ENOENT) => {
                    return Ok(false);
                }
                Err(refused) => return Err(refused.into_error("move addresses on in nftables")),
            }
        }
        Ok(false)
    }

    fn generation_now(&mut self) -> Result<Option<u32>, NetError> {
        let nft = self.nft.as_mut().ok_or_else(closed)?;
        nft.get(rules::GETGEN, |object| Some(u32::from_be_bytes(attr(object, 1)?.try_into().ok()?)))
    }

    fn handles(&mut self) -> Result<Handles, NetError> {
        let nft = self.nft.as_mut().ok_or_else(closed)?;
        let mut list = |family| {
            let which = Attrs::default().text(1, self.table);
            let rules = nft.list(family, rules::GETRULE, &which, |rule| {
                // Kernels before 4.9 list the rules of all tables.
                let ours = attr(rule, 1)?.strip_suffix(&[0])? == self.table.as_bytes();
                let handle = u64::from_be_bytes(attr(rule, 3)?.try_into().ok()?);
                ours.then_some(handle)
            });
            rules.map(Option::unwrap_or_default)
        };
        Ok([list(INET)?, list(ARP)?])
    }

    /// What the sets of guarded addresses hold; an address that is missing in one of its sets counts as missing.
    fn guarded(&mut self) -> Result<BTreeSet<IpAddr>, NetError> {
        let nft = self.nft.as_mut().ok_or_else(closed)?;
        let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for set in rules::SETS.iter().filter(|s| !s.timed) {
            let which = Attrs::default().text(1, self.table).text(2, set.name);
            let lists = nft.list(set.family, rules::GETSETELEM, &which, |object| Some(keys(object)))?;
            for address in lists.unwrap_or_default().into_iter().flatten() {
                *seen.entry(address).or_default() += 1;
            }
        }
        // IPv4 addresses are in two tables.
        Ok(seen.into_iter().filter(|(a, n)| *n == if a.is_ipv4() { 2 } else { 1 }).map(|(a, _)| a).collect())
    }

    fn tell(&self, wish: &Wish, outcome: Option<Result<bool, String>>) {
        let mut told = lock(&self.inner.told);
        let (before, mut news) = (told.open.len(), None);
        match outcome {
            Some(Ok(restored)) => {
                if told.state != GateState::InForce {
                    news = Some(GateEvent::InForce);
                } else if restored {
                    told.restored += 1;
                    news = Some(GateEvent::Restored);
                }
                told.state = GateState::InForce;
            }
            Some(Err(why)) => {
                if told.state != GateState::Missing(why.clone()) {
                    news = Some(GateEvent::Missing(why.clone()));
                }
                told.state = GateState::Missing(why);
            }
            None => {}
        }
        let until = |element: &Element| match element {
            Element::Until(ends) if *ends > Instant::ZERO => Some(*ends),
            Element::Until(_) | Element::Unknown => None,
        };
        told.open = self.elements.iter().filter_map(|(a, e)| Some((*a, until(e)?))).collect();
        told.done = wish.asked;
        told.busy = None;
        let wake = news.is_some() || told.open.len() > before;
        // Nobody who reads them: the newest are enough.
        if told.news.len() < 64 {
            told.news.extend(news);
        }
        drop(told);
        self.inner.settled.notify_all();
        if wake {
            self.inner.wake.notify_one();
        }
    }

    /// The tables go if nothing passes any more; else the next agent finds them.
    fn end(&mut self) {
        let now = self.now();
        let passes = self.elements.values().any(|e| matches!(e, Element::Until(ends) if *ends > now));
        if passes || self.installed.is_none() {
            return;
        }
        let Some(nft) = self.nft.as_mut() else { return };
        let mut batch = nft.batch();
        rules::remove(&mut batch, self.table);
        match nft.commit(batch) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => {
                let error = refused.into_error("remove the nftables rules");
                tracing::warn!(error = %chain(&error), "nftables rules are left behind");
            }
            Err(error) => tracing::warn!(error = %chain(&error), "nftables rules are left behind"),
        }
    }
}

/// The addresses in a list of elements.
fn keys(object: &[u8]) -> Vec<IpAddr> {
    let elements = attr(object, 3).into_iter().flat_map(attrs).map(|(_, element)| element);
    let value = |element| attr(attr(element, 1)?, 1);
    elements
        .filter_map(|element| {
            let bytes = value(element)?;
            match bytes.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
                _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
            }
        })
        .collect()
}

fn closed() -> NetError {
    NetError::refused("talk to nftables", std::io::Error::other("no socket"))
}
