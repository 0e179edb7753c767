//! Sends announcements through a packet socket.
//!
//! Owns one socket without a protocol: it receives nothing. Each call sends three frames at most, without waiting;
//! what the device's queue does not take is lost, and the next announcement of the burst follows.
// Neither std, socket2 nor rustix can make a link-layer address without it.
#![allow(unsafe_code)]

use super::NetError;
use super::frames::{self, Mac};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The first announcements after an address came up. Hosts refuse to change a neighbour entry twice within a
/// second (Linux: `locktime`), and a switch may drop frames while its port learns: hence several, the last
/// of them a second after the first.
pub const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
    Duration::from_millis(1000),
];
/// Afterwards, for hosts that were cut off during the burst; common switches age entries after 300 s.
pub const REFRESH: Duration = Duration::from_secs(60);

/// How long after an address came up its `sent`-th announcement (counting from zero) is due.
#[must_use]
pub fn due_after(sent: u32) -> Duration {
    let last = BURST.len() as u32 - 1;
    match BURST.get(sent as usize) {
        Some(offset) => *offset,
        None => BURST[last as usize].saturating_add(REFRESH.saturating_mul(sent - last)),
    }
}

/// Announces addresses.
pub struct Announcer {
    socket: Socket,
}

impl Announcer {
    /// Opens the socket, in the network namespace of this thread.
    ///
    /// # Errors
    /// [`NetError::Socket`], usually for want of NET_RAW.
    pub fn open() -> Result<Self, NetError> {
        let error = |e| NetError::Socket { what: "packet", source: Arc::new(e) };
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(error)?;
        socket.set_nonblocking(true).map_err(error)?;
        Ok(Self { socket })
    }

    /// Announces once that `address` is at `mac` behind interface `index`, and asks who else has it.
    ///
    /// # Errors
    /// [`NetError::Refused`]: the interface is down, or its queue is full.
    pub fn announce(&self, index: u32, mac: Mac, address: IpAddr) -> Result<(), NetError> {
        // Whoever else has it answers the question, which claims nothing itself.
        let question = frames::probe(mac, address);
        for frame in frames::announcement(mac, address).into_iter().chain([question]) {
            let sent = self.socket.send_to(&frame, &link_address(index));
            let sent =
                sent.and_then(|n| if n == frame.len() { Ok(()) } else { Err(io::Error::other("cut short")) });
            sent.map_err(|e| NetError::refused(format!("announce {address}"), e))?;
        }
        Ok(())
    }
}

/// Where to send a frame: an interface, by its index.
#[must_use]
pub fn link_address(index: u32) -> SockAddr {
    link_address_of(index, 0)
}

/// The same for a protocol, which a socket that is bound to it hears.
pub(super) fn link_address_of(index: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that fit into sockaddr_storage, and all its fields are
    // integers, for which zero is valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_ifindex = index.cast_signed();
    address.sll_protocol = protocol.to_be();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `length` bytes of the storage are the sockaddr_ll written above, whose family says so.
    unsafe { SockAddr::new(storage, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_refresh() {
        let due: Vec<u128> = (0..8).map(|n| due_after(n).as_millis()).collect();
        assert_eq!(due, [0, 50, 150, 400, 1000, 61_000, 121_000, 181_000]);
        assert!(due_after(u32::MAX) > due_after(u32::MAX - 1));
    }
}
