//! What the kernel knows of addresses and links, and how to change it: rtnetlink with bounds and our flags.
//!
//! Owns one route netlink connection, whose task lives on the runtime that called [`Netlink::open`]. When a
//! request fails to reach the kernel the connection is opened anew; nothing is kept that could be lost.

use super::NetError;
use super::frames::Mac;
use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Error, Handle};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bound of one request. The kernel answers within a millisecond unless something holds its rtnl lock, which
/// container engines do for some 100 ms when they tear down namespaces.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// `INFINITY_LIFE_TIME` of the kernel.
const FOREVER: u32 = u32::MAX;

/// An address as listed by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Seconds left to live, rounded down; none if it is permanent.
    pub valid_lft_s: Option<u32>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up, with carrier, and not dormant.
    pub carrier: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Ethernet address, if it has one.
    pub mac: Option<Mac>,
}

/// A route netlink connection.
pub struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens the connection, in the network namespace of this thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn open() -> Result<Self, NetError> {
        let (handle, task) = connect()?;
        Ok(Self { handle, task })
    }

    /// Adds the address, or extends its lifetime if it is there. With `connected` the subnet already has a route
    /// by another address of the interface, so that none is made that would come and go with this one.
    ///
    /// One that is not `preferred` is deprecated from the start, so that the host does not choose it as a source. IPv6
    /// addresses are usable at once (no duplicate address detection: the announcement says whose it is).
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn add_or_extend(
        &mut self,
        index: u32,
        address: IpAddr,
        wanted: (u8, bool),
        valid_lft_s: u32,
        connected: bool,
    ) -> Result<(), NetError> {
        let (prefix, preferred) = wanted;
        let mut request = self.handle.address().add(index, address, prefix).replace();
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = valid_lft_s;
        lifetime.ifa_preferred = if preferred { valid_lft_s } else { 0 };
        let mut flags = AddressFlags::empty();
        if connected {
            flags |= AddressFlags::Noprefixroute;
        }
        let message = request.message_mut();
        if address.is_ipv6() {
            flags |= AddressFlags::Nodad;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        let what = format!("give {address}/{prefix} a lifetime of {valid_lft_s} s");
        self.bounded(what, request.execute()).await
    }

    /// Removes the address. One that is not there, or whose interface is gone, counts as removed.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn remove(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), NetError> {
        let mut message = AddressMessage::default();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        let request = self.handle.address().del(message);
        match self.bounded(format!("remove {address}/{prefix}"), request.execute()).await {
            Err(NetError::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn addresses(&mut self) -> Result<Vec<Listed>, NetError> {
        let dump = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let all = self.bounded("list addresses".into(), dump).await?;
        Ok(all.iter().filter_map(listed).collect())
    }

    /// All interfaces.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn links(&mut self) -> Result<Vec<Link>, NetError> {
        let dump = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let all = self.bounded("list interfaces".into(), dump).await?;
        Ok(all.iter().map(link).collect())
    }

    async fn bounded<T>(
        &mut self,
        what: String,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, NetError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Error::NetlinkError(refused))) => Err(NetError::refused(what, refused.to_io())),
            Ok(Err(broken)) => {
                self.reopen();
                Err(NetError::refused(what, io::Error::other(broken)))
            }
            Err(_) => {
                self.reopen();
                Err(NetError::Timeout { what, timeout_ms: REQUEST_TIMEOUT.as_millis() })
            }
        }
    }

    /// Keeps the old connection if a new one cannot be had: the next failure tries again.
    fn reopen(&mut self) {
        if let Ok((handle, task)) = connect() {
            self.task.abort();
            (self.handle, self.task) = (handle, task);
        }
    }
}

fn connect() -> Result<(Handle, tokio::task::JoinHandle<()>), NetError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|e| NetError::Socket { what: "route netlink", source: Arc::new(e) })?;
    Ok((handle, tokio::spawn(connection)))
}

fn listed(message: &AddressMessage) -> Option<Listed> {
    let mut address = None;
    let mut local = None;
    let mut valid_lft_s = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(a) => address = Some(*a),
            // On point-to-point links `Address` is the other end.
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::CacheInfo(c) if c.ifa_valid != FOREVER => valid_lft_s = Some(c.ifa_valid),
            _ => {}
        }
    }
    let address = local.or(address)?;
    Some(Listed { index: message.header.index, address, prefix: message.header.prefix_len, valid_lft_s })
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut name = String::new();
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name.clone_from(n),
            LinkAttribute::Address(a) => mac = Mac::try_from(a.as_slice()).ok(),
            _ => {}
        }
    }
    let carrier = flags.contains(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running);
    Link { index: message.header.index, name, carrier, loopback: flags.contains(LinkFlags::Loopback), mac }
}
