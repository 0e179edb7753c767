//! Chooses the interface an address belongs on. Pure: works on what the kernel listed.

use super::netlink::{Link, Listed};
use std::net::IpAddr;

/// The interface for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The interface.
    pub link: Link,
    /// Whether another, permanent address connects its subnet, so that there is a route without this one.
    pub connected: bool,
}

/// The interface whose connected subnet holds `address`: the one that carries the node's own address if that
/// fits, else the longest prefix. If no subnet holds it, the interface that carries the node's own address.
///
/// Addresses listed in `managed` do not count as connections: they come and go.
#[must_use]
pub fn choose(
    address: IpAddr,
    own: IpAddr,
    addresses: &[Listed],
    links: &[Link],
    managed: &[IpAddr],
) -> Option<Choice> {
    let link_of = |index: u32| links.iter().find(|l| l.index == index && !l.loopback);
    let connecting = addresses
        .iter()
        .filter(|a| !managed.contains(&a.address) && a.address != address)
        .filter(|a| holds(a.address, a.prefix, address))
        .filter_map(|a| link_of(a.index).map(|l| (a, l)))
        .max_by_key(|(a, l)| (a.address == own, l.carrier, a.prefix));
    if let Some((_, link)) = connecting {
        return Some(Choice { link: link.clone(), connected: true });
    }
    let link = own_link(own, addresses, links)?;
    (!link.loopback).then(|| Choice { link: link.clone(), connected: false })
}

/// The interface that carries the node's own address.
#[must_use]
pub fn own_link<'a>(own: IpAddr, addresses: &[Listed], links: &'a [Link]) -> Option<&'a Link> {
    let index = addresses.iter().find(|a| a.address == own)?.index;
    links.iter().find(|l| l.index == index)
}

/// Whether the subnet of `member` with that prefix length holds `address`. A host prefix connects nothing.
fn holds(member: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let (a, b, width) = match (member, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let host_bits = u32::from(width - prefix.min(width));
    host_bits > 0 && a.checked_shr(host_bits).unwrap_or(0) == b.checked_shr(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, carrier: bool) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            carrier,
            loopback: index == 1,
            mac: Some([2, 0, 0, 0, 0, 1]),
        }
    }

    fn listed(index: u32, cidr: &str) -> Listed {
        let (address, prefix) = cidr.split_once('/').expect("cidr");
        Listed {
            index,
            address: address.parse().expect("address"),
            prefix: prefix.parse().expect("prefix"),
            valid_lft_s: None,
        }
    }

    /// Interface and `connected` for `address`, the node being 10.0.0.5.
    fn pick(address: &str, addresses: &[Listed], managed: &[&str]) -> Option<(u32, bool)> {
        let links = [link(1, true), link(2, true), link(3, true), link(4, false)];
        let managed: Vec<IpAddr> = managed.iter().map(|m| m.parse().expect("managed")).collect();
        let own = "10.0.0.5".parse().expect("own");
        choose(address.parse().expect("address"), own, addresses, &links, &managed)
            .map(|c| (c.link.index, c.connected))
    }

    #[test]
    fn the_connected_subnet_decides() {
        let host = [listed(1, "127.0.0.1/8"), listed(2, "10.0.0.5/24"), listed(3, "192.168.0.5/29")];
        assert_eq!(pick("10.0.0.100", &host, &[]), Some((2, true)));
        assert_eq!(pick("192.168.0.7", &host, &[]), Some((3, true)));
        assert_eq!(
            pick("192.168.0.8", &host, &[]),
            Some((2, false)),
            "outside the /29: the node's own interface"
        );
        assert_eq!(pick("fd00::7", &host, &[]), Some((2, false)), "no IPv6 subnet: the node's own interface");
        assert_eq!(pick("127.0.0.9", &host, &[]), Some((2, false)), "never on the loopback interface");
    }

    #[test]
    fn own_interface_then_carrier_then_longest_prefix() {
        let own_first = [listed(3, "10.0.0.9/28"), listed(2, "10.0.0.5/24")];
        assert_eq!(pick("10.0.0.3", &own_first, &[]), Some((2, true)));
        let carrier = [listed(2, "10.0.0.5/24"), listed(4, "10.9.0.1/24"), listed(3, "10.9.0.2/16")];
        assert_eq!(pick("10.9.0.7", &carrier, &[]), Some((3, true)));
        let longest = [listed(2, "10.9.0.1/16"), listed(3, "10.9.0.2/24"), listed(2, "10.0.0.5/32")];
        assert_eq!(pick("10.9.0.7", &longest, &[]), Some((3, true)));
    }

    #[test]
    fn managed_addresses_and_host_prefixes_connect_nothing() {
        let host = [listed(2, "10.0.0.5/32"), listed(3, "10.0.0.100/24"), listed(3, "10.0.0.101/24")];
        assert_eq!(pick("10.0.0.100", &host, &["10.0.0.100", "10.0.0.101"]), Some((2, false)));
        assert_eq!(pick("10.0.0.100", &[], &[]), None);
        assert_eq!(pick("10.0.0.100", &[listed(9, "10.0.0.5/24")], &[]), None, "its interface has just gone");
    }

    #[test]
    fn prefixes_at_their_limits() {
        let ip = |s: &str| s.parse::<IpAddr>().expect("address");
        assert!(holds(ip("1.2.3.4"), 0, ip("200.0.0.1")));
        assert!(holds(ip("fd00::1"), 0, ip("2001:db8::1")));
        assert!(holds(ip("fd00::1"), 64, ip("fd00::ffff:1")));
        assert!(!holds(ip("fd00::1"), 64, ip("fd00:0:0:1::1")));
        assert!(holds(ip("10.0.0.0"), 31, ip("10.0.0.1")));
        assert!(!holds(ip("10.0.0.1"), 32, ip("10.0.0.1")));
        assert!(!holds(ip("10.0.0.1"), 8, ip("fd00::1")));
    }
}
