//! Links as the heartbeat thread has them: an open port each, or none for the moment.
//!
//! Nothing here waits. Opening and closing may (a tty drains, an interface's name is looked up behind the kernel's
//! network lock), so [`Desk`] does both on a thread of its own.

mod cobs;
mod desk;
mod line;
pub(super) mod pack;
mod udp;

pub(super) use desk::Desk;
pub(super) use udp::Udp;

use crate::spec::HeartbeatLink;
use baton_replicator::types::{Instant, NodeName};
use cobs::Piece;
use line::{Line, Refuses};
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What a link is open with.
#[derive(Debug)]
pub(super) enum Port {
    /// A socket.
    Udp(Udp),
    /// A serial line.
    Line(Box<Line>),
}

impl Port {
    /// Opens a link. May take a moment.
    pub fn open(link: &HeartbeatLink, port: u16) -> io::Result<Self> {
        match link {
            HeartbeatLink::Unicast(address) => Udp::unicast(SocketAddr::new(*address, port)).map(Self::Udp),
            HeartbeatLink::Broadcast { interface } => Udp::broadcast(interface, port).map(Self::Udp),
            HeartbeatLink::Multicast { group, interface, ttl } => {
                Udp::multicast(*group, interface, *ttl, port).map(Self::Udp)
            }
            HeartbeatLink::Serial { device, baud } => {
                Line::open(device, *baud).map(|l| Self::Line(Box::new(l)))
            }
            HeartbeatLink::None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(udp) => udp.fd(),
            Self::Line(line) => line.fd(),
        }
    }
}

/// The numbers of one stream: what goes to one peer by one link, or to all on it.
#[derive(Debug)]
struct Stream {
    to: Option<NodeName>,
    id: u32,
    next: u64,
}

/// One link of this node.
#[derive(Debug)]
pub(super) struct Slot {
    pub link: HeartbeatLink,
    pub port: Option<Port>,
    /// Peers that are on it.
    pub peers: Vec<NodeName>,
    /// Where the groups' turns are, on a line that does not carry all at once.
    pub cursor: usize,
    streams: Vec<Stream>,
}

/// What a link gave.
pub(super) enum Received {
    /// A datagram of this length is in the buffer, from this address if the link has any.
    Datagram(usize, Option<IpAddr>),
    /// Bytes that are none.
    Garbage,
    /// Nothing waits.
    Nothing,
    /// The link is gone.
    Gone(io::Error),
}

impl Slot {
    pub fn new(link: HeartbeatLink, port: Option<Port>, peers: Vec<NodeName>) -> Self {
        Self { link, port, peers, cursor: 0, streams: Vec::new() }
    }

    /// The stream to a peer, or to all: its id and next number. `ids` are drawn upwards.
    pub fn stream(&mut self, to: Option<&NodeName>, ids: &mut u32) -> (u32, u64) {
        match self.streams.iter().find(|s| s.to.as_ref() == to) {
            Some(stream) => (stream.id, stream.next),
            None => {
                *ids += 1;
                self.streams.push(Stream { to: to.cloned(), id: *ids, next: 1 });
                (*ids, 1)
            }
        }
    }

    /// What was numbered is on its way.
    pub fn went(&mut self, to: Option<&NodeName>) {
        if let Some(stream) = self.streams.iter_mut().find(|s| s.to.as_ref() == to) {
            stream.next += 1;
        }
    }

    /// Streams begin anew: the peers may give the link another number.
    pub fn forget_streams(&mut self) {
        self.streams.clear();
    }

    pub fn udp(&self) -> Option<&Udp> {
        match &self.port {
            Some(Port::Udp(udp)) => Some(udp),
            Some(Port::Line(_)) | None => None,
        }
    }

    /// Sends where the link sends everything. `Err`: why not, and whether it has to be opened again.
    pub fn send(&mut self, datagram: &[u8], patience: Duration, now: Instant) -> Result<(), (String, bool)> {
        match &mut self.port {
            None => Err(("not open".into(), false)),
            Some(Port::Udp(udp)) => udp.send(datagram, None).map_err(|e| (e.to_string(), gone(&e))),
            Some(Port::Line(line)) => line.send(datagram, patience, now).map_err(|e| match e {
                Refuses::Busy(why) => (why.to_owned(), false),
                Refuses::Gone(e) => (e.to_string(), true),
            }),
        }
    }

    /// Takes what waits.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match &mut self.port {
            None => Received::Nothing,
            Some(Port::Udp(udp)) => match udp.receive(buffer) {
                Ok((length, from)) => Received::Datagram(length, Some(from.ip())),
                Err(e) if self.link.address().is_none() && gone(&e) => Received::Gone(e),
                Err(_) => Received::Nothing,
            },
            Some(Port::Line(line)) => match line.go_on().and_then(|()| line.receive()) {
                Ok(Some(Piece::Frame(frame))) => match buffer.get_mut(..frame.len()) {
                    Some(place) => {
                        place.copy_from_slice(&frame);
                        Received::Datagram(frame.len(), None)
                    }
                    None => Received::Garbage,
                },
                Ok(Some(Piece::Garbage)) => Received::Garbage,
                Ok(None) => Received::Nothing,
                Err(e) => Received::Gone(e),
            },
        }
    }
}

/// The interface that the socket is bound to is no more.
fn gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::NODEV, Errno::NXIO].iter().any(|e| errno == Some(e.raw_os_error()))
}
