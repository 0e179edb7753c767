//! Hears which other machines say that an address is theirs: duplicate address detection that never ends.
//!
//! Two packet sockets, one of ARP and one of neighbour advertisements, which a filter in the kernel picks out of all
//! IPv6. Every announcement of ours carries a question (see `announce`), so that another owner is heard within
//! milliseconds after an address was taken; nobody waits for its answer. What is lost is asked for again.

use super::NetError;
use super::frames::{Mac, claim};
use super::netlink::Link;
use socket2::{Domain, SockFilter, Socket, Type};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Claims that wait for the keeper; more say the same.
const QUEUE: usize = 16;
/// Errors in a row after which a socket is given up: it would keep its thread busy.
const ERRORS_MAX: u32 = 1000;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

#[derive(Debug, Default)]
struct Watched {
    addresses: BTreeSet<IpAddr>,
    own: Vec<Mac>,
}

/// The ears.
#[derive(Debug)]
pub struct Claims {
    watched: Arc<Mutex<Watched>>,
    heard: mpsc::Receiver<(IpAddr, Mac)>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Claims {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Claims {
    /// Opens the sockets, in the network namespace of this thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Socket`], usually for want of NET_RAW.
    pub fn open() -> Result<Self, NetError> {
        let watched = Arc::new(Mutex::new(Watched::default()));
        let (tell, heard) = mpsc::channel(QUEUE);
        let listen = |protocol| {
            let error = |e| NetError::Socket { what: "packet", source: Arc::new(e) };
            let ear = ear(protocol).map_err(error)?;
            Ok(tokio::spawn(listen(ear, Arc::clone(&watched), tell.clone())))
        };
        let tasks = [listen(ETH_P_ARP)?, listen(ETH_P_IPV6)?];
        Ok(Self { watched, heard, tasks })
    }

    /// The addresses that are up here, and the interfaces of this host, from which a claim is no other's.
    pub fn watch(&self, addresses: impl Iterator<Item = IpAddr>, links: &[Link]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.addresses = addresses.collect();
        watched.own = links.iter().filter_map(|l| l.mac).collect();
    }

    /// The next claim. Cancel safe.
    pub async fn heard(&mut self) -> Option<(IpAddr, Mac)> {
        match self.heard.recv().await {
            Some(claim) => Some(claim),
            // Both sockets broke; the keeper goes on without.
            None => std::future::pending().await,
        }
    }
}

fn ear(protocol: u16) -> io::Result<UdpSocket> {
    // Without a protocol it hears nothing before its filter is in place.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    if protocol == ETH_P_IPV6 {
        socket.attach_filter(&advertisements())?;
    }
    bind(&socket, protocol)?;
    // tokio's own type of a datagram socket: it receives from whatever socket it is given.
    UdpSocket::from_std(socket.into())
}

/// Next header is ICMPv6 and its type 136: accept, else nothing.
fn advertisements() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, 54),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, 256),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn bind(socket: &Socket, protocol: u16) -> io::Result<()> {
    let every_interface = 0;
    socket.bind(&super::announce::link_address_of(every_interface, protocol))
}

async fn listen(ear: UdpSocket, watched: Arc<Mutex<Watched>>, tell: mpsc::Sender<(IpAddr, Mac)>) {
    let mut frame = [0; 256];
    let mut errors = 0;
    while errors < ERRORS_MAX {
        // That an interface went down is an error that passes.
        let Ok(n) = ear.recv(&mut frame).await else {
            errors += 1;
            continue;
        };
        errors = 0;
        let Some((address, mac)) = claim(&frame[..n]) else { continue };
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.addresses.contains(&address) && !watched.own.contains(&mac) {
            drop(watched);
            let _ = tell.try_send((address, mac));
        }
    }
}
