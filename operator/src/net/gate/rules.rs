//! The tables that keep packets of a fenced node's addresses out of the network, as nf_tables messages. Pure.
//!
//! ```text
//! table inet baton_web {
//!     set guarded4 { type ipv4_addr; }                  # every address of the specification; guarded6 likewise
//!     set live4 { type ipv4_addr; flags timeout; }      # those that this node may serve; each ends at serve-until
//!     chain to   { type filter hook prerouting priority -350; policy accept;
//!         ip daddr @guarded4 ip daddr != @live4 fib daddr type local counter drop          # and the same of IPv6
//!     }
//!     chain from { type filter hook postrouting priority 300; policy accept;
//!         ip saddr @guarded4 ip saddr != @live4 fib saddr type local counter drop          # and the same of IPv6
//!         icmpv6 type nd-neighbor-advert icmpv6 taddr @guarded6 icmpv6 taddr != @live6 counter drop
//!     }
//! }
//! table arp baton_web {                                 # its own guarded4 and live4: sets belong to one table
//!     chain from { type filter hook output priority 0; policy accept;
//!         arp saddr ip @guarded4 arp saddr ip != @live4 counter drop
//!     }
//! }
//! ```
//!
//! `fib … type local`: only where the address stands on this host. A standby talks to the address of another host, and
//! forwards to it, as if there were no table. Prerouting before address translation, postrouting after it: services
//! behind published ports are fenced too. A question who has the address comes in; the answer does not go out.

use super::wire::{APPEND, Attrs, Batch, CREATE};
use std::net::IpAddr;

/// Families: `inet` sees IPv4 and IPv6.
pub(super) const INET: u8 = 1;
/// Family of ARP.
pub(super) const ARP: u8 = 3;

const NEWTABLE: u8 = 0;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const NEWRULE: u8 = 6;
/// Lists rules.
pub(super) const GETRULE: u8 = 7;
const DELRULE: u8 = 8;
const NEWSET: u8 = 9;
const NEWSETELEM: u8 = 12;
/// Lists elements.
pub(super) const GETSETELEM: u8 = 13;
const DELSETELEM: u8 = 14;
/// Asks for the number of the last transaction of anybody.
pub(super) const GETGEN: u8 = 16;

const LIST_ELEM: u16 = 1;
/// Elements of one message: an attribute's length has 16 bits, and an address takes 32 bytes at most.
const ELEMENTS_MAX: usize = 1024;
const HAS_TIMEOUT: u32 = 0x10;
/// Before connection tracking and address translation.
const EARLY: i32 = -350;
/// After address translation.
const LATE: i32 = 300;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Of the expressions.
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// A set: the table's family, what it is called, whether of IPv6, and whether its elements end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) family: u8,
    pub(super) name: &'static str,
    pub(super) six: bool,
    pub(super) timed: bool,
}

const fn set(family: u8, name: &'static str, six: bool, timed: bool) -> Set {
    Set { family, name, six, timed }
}

/// All sets.
pub(super) const SETS: [Set; 6] = [
    set(INET, "guarded4", false, false),
    set(INET, "live4", false, true),
    set(INET, "guarded6", true, false),
    set(INET, "live6", true, true),
    set(ARP, "guarded4", false, false),
    set(ARP, "live4", false, true),
];

/// Sets of the one kind that an address belongs in.
fn sets_of(address: IpAddr, timed: bool) -> impl Iterator<Item = &'static Set> {
    SETS.iter().filter(move |s| s.timed == timed && s.six == address.is_ipv6())
}

/// Adds what makes the tables as they should be, whatever of them is there. What stands in the timed sets stays.
pub(super) fn install(batch: &mut Batch, table: &str, guarded: &[IpAddr]) {
    for family in [INET, ARP] {
        batch.add(family, NEWTABLE, CREATE, &Attrs::default().text(1, table));
    }
    for set in &SETS {
        let (kind, length) = if set.six { (8, 16) } else { (7, 4) };
        let flags = if set.timed { HAS_TIMEOUT } else { 0 };
        let attrs = Attrs::default().text(1, table).text(2, set.name).be32(3, flags);
        // Sets of one transaction are told apart by an id.
        let id = SETS.iter().position(|s| s == set).unwrap_or_default() as u32 + 1;
        batch.add(set.family, NEWSET, CREATE, &attrs.be32(4, kind).be32(5, length).be32(10, id));
    }
    for (family, name, hook, priority) in
        [(INET, "to", 0, EARLY), (INET, "from", 4, LATE), (ARP, "from", 1, 0)]
    {
        let hook = Attrs::default().be32(1, hook).be32(2, priority.cast_unsigned());
        let chain = Attrs::default().text(1, table).text(3, name).nest(4, &hook).be32(5, 1).text(7, "filter");
        batch.add(family, NEWCHAIN, CREATE, &chain);
        batch.add(family, DELRULE, 0, &Attrs::default().text(1, table).text(2, name));
        for rule in rules(family, name) {
            let rule = Attrs::default().text(1, table).text(2, name).nest(4, &rule);
            batch.add(family, NEWRULE, CREATE | APPEND, &rule);
        }
    }
    for set in SETS.iter().filter(|s| !s.timed) {
        let which = Attrs::default().text(1, table).text(2, set.name);
        batch.add(set.family, DELSETELEM, 0, &which);
        let here: Vec<&IpAddr> = guarded.iter().filter(|a| a.is_ipv6() == set.six).collect();
        for some in here.chunks(ELEMENTS_MAX) {
            let elements = some.iter().fold(Attrs::default(), |all, a| all.nest(LIST_ELEM, &key(**a)));
            batch.add(set.family, NEWSETELEM, CREATE, &which.clone().nest(3, &elements));
        }
    }
}

/// How many rules [`install`] makes in the table of a family.
pub(super) fn rules_of(family: u8) -> usize {
    if family == INET { 5 } else { 1 }
}

/// Adds the removal of both tables.
pub(super) fn remove(batch: &mut Batch, table: &str) {
    for family in [INET, ARP] {
        batch.add(family, DELTABLE, 0, &Attrs::default().text(1, table));
    }
}

/// Adds that packets of `address` pass for so long from now on.
pub(super) fn open(batch: &mut Batch, table: &str, address: IpAddr, timeout_ms: u64) -> Vec<u32> {
    let element = key(address).be64(4, timeout_ms);
    let elements = Attrs::default().nest(LIST_ELEM, &element);
    let add = |set: &Set| {
        let attrs = Attrs::default().text(1, table).text(2, set.name).nest(3, &elements);
        batch.add(set.family, NEWSETELEM, CREATE, &attrs)
    };
    sets_of(address, true).map(add).collect()
}

/// Adds that packets of `address` do not pass any more. Refused, with all of the transaction, where they do not.
pub(super) fn close(batch: &mut Batch, table: &str, address: IpAddr) -> Vec<u32> {
    let elements = Attrs::default().nest(LIST_ELEM, &key(address));
    let delete = |set: &Set| {
        let attrs = Attrs::default().text(1, table).text(2, set.name).nest(3, &elements);
        batch.add(set.family, DELSETELEM, 0, &attrs)
    };
    sets_of(address, true).map(delete).collect()
}

fn key(address: IpAddr) -> Attrs {
    let value = match address {
        IpAddr::V4(a) => Attrs::default().bytes(1, &a.octets()),
        IpAddr::V6(a) => Attrs::default().bytes(1, &a.octets()),
    };
    Attrs::default().nest(1, &value)
}

/// The rules of a chain, in order.
fn rules(family: u8, chain: &str) -> Vec<Attrs> {
    match (family, chain) {
        (ARP, _) => {
            // Behind types, lengths, operation and the sender's hardware address.
            let rule = Rule::default().load(NETWORK_HEADER, 14, 4).guarded("guarded4", "live4");
            vec![rule.drop()]
        }
        (_, "to") => vec![
            Rule::default()
                .version(2)
                .load(NETWORK_HEADER, 16, 4)
                .guarded("guarded4", "live4")
                .local(2)
                .drop(),
            Rule::default()
                .version(10)
                .load(NETWORK_HEADER, 24, 16)
                .guarded("guarded6", "live6")
                .local(2)
                .drop(),
        ],
        _ => vec![
            Rule::default()
                .version(2)
                .load(NETWORK_HEADER, 12, 4)
                .guarded("guarded4", "live4")
                .local(1)
                .drop(),
            Rule::default()
                .version(10)
                .load(NETWORK_HEADER, 8, 16)
                .guarded("guarded6", "live6")
                .local(1)
                .drop(),
            Rule::default()
                .meta(16)
                .equals(&[ICMPV6])
                .load(TRANSPORT_HEADER, 0, 1)
                .equals(&[NEIGHBOUR_ADVERTISEMENT])
                .load(TRANSPORT_HEADER, 8, 16)
                .guarded("guarded6", "live6")
                .drop(),
        ],
    }
}

/// Expressions of a rule.
#[derive(Default)]
struct Rule(Attrs);

impl Rule {
    fn with(self, name: &str, data: &Attrs) -> Self {
        Self(self.0.nest(LIST_ELEM, &Attrs::default().text(1, name).nest(2, data)))
    }

    fn meta(self, key: u32) -> Self {
        self.with("meta", &Attrs::default().be32(1, REGISTER).be32(2, key))
    }

    fn equals(self, value: &[u8]) -> Self {
        let data = Attrs::default().bytes(1, value);
        self.with("cmp", &Attrs::default().be32(1, REGISTER).be32(2, 0).nest(3, &data))
    }

    /// Of IPv4 (2) or IPv6 (10): `meta nfproto`.
    fn version(self, nfproto: u8) -> Self {
        self.meta(15).equals(&[nfproto])
    }

    fn load(self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attrs::default().be32(1, REGISTER).be32(2, base).be32(3, offset).be32(4, length);
        self.with("payload", &data)
    }

    fn guarded(self, guarded: &str, live: &str) -> Self {
        let lookup = |set| Attrs::default().text(1, set).be32(2, REGISTER);
        // The flag inverts: not in the set.
        self.with("lookup", &lookup(guarded)).with("lookup", &lookup(live).be32(5, 1))
    }

    /// The source (1) or destination (2) is this host's.
    fn local(self, which: u32) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.with("fib", &Attrs::default().be32(1, REGISTER).be32(2, ADDRESS_TYPE).be32(3, which))
            .equals(&RTN_LOCAL.to_ne_bytes())
    }

    fn drop(self) -> Attrs {
        // Verdict register, NF_DROP.
        let verdict = Attrs::default().nest(2, &Attrs::default().be32(1, 0));
        let counter = Attrs::default().be64(1, 0).be64(2, 0);
        self.with("counter", &counter).with("immediate", &Attrs::default().be32(1, 0).nest(2, &verdict)).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_the_rules_that_are_counted() {
        assert_eq!(rules(INET, "to").len() + rules(INET, "from").len(), rules_of(INET));
        assert_eq!(rules(ARP, "from").len(), rules_of(ARP));
    }

    #[test]
    fn an_address_stands_in_each_set_of_its_family_only() {
        let names = |address: &str, timed| {
            let address = address.parse().unwrap();
            sets_of(address, timed).map(|s| (s.family, s.name)).collect::<Vec<_>>()
        };
        assert_eq!(names("10.0.0.1", true), [(INET, "live4"), (ARP, "live4")]);
        assert_eq!(names("10.0.0.1", false), [(INET, "guarded4"), (ARP, "guarded4")]);
        assert_eq!(names("fd00::1", true), [(INET, "live6")]);
        assert_eq!(names("fd00::1", false), [(INET, "guarded6")]);
    }
}
