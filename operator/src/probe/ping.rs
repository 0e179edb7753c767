//! One ICMP echo, IPv4 or IPv6.
//!
//! Blocking: meant for an [`Errand`](super::Errand). A datagram socket does without privileges where
//! `net.ipv4.ping_group_range` allows it; else a raw one, which needs `NET_RAW` as announcing addresses does.

use crate::core::checks::Outcome;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// ICMP header: type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// Longest IPv4 header, ICMP header, payload, and room to see what is too long.
const BUFFER: usize = 256;

/// Asks once. `token` comes back in the answer and is another one each time.
#[must_use]
pub fn ping(address: IpAddr, token: u64, timeout: Duration) -> Outcome {
    match echo(address, token, timeout) {
        Ok(()) => Outcome::Good,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Outcome::Bad(format!("no answer within {} ms", timeout.as_millis()))
        }
        // Says something of this process, not of the way.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Outcome::Unknown(format!("may not send ICMP ({error}): NET_RAW is missing"))
        }
        Err(error) => Outcome::Bad(error.to_string()),
    }
}

fn echo(address: IpAddr, token: u64, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut socket = open(address)?;
    // Answers of others do not reach a socket that is connected.
    socket.connect(&SockAddr::from(SocketAddr::new(address, 0)))?;
    socket.send(&request(address, token))?;
    let mut buffer = [0; BUFFER];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.read(&mut buffer)?;
        if answers(address, &buffer[..length], token) {
            return Ok(());
        }
    }
}

fn open(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::DGRAM, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))
}

fn request(address: IpAddr, token: u64) -> Vec<u8> {
    let kind = if address.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let mut packet = vec![kind, 0, 0, 0];
    // Identifier and sequence number: a datagram socket sets the first itself, so the payload is what counts.
    packet.extend(&token.to_be_bytes()[4..]);
    packet.extend(token.to_be_bytes());
    // Over IPv6 the kernel does this.
    if address.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// RFC 1071; the length is even.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// It is the reply to that token. A raw IPv4 socket shows the IP header, too.
fn answers(address: IpAddr, packet: &[u8], token: u64) -> bool {
    let is = |icmp: &[u8], reply: u8| {
        icmp.len() == HEADER + 8 && icmp[0] == reply && icmp[1] == 0 && icmp[HEADER..] == token.to_be_bytes()
    };
    match address {
        IpAddr::V6(_) => is(packet, REPLY_V6),
        IpAddr::V4(_) => {
            let raw = packet.first().filter(|b| *b >> 4 == 4).map_or(0, |b| usize::from(b & 0xf) * 4);
            is(packet, REPLY_V4) || packet.get(raw..).is_some_and(|icmp| is(icmp, REPLY_V4))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const BOUND: Duration = Duration::from_secs(5);

    #[test]
    fn the_own_host_answers_over_both_families() {
        assert_eq!(ping(Ipv4Addr::LOCALHOST.into(), 1, BOUND), Outcome::Good);
        // A host may be without IPv6, but then without the address, too.
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert_eq!(ping(Ipv6Addr::LOCALHOST.into(), 2, BOUND), Outcome::Good);
        }
    }

    /// 240.0.0.0/4 is routed nowhere; whether the kernel says so or nobody answers, it ends in time.
    #[test]
    fn who_is_not_there_does_not_answer_within_the_bound() {
        let begun = Instant::now();
        let outcome = ping(Ipv4Addr::new(240, 0, 0, 1).into(), 3, Duration::from_millis(200));
        assert!(matches!(outcome, Outcome::Bad(_)), "{outcome:?}");
        assert!(begun.elapsed() < BOUND);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut reply = request(here, 7);
        assert_eq!(checksum(&reply), 0, "a packet with its checksum sums up to nothing");
        assert!(!answers(here, &reply, 7), "the request itself is no answer");
        reply[0] = REPLY_V4;
        assert!(answers(here, &reply, 7) && !answers(here, &reply, 8));
        let mut with_header = vec![0x45; 20];
        with_header.extend(&reply);
        assert!(answers(here, &with_header, 7));
        for cut in 0..reply.len() {
            assert!(!answers(here, &reply[..cut], 7));
        }
    }
}
