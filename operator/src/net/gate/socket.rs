//! A netlink socket to nf_tables. The kernel carries a request out before the call that sends it returns, so that
//! answers are there at once and nothing here waits; what may take long is the kernel's lock on its rule sets, which
//! another program's transaction holds.

use super::wire::{Attrs, Batch, DUMP, Reply, replies, request};
use crate::net::NetError;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Larger than any datagram of the kernel's lists.
const BUFFER: usize = 64 * 1024;
/// Answers to a transaction of all addresses wait in it.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// Datagrams read for one request; a list of all addresses takes a few.
const DATAGRAMS_MAX: usize = 4096;

/// The socket.
#[derive(Debug)]
pub(super) struct Nft {
    fd: OwnedFd,
    sequence: u32,
}

/// Why a transaction did not take effect: the messages that were refused, by number.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Vec<(u32, i32)>);

impl Refused {
    /// All of these were refused for want of what they name, and nothing else was.
    pub(super) fn only_missing(&self, among: &[u32]) -> bool {
        self.0.iter().all(|(sequence, errno)| *errno == libc::ENOENT && among.contains(sequence))
    }

    /// As an error of the kernel.
    pub(super) fn into_error(self, what: &str) -> NetError {
        let errno = self.0.first().map_or(libc::EIO, |(_, errno)| *errno);
        NetError::Refused { what: what.into(), source: Arc::new(io::Error::from_raw_os_error(errno)) }
    }
}

impl Nft {
    /// Opens it, in the network namespace of this thread.
    pub(super) fn open() -> Result<Self, NetError> {
        let failed =
            |e: rustix::io::Errno| NetError::Socket { what: "netfilter netlink", source: Arc::new(e.into()) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::NETFILTER);
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(failed)?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        // Refused only where it may not be so large; the answers to few addresses fit all the same.
        let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER);
        Ok(Self { fd, sequence: 1 })
    }

    /// A transaction to fill.
    pub(super) fn batch(&self) -> Batch {
        Batch::begin(self.sequence)
    }

    /// Carries it out. The outer error is the socket's: nothing is known then.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<Result<(), Refused>, NetError> {
        self.drain()?;
        let first = self.sequence;
        let (bytes, next) = batch.end();
        self.sequence = next;
        self.send(&bytes)?;
        let mut refused = Vec::new();
        let mut answered = false;
        self.read(|reply| {
            if let Reply::Outcome { sequence, errno } = reply
                && (first..next).contains(&sequence)
            {
                answered = true;
                if errno != 0 {
                    refused.push((sequence, errno));
                }
            }
            true
        })?;
        if !answered {
            return Err(broken("the kernel did not answer a transaction"));
        }
        Ok(if refused.is_empty() { Ok(()) } else { Err(Refused(refused)) })
    }

    /// A list of objects, each by its attributes. `None`: the table is not there.
    pub(super) fn list<T>(
        &mut self,
        family: u8,
        message: u8,
        attrs: &Attrs,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetError> {
        let mut all = Vec::new();
        let missing = self.ask(family, message, DUMP, attrs, |object| all.extend(read(object)))?;
        Ok((!missing).then_some(all))
    }

    /// One object, or nothing.
    pub(super) fn get<T>(
        &mut self,
        message: u8,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, NetError> {
        let mut found = None;
        self.ask(0, message, 0, &Attrs::default(), |object| found = read(object))?;
        Ok(found)
    }

    /// Whether what was asked for is missing.
    fn ask(
        &mut self,
        family: u8,
        message: u8,
        flags: u16,
        attrs: &Attrs,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, NetError> {
        self.drain()?;
        let own = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&request(family, message, flags, own, attrs))?;
        let mut failed = 0;
        self.read(|reply| match reply {
            Reply::Outcome { sequence, errno } if sequence == own => {
                failed = errno;
                false
            }
            Reply::Object { sequence, attrs } if sequence == own => {
                each(attrs);
                true
            }
            Reply::Done { sequence } => sequence != own,
            Reply::Outcome { .. } | Reply::Object { .. } => true,
        })?;
        match failed {
            0 => Ok(false),
            libc::ENOENT => Ok(true),
            errno => Err(NetError::Refused {
                what: "look at the nftables rules".into(),
                source: Arc::new(io::Error::from_raw_os_error(errno)),
            }),
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetError> {
        match send(&self.fd, bytes, SendFlags::empty()) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(broken("a request was cut short")),
            Err(e) => Err(NetError::Refused { what: "talk to nftables".into(), source: Arc::new(e.into()) }),
        }
    }

    /// Answers to what was given up.
    fn drain(&self) -> Result<(), NetError> {
        self.read(|_| true)
    }

    /// Reads what waits until there is no more, or `each` says that it is enough.
    fn read(&self, mut each: impl FnMut(Reply<'_>) -> bool) -> Result<(), NetError> {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..DATAGRAMS_MAX {
            match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((n, _)) => {
                    for reply in replies(&buffer[..n]) {
                        if !each(reply) {
                            return Ok(());
                        }
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    let source = Arc::new(e.into());
                    return Err(NetError::Refused { what: "hear from nftables".into(), source });
                }
            }
        }
        Err(broken("answers without end"))
    }
}

fn broken(what: &str) -> NetError {
    NetError::Refused { what: "talk to nftables".into(), source: Arc::new(io::Error::other(what.to_owned())) }
}
