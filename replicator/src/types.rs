//! The words both crates share: names, epochs, boot ids, generations and instants.
//!
//! They are plain data. Nothing here reads a clock or draws a random number.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A name that is not one: why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' is not a valid {kind} name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
)]
pub struct BadName {
    /// What the name was meant for (`node`, `group`, `volume`).
    pub kind: &'static str,
    /// The text that was refused.
    pub name: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,62}$", examples($example)))]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`BadName`] if the text is empty, longer than 63 bytes or has another character.
            pub fn new(name: impl Into<String>) -> Result<Self, BadName> {
                let name = name.into();
                let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
                let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                if first && name.len() <= 63 && name.chars().all(ok) {
                    Ok(Self(name))
                } else {
                    Err(BadName { kind: $kind, name })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(name: String) -> Result<Self, BadName> {
                Self::new(name)
            }
        }

        impl std::str::FromStr for $type {
            type Err = BadName;
            fn from_str(name: &str) -> Result<Self, BadName> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A host that runs one engine, one agent and one replicator.
    NodeName, "node", "alpha"
);
name_type!(
    /// The unit of failover.
    GroupName, "group", "web"
);
name_type!(
    /// A replicated block device.
    VolumeName, "volume", "webstore"
);

macro_rules! hex_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(
            feature = "openapi",
            schema(value_type = String, pattern = "^[0-9a-f]{16}$", examples("5d1c0f8e9a7b3c24"))
        )]
        pub struct $type(pub u64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                u64::from_str_radix(s, 16).map(Self)
            }
        }

        // Hexadecimal text where people read it (JSON), eight bytes where machines do (postcard).
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = String::deserialize(d)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    u64::deserialize(d).map(Self)
                }
            }
        }
    };
}

hex_id!(
    /// Identity of a replica's memory: renewed at an unclean start after a reboot of its host. Zero is never
    /// a valid boot id.
    BootId
);
hex_id!(
    /// A generation of a volume's data (DRBD's "UUID"). Zero means "no data yet".
    Generation
);
hex_id!(
    /// The random part of an [`Epoch`].
    TermId
);

/// The term of a leadership and its fencing token. Ordered by number alone is not enough: two epochs with
/// equal numbers and different terms come from different histories and are refused (see [`Epoch::relation`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Epoch {
    /// Grows by at least one with every change of leadership; 0 is "never led".
    pub number: u64,
    /// Drawn at random by the node that wrote the epoch.
    pub term: TermId,
}

/// How one epoch stands to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EpochRelation {
    /// The other one is the same.
    Same,
    /// The other one has a larger number: we are out of date.
    Newer,
    /// The other one has a smaller number: it must be refused.
    Older,
    /// Equal numbers with different terms: two histories; nothing may be done with it.
    Foreign,
}

impl Epoch {
    /// The epoch before the first leadership.
    pub const ZERO: Self = Self { number: 0, term: TermId(0) };

    /// How `other` stands to `self`.
    #[must_use]
    pub fn relation(self, other: Self) -> EpochRelation {
        match other.number.cmp(&self.number) {
            std::cmp::Ordering::Less => EpochRelation::Older,
            std::cmp::Ordering::Greater => EpochRelation::Newer,
            std::cmp::Ordering::Equal if other.term == self.term => EpochRelation::Same,
            std::cmp::Ordering::Equal => EpochRelation::Foreign,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.number, self.term.0 >> 32)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point on this host's CLOCK_BOOTTIME in nanoseconds. The clock counts suspend and is shared by all
/// containers of a host; values of two hosts are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// The beginning of time: earlier than every instant the clock gives.
    pub const ZERO: Self = Self(0);

    /// `self + d`, at most the largest representable instant.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// `self - earlier`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

/// A member of an in-sync set: a node and the boot id its replica had when it was admitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Member {
    /// The node.
    pub node: NodeName,
    /// Its replica's boot id. For a group of several volumes see `VolumeStatus::boot`.
    pub boot: BootId,
}

/// DRBD's replication protocols: what must have happened on the peer before a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Protocol {
    /// Handed to the local network stack.
    A,
    /// Received by the peer.
    B,
    /// Written by the peer.
    #[default]
    C,
}

/// How a primary volume is offered to this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrontEndKind {
    /// A block device: a FUSE file attached to a loop device.
    #[default]
    Fuse,
    /// An NBD server on a Unix socket.
    Nbd,
}

impl FrontEndKind {
    /// The word in the specification.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Nbd => "nbd",
        }
    }
}

/// How blocks travel between replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TLS 1.3, both ends with their node's certificate.
    #[default]
    Tls,
    /// Readable for whoever is on the wire: for a cable that only the hosts are on.
    Plain,
}

impl Transport {
    /// The word in the specification.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }
}

/// Role of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ReplicaRole))]
pub enum Role {
    /// Takes writes from its node's front end.
    Primary,
    /// Takes writes from the primary.
    #[default]
    Secondary,
}

/// State of a replica's data, with DRBD's meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DiskState {
    /// Detached after an I/O error or by command; the primary goes on through a peer.
    Diskless,
    /// Being opened.
    Attaching,
    /// The backing store or its metadata cannot be used; the alarm says why.
    Failed,
    /// A resync target that has not finished, or a replica without data: never promotable.
    Inconsistent,
    /// Consistent, but writes were acknowledged without it.
    Outdated,
    /// Consistent; whether it is current is not known until it talks to the primary.
    #[default]
    Consistent,
    /// Holds every acknowledged write as far as this node knows.
    UpToDate,
    /// (Of a peer that is not connected.)
    DUnknown,
}

/// State of the connection to one peer, with DRBD's meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ConnectionState {
    /// Not connected and not trying, after a split brain or by command.
    StandAlone,
    /// Trying to connect or waiting for the peer to.
    #[default]
    Connecting,
    /// Authenticated; generations are being compared, unanswered writes are sent again.
    Handshake,
    /// Connected and replicating.
    Connected,
    /// Connected; we send dirty blocks.
    SyncSource,
    /// Connected; we receive dirty blocks.
    SyncTarget,
    /// The peer does not answer in `peer_timeout`.
    Timeout,
}
