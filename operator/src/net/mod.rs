//! Addresses that follow a group: netlink, gratuitous ARP and unsolicited neighbour advertisements.
//!
//! * [`AddressKeeper`] owns the addresses: a thread of its own that adds, extends, announces and removes them.
//! * [`gate`] lets packets of an address pass only until serve-until, in the kernel (nftables).
//! * `claims` hears who else says that an address is theirs.
//! * [`netlink`] asks the kernel, [`monitor`] is woken by it, [`announce`] sends frames made by [`frames`].
//! * [`interface`] chooses where an address belongs, without I/O.
//!
//! Every address carries a kernel lifetime of one second that is only extended while the group may serve. If the
//! agent dies or freezes, the gate closes at serve-until, and the kernel removes the address about a second later.

pub mod announce;
mod claims;
pub mod frames;
pub mod gate;
pub mod interface;
mod keeper;
pub mod monitor;
pub mod netlink;
pub mod probe;

pub use keeper::{
    AddressKeeper, AddressState, GateConfig, KeeperError, KeeperEvent, LIFETIME_S, LinkState, RemovalReason,
    Wanted,
};

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Why the kernel did not do what was asked. Cheap to clone: it goes to a waiter and to the event log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// A socket could not be opened; usually the capability NET_ADMIN or NET_RAW is missing.
    #[error("cannot open a {what} socket")]
    Socket {
        /// Kind of socket.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The kernel refused.
    #[error("cannot {what}")]
    Refused {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// No answer in time.
    #[error("the kernel did not answer '{what}' within {timeout_ms} ms")]
    Timeout {
        /// What was asked.
        what: String,
        /// The bound.
        timeout_ms: u128,
    },
    /// The address fits nowhere.
    #[error(
        "no interface for {address}: no connected subnet holds it, and none carries the node's address {own}"
    )]
    NoInterface {
        /// The address.
        address: IpAddr,
        /// The node's own address.
        own: IpAddr,
    },
    /// The address is on the host without a lifetime: somebody else configured it, and it would answer on two
    /// hosts at once.
    #[error("{address} stands permanently on {interface}: remove it from the host's network configuration")]
    Foreign {
        /// The address.
        address: IpAddr,
        /// Where it stands.
        interface: String,
    },
}

impl NetError {
    fn refused(what: impl Into<String>, source: io::Error) -> Self {
        Self::Refused { what: what.into(), source: Arc::new(source) }
    }
}
