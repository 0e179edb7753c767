//! Datagram links: unicast, broadcast and multicast, IPv4 and IPv6.
//!
//! A broadcast or multicast socket is bound to the group's own address and to the interface, so that it takes nothing
//! that another link's socket should have: the link by which a datagram came is the socket that has it.

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// An open datagram link.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    /// Where a link that all peers share sends to.
    to: Option<SocketAddr>,
    /// The interface it is bound to: its name, and its index at that time.
    interface: Option<(String, u32)>,
}

impl Udp {
    /// Bound to one of this node's addresses.
    pub fn unicast(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to: None, interface: None })
    }

    /// To everyone on an interface's network. The limited broadcast address needs neither an address nor a route.
    pub fn broadcast(interface: &str, port: u16) -> io::Result<Self> {
        let (socket, index) = bound_to(Domain::IPV4, interface)?;
        socket.set_broadcast(true)?;
        let to = SocketAddr::from((Ipv4Addr::BROADCAST, port));
        socket.bind(&to.into())?;
        Ok(Self { socket: socket.into(), to: Some(to), interface: Some((interface.to_owned(), index)) })
    }

    /// To a multicast group on an interface.
    pub fn multicast(group: IpAddr, interface: &str, ttl: u8, port: u16) -> io::Result<Self> {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let (socket, index) = bound_to(domain, interface)?;
        let to = match group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
                socket.set_multicast_all_v4(false)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(u32::from(ttl))?;
                SocketAddr::from((group, port))
            }
            IpAddr::V6(group) => {
                socket.set_only_v6(true)?;
                socket.join_multicast_v6(&group, index)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(u32::from(ttl))?;
                SocketAddr::V6(SocketAddrV6::new(group, port, 0, index))
            }
        };
        socket.bind(&to.into())?;
        Ok(Self { socket: socket.into(), to: Some(to), interface: Some((interface.to_owned(), index)) })
    }

    /// The interface it is bound to, with the index that it had then.
    pub fn interface_of(&self) -> Option<(String, u32)> {
        self.interface.clone()
    }

    /// Sends to an address, or where the link sends everything.
    pub fn send(&self, datagram: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        let to = to.or(self.to).ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.socket.send_to(datagram, to).map(drop)
    }

    /// Takes the next datagram.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buffer)
    }

    /// For poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The index of an interface; none if there is no such interface.
pub fn index_of(interface: &str) -> Option<u32> {
    let any = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    name_to_index(&any, interface).ok()
}

fn bound_to(domain: Domain, interface: &str) -> io::Result<(Socket, u32)> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let index = name_to_index(&socket, interface)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok((socket, index))
}
