//! The datagram around a heartbeat message.
//!
//! ```text
//! offset 0   magic "BTNH"
//!        4   version, 1
//!        5   length n of the sender's name, 1 to 63
//!        6   first 8 bytes of SHA-256 of the cluster's name
//!       14   the sender's name, n bytes
//!     14+n   the message (postcard)
//!  end-32    HMAC-SHA256 over a label and everything before, keyed with the cluster secret
//! ```
//!
//! Nothing of the message is looked at before the HMAC has been checked. Replays pass here: the message carries
//! (incarnation, sequence number), and the decision core refuses what is not newer.

use super::Secret;
use baton_replicator::types::NodeName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 4] = b"BTNH";
const VERSION: u8 = 1;
const HEADER: usize = 14;
const MAC: usize = 32;
const LABEL: &str = "baton heartbeat 1";

/// Largest datagram: what UDP over IPv4 carries (65 507 bytes), rounded down. 128 groups need about 20 KiB.
pub const MAX_DATAGRAM: usize = 60 * 1024;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not one of ours, or cut off.
    #[error("not a heartbeat")]
    Garbage,
    /// Longer than any heartbeat.
    #[error("longer than {MAX_DATAGRAM} bytes")]
    Oversize,
    /// Another version of the format.
    #[error("another version of the heartbeat format")]
    Version,
    /// Another cluster on the same network.
    #[error("of another cluster")]
    Cluster,
    /// Another secret.
    #[error("authentication failed: the sender has another secret")]
    Authentication,
    /// Authentic, but the message does not decode.
    #[error("message does not decode")]
    Message,
    /// Authentic, but the sender is this node, or none of the specification's.
    #[error("sender is not a peer")]
    Stranger,
}

/// Message that does not fit into a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("heartbeat does not encode within {MAX_DATAGRAM} bytes")]
pub struct TooLarge;

/// Seals and opens datagrams of one cluster.
#[derive(Debug, Clone)]
pub struct Codec {
    secret: Secret,
    cluster: [u8; 8],
}

impl Codec {
    /// For the cluster of this name.
    #[must_use]
    pub fn new(secret: Secret, cluster: &str) -> Self {
        let hash = Sha256::digest(cluster.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self { secret, cluster: id }
    }

    /// The datagram for a message.
    ///
    /// # Errors
    /// It would be too long.
    pub fn seal<M: Serialize>(&self, sender: &NodeName, message: &M) -> Result<Vec<u8>, TooLarge> {
        let name = sender.as_str().as_bytes();
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.push(u8::try_from(name.len()).map_err(|_| TooLarge)?);
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(name);
        let mut out = postcard::to_extend(message, out).map_err(|_| TooLarge)?;
        let mac = self.secret.mac(LABEL, &[&out]);
        out.extend_from_slice(&mac);
        if out.len() > MAX_DATAGRAM { Err(TooLarge) } else { Ok(out) }
    }

    /// The sender and message of a datagram.
    ///
    /// # Errors
    /// Why it must be dropped.
    pub fn open<M: DeserializeOwned>(&self, datagram: &[u8]) -> Result<(NodeName, M), Refused> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(Refused::Oversize);
        }
        if datagram.len() < HEADER + MAC || &datagram[..4] != MAGIC {
            return Err(Refused::Garbage);
        }
        if datagram[4] != VERSION {
            return Err(Refused::Version);
        }
        if datagram[6..HEADER] != self.cluster {
            return Err(Refused::Cluster);
        }
        let (signed, mac) = datagram.split_at(datagram.len() - MAC);
        if !self.secret.verify(LABEL, &[signed], mac) {
            return Err(Refused::Authentication);
        }
        let name_end = HEADER + usize::from(datagram[5]);
        let name = signed.get(HEADER..name_end).ok_or(Refused::Garbage)?;
        let sender =
            std::str::from_utf8(name).ok().and_then(|n| NodeName::new(n).ok()).ok_or(Refused::Garbage)?;
        match postcard::take_from_bytes(&signed[name_end..]) {
            Ok((message, [])) => Ok((sender, message)),
            _ => Err(Refused::Message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Message = (u64, Vec<u8>, String);

    fn codec(key: u8, cluster: &str) -> Codec {
        Codec::new(Secret::new([key; 32]).unwrap(), cluster)
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn sample() -> Message {
        (300, vec![1, 2, 3], "web".into())
    }

    #[test]
    fn the_format_is_the_golden_one() {
        let sealed = codec(7, "demo").seal(&node("alpha"), &sample()).unwrap();
        let hex: String = sealed.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden_datagram.hex").trim());
    }

    #[test]
    fn only_the_same_cluster_and_secret_open_it() {
        let sealed = codec(7, "demo").seal(&node("alpha"), &sample()).unwrap();
        assert_eq!(codec(7, "demo").open(&sealed), Ok((node("alpha"), sample())));
        assert_eq!(codec(8, "demo").open::<Message>(&sealed), Err(Refused::Authentication));
        assert_eq!(codec(7, "other").open::<Message>(&sealed), Err(Refused::Cluster));
        assert_eq!(codec(7, "demo").open::<(u64, u64, u64, u64, String)>(&sealed), Err(Refused::Message));
        assert_eq!(codec(7, "demo").open::<(u64, Vec<u8>)>(&sealed), Err(Refused::Message), "trailing bytes");
        let mut newer = sealed.clone();
        newer[4] = 2;
        assert_eq!(codec(7, "demo").open::<Message>(&newer), Err(Refused::Version));
        assert_eq!(codec(7, "demo").open::<Message>(&vec![0; MAX_DATAGRAM + 1]), Err(Refused::Oversize));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_sender() {
        let large: Message = (0, vec![0; MAX_DATAGRAM], String::new());
        assert_eq!(codec(7, "demo").seal(&node("alpha"), &large), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in 0_usize..1000, with in 1_u8..=255) {
            let codec = codec(7, "demo");
            let mut sealed = codec.seal(&node("alpha"), &sample()).unwrap();
            let at = at % sealed.len();
            sealed[at] ^= with;
            prop_assert!(codec.open::<Message>(&sealed).is_err());
            prop_assert!(codec.open::<Message>(&sealed[..at]).is_err());
        }

        #[test]
        fn garbage_never_opens(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(codec(7, "demo").open::<Message>(&bytes).is_err());
        }
    }
}
