//! Heartbeat links: the ways a node's heartbeats take, in the order in which all nodes list them.

use super::model::Spec;
use super::read::{Reader, join};
use super::tree::{Node, Value};
use crate::core::links::MAX_LINKS;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Speeds that a serial line can be set to, as in termios.
const BAUDS: [u32; 12] = [
    9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 500_000, 921_600, 1_000_000, 2_000_000,
    4_000_000,
];
/// Longest name of an interface (IFNAMSIZ - 1).
const INTERFACE_MAX: usize = 15;

/// One way for a node's heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatLink {
    /// To everyone on an interface's network (255.255.255.255).
    Broadcast {
        /// The interface.
        interface: String,
    },
    /// To a multicast group on an interface.
    Multicast {
        /// The group.
        group: IpAddr,
        /// The interface.
        interface: String,
        /// Routers that may be crossed, and one.
        ttl: u8,
    },
    /// A serial line to one other node.
    Serial {
        /// The tty.
        device: PathBuf,
        /// Bits per second.
        baud: u32,
    },
    /// The node is not on this link.
    None,
    /// To the other nodes' addresses, from this one.
    #[serde(untagged)]
    Unicast(IpAddr),
}

impl HeartbeatLink {
    /// Its kind, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unicast(_) => "unicast",
            Self::Broadcast { .. } => "broadcast",
            Self::Multicast { .. } => "multicast",
            Self::Serial { .. } => "serial",
            Self::None => "none",
        }
    }

    /// The address of a unicast link.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Unicast(address) => Some(*address),
            Self::Broadcast { .. } | Self::Multicast { .. } | Self::Serial { .. } | Self::None => None,
        }
    }

    /// All nodes on it hear what is sent once.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Broadcast { .. } | Self::Multicast { .. })
    }

    /// The node is on it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self != Self::None
    }
}

impl From<IpAddr> for HeartbeatLink {
    fn from(address: IpAddr) -> Self {
        Self::Unicast(address)
    }
}

impl fmt::Display for HeartbeatLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unicast(address) => write!(f, "{address}"),
            Self::Broadcast { interface } => write!(f, "broadcast {interface}"),
            Self::Multicast { group, interface, .. } => write!(f, "multicast {group} {interface}"),
            Self::Serial { device, .. } => write!(f, "serial {}", device.display()),
            Self::None => f.write_str("none"),
        }
    }
}

/// What a serial line carries in one keepalive, bytes: ten bits a byte, and a tenth left over for what both ends do not
/// agree on about the time.
#[must_use]
pub fn serial_budget(baud: u32, keepalive: Duration) -> usize {
    let bytes = f64::from(baud) / 10.0 * keepalive.as_secs_f64() * 0.9;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 400 kB/s for an hour"
    )]
    let bytes = bytes as usize;
    bytes
}

/// Upper bound of a heartbeat on a serial line, bytes: what is there without groups, with the longest node name twice.
pub const SERIAL_BASE: usize = 260;
/// Upper bound of what one group adds beside its name and the leader's, bytes.
pub const SERIAL_GROUP: usize = 230;

/// Upper bound of one group's part.
#[must_use]
pub fn serial_group(name: &str) -> usize {
    SERIAL_GROUP + name.len()
}

impl Reader<'_> {
    /// One entry of a node's `heartbeat`.
    pub(super) fn heartbeat_link(&mut self, node: &Node, path: &str) -> Option<HeartbeatLink> {
        if !matches!(node.value, Value::Map(_)) {
            if matches!(&node.value, Value::Scalar(text) if text == "none") {
                return Some(HeartbeatLink::None);
            }
            return self.address(node, path).map(HeartbeatLink::Unicast);
        }
        let mut fields = self.fields(node, path, "unicast, broadcast, multicast or serial");
        let all = [
            self.get(&mut fields, "unicast", Self::address).map(HeartbeatLink::Unicast),
            self.get(&mut fields, "broadcast", Self::interface)
                .map(|interface| HeartbeatLink::Broadcast { interface }),
            self.get(&mut fields, "multicast", Self::multicast),
            self.get(&mut fields, "serial", Self::serial),
        ];
        let given = fields.entries.iter().filter(|e| fields.known.contains(&e.key.as_str())).count();
        self.finish(fields);
        if given != 1 {
            let found = if given == 0 { "none" } else { "several" };
            self.error(
                node.line,
                path,
                format!(
                    "must be exactly one of unicast, broadcast, multicast and serial; it has {found} of them"
                ),
            );
            return None;
        }
        all.into_iter().flatten().next()
    }

    fn interface(&mut self, node: &Node, path: &str) -> Option<String> {
        self.scalar(node, path, |text| {
            let fits = text.len() <= INTERFACE_MAX && !text.contains(|c: char| c.is_whitespace() || c == '/');
            if fits && !matches!(text, "." | "..") {
                Ok(text.to_owned())
            } else {
                Err(format!("'{text}' is not the name of an interface; 'ip link' lists them"))
            }
        })
    }

    fn multicast(&mut self, node: &Node, path: &str) -> Option<HeartbeatLink> {
        let mut fields = self.fields(node, path, "group, interface");
        let group = self.get(&mut fields, "group", |r, n, p| {
            r.scalar(n, p, |text| match text.parse::<IpAddr>() {
                Ok(group) if group.is_multicast() => Ok(group),
                Ok(_) | Err(_) => Err(format!(
                    "'{text}' is not a multicast group; write one of 239.0.0.0/8, or one like ff02::694"
                )),
            })
        });
        let interface = self.get(&mut fields, "interface", Self::interface);
        let ttl = self.get(&mut fields, "ttl", |r, n, p| {
            r.scalar(n, p, |text| match text.parse::<u8>() {
                Ok(ttl) if ttl > 0 => Ok(ttl),
                Ok(_) | Err(_) => Err(format!("'{text}' is not a number from 1 to 255")),
            })
        });
        for (name, missing) in [("group", group.is_none()), ("interface", interface.is_none())] {
            if missing && fields.entries.iter().all(|e| e.key != name) {
                self.error(node.line, &join(path, name), "is missing");
            }
        }
        self.finish(fields);
        Some(HeartbeatLink::Multicast { group: group?, interface: interface?, ttl: ttl.unwrap_or(1) })
    }

    fn serial(&mut self, node: &Node, path: &str) -> Option<HeartbeatLink> {
        let mut fields = self.fields(node, path, "device, baud");
        let device = self.get(&mut fields, "device", |r, n, p| {
            r.scalar(n, p, |text| {
                if text.starts_with("/dev/") && !text.contains("/../") {
                    Ok(PathBuf::from(text))
                } else {
                    Err(format!("'{text}' is not a device under /dev, like /dev/ttyS0"))
                }
            })
        });
        let baud = self.get(&mut fields, "baud", |r, n, p| {
            r.scalar(n, p, |text| match text.parse::<u32>() {
                Ok(baud) if BAUDS.contains(&baud) => Ok(baud),
                Ok(_) | Err(_) => {
                    Err(format!("'{text}' is not a speed of a serial line; known are {BAUDS:?}"))
                }
            })
        });
        if device.is_none() && fields.entries.iter().all(|e| e.key != "device") {
            self.error(node.line, &join(path, "device"), "is missing");
        }
        self.finish(fields);
        Some(HeartbeatLink::Serial { device: device?, baud: baud.unwrap_or(115_200) })
    }
}

/// What must hold between the nodes' links.
pub(super) fn validate(spec: &Spec, r: &mut Reader<'_>) {
    let number = spec.nodes.values().next().map_or(1, |n| n.heartbeat.len());
    for (name, node) in &spec.nodes {
        let has = node.heartbeat.len();
        if has != number {
            r.at(
                &format!("nodes.{name}"),
                format!(
                    "has {has} heartbeat link(s) where the first node has {number}; give every node an address on every link"
                ),
            );
            return;
        }
    }
    if number > MAX_LINKS {
        r.at("nodes", format!("{number} heartbeat links are more than {MAX_LINKS}"));
        return;
    }
    for link in 0..number {
        same_kind(spec, link, r);
    }
    let names: Vec<_> = spec.nodes.keys().collect();
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            let on = |name: &_, link: usize| spec.nodes[name].heartbeat[link].is_there();
            if !(0..number).any(|link| on(*a, link) && on(*b, link)) {
                r.at(
                    &format!("nodes.{b}.heartbeat"),
                    format!("{a} and {b} have no heartbeat link in common"),
                );
            }
        }
    }
    for (name, node) in &spec.nodes {
        for (i, link) in node.heartbeat.iter().enumerate() {
            let twice = link.address().is_none() && link.is_there();
            if twice && node.heartbeat[..i].iter().any(|other| same_wire(other, link)) {
                r.at(
                    &format!("nodes.{name}.heartbeat[{i}]"),
                    format!("{link} is listed twice; each is a link of its own"),
                );
            }
            if let HeartbeatLink::Serial { baud, .. } = link {
                carries(spec, &format!("nodes.{name}.heartbeat[{i}]"), *baud, r);
            }
        }
    }
}

fn same_wire(a: &HeartbeatLink, b: &HeartbeatLink) -> bool {
    match (a, b) {
        (HeartbeatLink::Serial { device: a, .. }, HeartbeatLink::Serial { device: b, .. }) => a == b,
        (
            HeartbeatLink::Multicast { group: a, interface: i, .. },
            HeartbeatLink::Multicast { group: b, interface: j, .. },
        ) => a == b && i == j,
        _ => a == b,
    }
}

fn same_kind(spec: &Spec, link: usize, r: &mut Reader<'_>) {
    let there =
        || spec.nodes.iter().map(|(n, node)| (n, &node.heartbeat[link])).filter(|(_, l)| l.is_there());
    let Some((first, what)) = there().next() else { return };
    for (name, other) in there().skip(1) {
        let at = format!("nodes.{name}.heartbeat[{link}]");
        if other.kind() != what.kind() {
            r.at(
                &at,
                format!(
                    "is {}, but {} at {first}: a link has one kind, and the same place in every node's list; a node that is \
                     not on it writes none",
                    other.kind(),
                    what.kind()
                ),
            );
        } else if let (HeartbeatLink::Multicast { group: a, .. }, HeartbeatLink::Multicast { group: b, .. }) =
            (what, other)
            && a != b
        {
            r.at(&at, format!("has group {b} where {first} has {a}: the nodes would not hear each other"));
        } else if let (HeartbeatLink::Serial { baud: a, .. }, HeartbeatLink::Serial { baud: b, .. }) =
            (what, other)
            && a != b
        {
            r.at(&at, format!("has {b} baud where {first} has {a}: both ends of a line need the same"));
        }
    }
    let ends = there().count();
    if matches!(what, HeartbeatLink::Serial { .. }) && ends != 2 {
        r.at(
            &format!("nodes.{first}.heartbeat[{link}]"),
            format!("a serial line joins two nodes, this one {ends}; nodes that are not on it write none in its place"),
        );
    }
}

/// Every heartbeat must fit with at least one group; with more they take turns.
fn carries(spec: &Spec, at: &str, baud: u32, r: &mut Reader<'_>) {
    let keepalive = spec.heartbeat.keepalive;
    let budget = serial_budget(baud, keepalive);
    let largest = spec.groups.keys().map(|g| serial_group(g.as_str())).max().unwrap_or(0);
    let needed = SERIAL_BASE + largest;
    if needed > budget {
        let fast = BAUDS.iter().find(|b| serial_budget(**b, keepalive) >= needed);
        let fast = fast.map_or_else(String::new, |b| format!("a line of {b} baud, or "));
        let slow = needed as u128 * 10_000 / (u128::from(baud) * 9 / 10) + 1;
        r.at(
            at,
            format!(
                "{baud} baud carry {budget} bytes in a keepalive of {} ms, and a heartbeat may need {needed}: take {fast}a \
                 keepalive of at least {slow} ms",
                keepalive.as_millis()
            ),
        );
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
