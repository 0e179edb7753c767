//! The frames that tell the neighbourhood where an address lives now: gratuitous ARP and unsolicited neighbour
//! advertisements, as bytes. Pure; sending them is `announce`'s business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hardware address of an Ethernet interface.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// Ethernet group of `ff02::1` (RFC 2464, section 7).
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Shortest Ethernet frame without its checksum; drivers pad by themselves, packet sockets on some do not.
pub(super) const FRAME_MIN: usize = 60;
const ICMPV6: u8 = 58;

/// All frames of one announcement: both forms of gratuitous ARP, because hosts differ in which they accept, or
/// one neighbour advertisement.
#[must_use]
pub fn announcement(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(a) => {
            vec![gratuitous_arp(mac, a, ArpForm::Request), gratuitous_arp(mac, a, ArpForm::Reply)]
        }
        IpAddr::V6(a) => vec![neighbour_advertisement(mac, a)],
    }
}

/// The two forms of a gratuitous ARP (RFC 5227, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpForm {
    /// Operation 1, target hardware address zero.
    Request,
    /// Operation 2, target hardware address broadcast.
    Reply,
}

/// A gratuitous ARP: sender and target protocol address are both `address`.
#[must_use]
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr, form: ArpForm) -> Vec<u8> {
    let (operation, target) = match form {
        ArpForm::Request => (1, [0; 6]),
        ArpForm::Reply => (2, BROADCAST),
    };
    let mut frame = Vec::with_capacity(FRAME_MIN);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths of their addresses.
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(target);
    frame.extend(address.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

/// An unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861, section 7.2.6).
#[must_use]
pub fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = Vec::with_capacity(32);
    // Type, code, checksum (below), flags: override only.
    icmp.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    icmp.extend(address.octets());
    // Option 2, target link-layer address, length in units of eight bytes.
    icmp.extend([2, 1]);
    icmp.extend(mac);
    let sum = checksum(address, all_nodes, &icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);

    let mut frame = Vec::with_capacity(14 + 40 + icmp.len());
    frame.extend(ALL_NODES);
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    // Version 6; length; next header; hop limit 255, which receivers insist on.
    frame.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(icmp);
    frame
}

/// The ICMPv6 checksum over pseudo header and message (RFC 4443, section 2.3). The message's length is even.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        bytes.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(message);
    sum += message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpOperation, Icmpv6Type, LinkSlice, NetSlice, SlicedPacket, TransportSlice};

    const MAC: Mac = [0x02, 0x42, 0x0a, 0x4d, 0x00, 0x0b];

    fn ends(packet: &SlicedPacket<'_>) -> (Mac, Mac) {
        match &packet.link {
            Some(LinkSlice::Ethernet2(e)) => (e.source(), e.destination()),
            other => panic!("no Ethernet header: {other:?}"),
        }
    }

    #[test]
    fn both_forms_of_gratuitous_arp() {
        let address: Ipv4Addr = "10.77.0.100".parse().expect("address");
        let frames = announcement(MAC, address.into());
        let expected = [(ArpOperation::REQUEST, [0; 6]), (ArpOperation::REPLY, [0xff; 6])];
        assert_eq!(frames.len(), expected.len());
        for (frame, (operation, target)) in frames.iter().zip(expected) {
            assert_eq!(frame.len(), FRAME_MIN);
            let packet = SlicedPacket::from_ethernet(frame).expect("frame");
            assert_eq!(ends(&packet), (MAC, [0xff; 6]));
            let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP: {packet:?}") };
            assert_eq!(arp.operation(), operation);
            assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&MAC[..], &address.octets()[..]));
            assert_eq!(
                (arp.target_hw_addr(), arp.target_protocol_addr()),
                (&target[..], &address.octets()[..])
            );
        }
    }

    #[test]
    fn unsolicited_neighbour_advertisement() {
        let address: Ipv6Addr = "fd00:77::ffff:8000:100".parse().expect("address");
        let frames = announcement(MAC, address.into());
        assert_eq!(frames.len(), 1);
        let packet = SlicedPacket::from_ethernet(&frames[0]).expect("frame");
        assert_eq!(ends(&packet), (MAC, ALL_NODES));
        let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6: {packet:?}") };
        let header = ip.header();
        assert_eq!((header.source_addr(), header.hop_limit()), (address, 255));
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("no ICMPv6: {packet:?}") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else {
            panic!("{:?}", icmp.icmp_type())
        };
        assert!(flags.r#override && !flags.solicited && !flags.router);
        assert_eq!(icmp.payload(), [&address.octets()[..], &[2, 1], &MAC].concat());
    }
}
