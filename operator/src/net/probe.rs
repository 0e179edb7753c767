//! Asks the neighbourhood who has an IPv4 address, without having it (an ARP probe, RFC 5227): is it a duplicate?
//!
//! Owns one packet socket for the length of a call. Blocking; needs NET_RAW.

use super::NetError;
use super::announce::link_address;
use super::frames::{self, Mac, claim};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ETH_P_ARP: u16 = 0x0806;
/// Probes sent; one may be lost.
const PROBES: u32 = 3;

/// Hardware addresses that answered for `address` behind interface `index` (whose own address is `mac`), sorted.
/// Waits `within` altogether.
///
/// # Errors
/// [`NetError::Socket`] for want of NET_RAW; [`NetError::Refused`] if the interface is down.
pub fn who_has(index: u32, mac: Mac, address: Ipv4Addr, within: Duration) -> Result<Vec<Mac>, NetError> {
    let open = |e| NetError::Socket { what: "packet", source: Arc::new(e) };
    // A packet socket takes its protocol in network byte order, as a number.
    let protocol = Protocol::from(i32::from(ETH_P_ARP.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).map_err(open)?;
    let pause = within / PROBES;
    let probe = frames::probe(mac, address.into());
    let mut found = Vec::new();
    for _ in 0..PROBES {
        let refused = |e| NetError::refused(format!("ask who has {address}"), e);
        socket.send_to(&probe, &link_address(index)).map_err(refused)?;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(refused)?;
            let mut frame = [0; 128];
            match socket.read(&mut frame) {
                Ok(n) => found.extend(answer(&frame[..n], address).filter(|theirs| *theirs != mac)),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(refused(e)),
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The hardware address that this frame says `address` is at, if it does.
fn answer(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    claim(frame).filter(|(claimed, _)| *claimed == address).map(|(_, mac)| mac)
}

#[cfg(test)]
mod tests {
    use super::super::frames::{ArpForm, gratuitous_arp};
    use super::*;
    use etherparse::{NetSlice, SlicedPacket};

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_probe_claims_nothing_and_an_answer_is_read() {
        let address: Ipv4Addr = "10.77.0.100".parse().unwrap();
        let probe = frames::probe(MAC, address.into());
        let packet = SlicedPacket::from_ethernet(&probe).unwrap();
        let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP: {packet:?}") };
        assert_eq!(
            (arp.sender_protocol_addr(), arp.target_protocol_addr()),
            (&[0; 4][..], &address.octets()[..])
        );
        assert_eq!(answer(&probe, address), None, "our own probe is no answer");
        for form in [ArpForm::Request, ArpForm::Reply] {
            assert_eq!(answer(&gratuitous_arp(MAC, address, form), address), Some(MAC));
            assert_eq!(answer(&gratuitous_arp(MAC, "10.77.0.101".parse().unwrap(), form), address), None);
        }
        for cut in 0..42 {
            assert_eq!(answer(&gratuitous_arp(MAC, address, ArpForm::Reply)[..cut], address), None);
        }
    }
}
