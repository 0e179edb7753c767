//! The heartbeat datagram: who sent it, and proof that a holder of the cluster secret did.
//!
//! ```text
//! 0  4  magic "BTHB"
//! 4  1  version, 1
//! 5  1  n = length of the sender's name, 1..=63
//! 6  n  sender's name
//! …  …  message, postcard
//! end-32  32  HMAC-SHA256 over everything before it
//! ```
//!
//! The key is derived from the cluster secret, a label and the cluster's name, so that two clusters with the same
//! secret do not understand each other. Nothing of a datagram is used before its MAC has been verified, in
//! constant time. Replays are the core's business: the message carries incarnation and sequence number.

use crate::core::beat::HeartbeatMsg;
use baton_replicator::transport::secret::Secret;
use baton_replicator::types::NodeName;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Largest UDP payload over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;
const MAGIC: &[u8; 4] = b"BTHB";
const VERSION: u8 = 1;
const MAC: usize = 32;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not one of ours.
    #[error("it is not a heartbeat")]
    Garbage,
    /// Of a version this agent does not speak.
    #[error("it has version {0}, this agent speaks 1")]
    Version(u8),
    /// The MAC does not fit: another secret, another cluster, or damage.
    #[error("its authentication fails: another secret or another cluster")]
    Authentication,
    /// Authenticated, but not decodable.
    #[error("its content cannot be decoded")]
    Content,
}

/// Seals and opens datagrams of one cluster.
#[derive(Clone)]
pub struct Sealer {
    mac: Hmac<Sha256>,
}

impl Sealer {
    /// Derives the key.
    #[must_use]
    pub fn new(secret: &Secret, cluster: &str) -> Self {
        let key = secret.mac("baton heartbeat v1", &[cluster.as_bytes()]);
        // HMAC takes keys of any length (RFC 2104).
        Self { mac: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length") }
    }

    /// The datagram that carries `msg`. None if it is larger than a datagram can be.
    #[must_use]
    pub fn seal(&self, sender: &NodeName, msg: &HeartbeatMsg) -> Option<Vec<u8>> {
        let name = sender.as_str().as_bytes();
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.push(u8::try_from(name.len()).ok()?);
        out.extend_from_slice(name);
        let mut out = postcard::to_extend(msg, out).ok()?;
        let mut mac = self.mac.clone();
        mac.update(&out);
        out.extend_from_slice(&mac.finalize().into_bytes());
        (out.len() <= MAX_DATAGRAM).then_some(out)
    }

    /// Checks a datagram and returns its sender and message.
    ///
    /// # Errors
    /// [`Refused`]; the datagram is then dropped and counted.
    pub fn open(&self, datagram: &[u8]) -> Result<(NodeName, HeartbeatMsg), Refused> {
        if datagram.len() < MAGIC.len() + 2 + MAC || !datagram.starts_with(MAGIC) {
            return Err(Refused::Garbage);
        }
        if datagram[4] != VERSION {
            return Err(Refused::Version(datagram[4]));
        }
        let (content, tag) = datagram.split_at(datagram.len() - MAC);
        let mut mac = self.mac.clone();
        mac.update(content);
        mac.verify_slice(tag).map_err(|_| Refused::Authentication)?;
        let rest = &content[6..];
        let (name, message) = rest.split_at_checked(usize::from(content[5])).ok_or(Refused::Content)?;
        let name = std::str::from_utf8(name).map_err(|_| Refused::Content)?;
        let name = NodeName::new(name).map_err(|_| Refused::Content)?;
        let message = postcard::from_bytes(message).map_err(|_| Refused::Content)?;
        Ok((name, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::beat::{Ack, GroupBeat};
    use baton_replicator::types::{BootId, Epoch, GroupName, Instant, TermId};
    use proptest::prelude::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 32]).unwrap()
    }

    fn message() -> HeartbeatMsg {
        let epoch = Epoch { number: 3, term: TermId(7) };
        HeartbeatMsg {
            incarnation: 11,
            seq: 42,
            sent: Instant(1_000_000),
            echo: false,
            etcd: true,
            groups: vec![GroupBeat {
                group: GroupName::new("web").unwrap(),
                epoch,
                leading: true,
                holds: true,
                released: None,
                ask_ms: None,
                ready: true,
                state: 5,
                boot: BootId(0xb007),
                insync_rev: 99,
                ack: Some(Ack {
                    leader: node("beta"),
                    incarnation: 12,
                    epoch,
                    sent: Instant(5),
                    promise_ms: 1500,
                }),
            }],
            summary: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let sealer = Sealer::new(&secret(7), "demo");
        let datagram = sealer.seal(&node("alpha"), &message()).unwrap();
        assert_eq!(sealer.open(&datagram), Ok((node("alpha"), message())));
    }

    /// The format on the wire: a change here needs a new version.
    #[test]
    fn golden_datagram() {
        let datagram = Sealer::new(&secret(7), "demo").seal(&node("alpha"), &message()).unwrap();
        let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden.hex").trim());
    }

    #[test]
    fn another_secret_and_another_cluster_are_refused() {
        let datagram = Sealer::new(&secret(7), "demo").seal(&node("alpha"), &message()).unwrap();
        for other in [Sealer::new(&secret(8), "demo"), Sealer::new(&secret(7), "e2e")] {
            assert_eq!(other.open(&datagram), Err(Refused::Authentication));
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_gets_through(byte in 0usize..200, bit in 0u8..8) {
            let sealer = Sealer::new(&secret(7), "demo");
            let mut datagram = sealer.seal(&node("alpha"), &message()).unwrap();
            let byte = byte % datagram.len();
            datagram[byte] ^= 1 << bit;
            prop_assert!(sealer.open(&datagram).is_err());
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Sealer::new(&secret(7), "demo").open(&bytes).is_err());
        }
    }
}
