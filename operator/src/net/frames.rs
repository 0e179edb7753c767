//! The frames that tell the neighbourhood where an address lives now (gratuitous ARP and unsolicited neighbour
//! advertisements), that ask who else has it, and that say so, as bytes. Pure; sending them is `announce`'s business,
//! hearing them that of `claims`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hardware address of an Ethernet interface.
pub type Mac = [u8; 6];

/// As people write it.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

const BROADCAST: Mac = [0xff; 6];
/// Ethernet group of `ff02::1` (RFC 2464, section 7).
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Shortest Ethernet frame without its checksum; drivers pad by themselves, packet sockets on some do not.
const FRAME_MIN: usize = 60;
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

/// The question who has `address`, from nobody: an ARP probe (RFC 5227), or the neighbour solicitation of duplicate
/// address detection (RFC 4862). Nobody learns anything wrong from it.
#[must_use]
pub fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => arp_probe(mac, a),
        IpAddr::V6(a) => neighbour_solicitation(mac, a),
    }
}

fn arp_probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_MIN);
    frame.extend(BROADCAST);
    frame.extend(mac);
    frame.extend(ETHERTYPE_ARP);
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

fn neighbour_solicitation(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let octets = address.octets();
    let [a, b, c] = [octets[13], octets[14], octets[15]];
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(octets);
    icmpv6(mac, [0x33, 0x33, 0xff, a, b, c], Ipv6Addr::UNSPECIFIED, group, icmp)
}

/// Who says in this frame that an address is theirs: the sender of an ARP packet of any kind, or the target of a
/// neighbour advertisement.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    let mac = |at: usize| frame.get(at..at + 6).and_then(|m| Mac::try_from(m).ok());
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            // Hardware and protocol types, lengths, operation; then sender and target, all of it.
            let frame = frame.get(..42)?;
            let sender: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
            let ours = frame.get(14..20)? == [0, 1, 0x08, 0x00, 6, 4] && sender != [0; 4];
            ours.then_some((Ipv4Addr::from(sender).into(), mac(22)?))
        }
        [0x86, 0xdd] => {
            if *frame.get(20)? != ICMPV6 || *frame.get(54)? != 136 {
                return None;
            }
            let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
            // The option says it; without one, the frame does.
            let option = frame.get(78..80) == Some(&[2, 1]);
            Some((Ipv6Addr::from(target).into(), mac(if option { 80 } else { 6 })?))
        }
        _ => None,
    }
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
    icmpv6(mac, ALL_NODES, address, all_nodes, icmp)
}

/// A frame around a message whose sum is still zero.
fn icmpv6(mac: Mac, to: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(14 + 40 + icmp.len());
    frame.extend(to);
    frame.extend(mac);
    frame.extend(ETHERTYPE_IPV6);
    // Version 6; length; next header; hop limit 255, which receivers insist on.
    frame.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
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
    fn a_question_claims_nothing_and_announcements_do() {
        let other: Mac = [2, 0, 0, 0, 0, 9];
        for address in ["10.77.0.100", "fd00:77::ffff:8000:100"] {
            let address: IpAddr = address.parse().expect("address");
            let question = probe(MAC, address);
            assert_eq!(claim(&question), None, "{address}");
            let packet = SlicedPacket::from_ethernet(&question).expect("frame");
            match (&packet.net, &packet.transport) {
                (Some(NetSlice::Arp(arp)), _) => {
                    assert_eq!((arp.operation(), ends(&packet)), (ArpOperation::REQUEST, (MAC, BROADCAST)));
                    assert_eq!(arp.sender_protocol_addr(), [0; 4]);
                    assert_eq!(
                        IpAddr::from(<[u8; 4]>::try_from(arp.target_protocol_addr()).unwrap()),
                        address
                    );
                }
                (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
                    let header = ip.header();
                    assert_eq!(ends(&packet), (MAC, [0x33, 0x33, 0xff, 0, 0x01, 0]));
                    assert_eq!(header.destination_addr().to_string(), "ff02::1:ff00:100");
                    assert_eq!((header.source_addr(), header.hop_limit()), (Ipv6Addr::UNSPECIFIED, 255));
                    assert!(icmp.is_checksum_valid(header.source(), header.destination()));
                    assert!(matches!(icmp.icmp_type(), Icmpv6Type::NeighborSolicitation));
                }
                other => panic!("{other:?}"),
            }
            for frame in announcement(other, address) {
                assert_eq!(claim(&frame), Some((address, other)));
                for cut in 0..frame.len() {
                    // Padding may be missing, and without the option the frame says who it is from.
                    assert!(claim(&frame[..cut]).is_none_or(|c| c == (address, other)), "{cut}");
                }
            }
        }
        assert_eq!(claim(&[0; 100]), None);
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
