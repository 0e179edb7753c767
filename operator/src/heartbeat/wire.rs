//! The heartbeat datagram: who sent it, and proof that a holder of the cluster secret did.
//!
//! ```text
//! 0  4  magic "BTHB"
//! 4  1  version, 1
//! 5  1  n = length of the sender's name, 1..=63
//! 6  n  sender's name
//! …  …  message, postcard
//! …  …  additions: tag (1), length (2, little endian), content; unknown tags are skipped
//! end-32  32  HMAC-SHA256 over everything before it
//! ```
//!
//! The key is derived from the cluster secret, a label and the cluster's name, so that two clusters with the same
//! secret do not understand each other. Nothing of a datagram is used before its MAC has been verified, in
//! constant time. Replays are the core's business: the message carries incarnation and sequence number.
//!
//! Additions: 1 = [`LinkBeat`] in postcard; 2 = eight bytes of the hash of the cluster's name, always the last one, so that a
//! datagram of another cluster can be told from a forged one where neither can be authenticated. An agent of version
//! 0.1.0 sends none and reads no further than the message, so both understand each other.

use crate::core::beat::HeartbeatMsg;
use crate::core::links::LinkBeat;
use baton_replicator::transport::secret::Secret;
use baton_replicator::types::NodeName;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Largest UDP payload over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;
const MAGIC: &[u8; 4] = b"BTHB";
const VERSION: u8 = 1;
const MAC: usize = 32;
const LINKS: u8 = 1;
const CLUSTER: u8 = 2;
const CLUSTER_ID: usize = 8;
/// Tag and length of an addition.
const HEAD: usize = 3;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not one of ours.
    #[error("it is not a heartbeat")]
    Garbage,
    /// Of a version this agent does not speak.
    #[error("it has version {0}, this agent speaks 1")]
    Version(u8),
    /// The MAC does not fit: another secret, or damage.
    #[error("its authentication fails: forged, damaged, or of another secret")]
    Authentication,
    /// The MAC does not fit, and it says that it is of another cluster.
    #[error("it is of another cluster")]
    OtherCluster,
    /// Authenticated, but not decodable.
    #[error("its content cannot be decoded")]
    Content,
}

/// What a datagram said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it.
    pub from: NodeName,
    /// Its message.
    pub message: HeartbeatMsg,
    /// What it says about links; none from an agent of version 0.1.0.
    pub links: Option<LinkBeat>,
}

/// Seals and opens datagrams of one cluster.
#[derive(Clone)]
pub struct Sealer {
    mac: Hmac<Sha256>,
    cluster: [u8; CLUSTER_ID],
}

impl Sealer {
    /// Derives the key.
    #[must_use]
    pub fn new(secret: &Secret, cluster: &str) -> Self {
        let key = secret.mac("baton heartbeat v1", &[cluster.as_bytes()]);
        let mut id = [0; CLUSTER_ID];
        id.copy_from_slice(&Sha256::digest(cluster.as_bytes())[..CLUSTER_ID]);
        // HMAC takes keys of any length (RFC 2104).
        Self { mac: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"), cluster: id }
    }

    /// A datagram up to its additions: the same for every link. None if a name or length does not fit.
    #[must_use]
    pub fn encode(&self, sender: &NodeName, msg: &HeartbeatMsg) -> Option<Vec<u8>> {
        let name = sender.as_str().as_bytes();
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.push(u8::try_from(name.len()).ok()?);
        out.extend_from_slice(name);
        postcard::to_extend(msg, out).ok()
    }

    /// The whole datagram. None if it is larger than a datagram can be.
    #[must_use]
    pub fn seal(&self, encoded: &[u8], links: &LinkBeat) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(encoded.len() + 128);
        out.extend_from_slice(encoded);
        add(&mut out, LINKS, &postcard::to_stdvec(links).ok()?)?;
        add(&mut out, CLUSTER, &self.cluster)?;
        self.close(out)
    }

    /// Length of the whole datagram.
    #[must_use]
    pub fn length(encoded: &[u8], links: &LinkBeat) -> usize {
        let links = postcard::to_stdvec(links).map_or(0, |bytes| bytes.len());
        encoded.len() + HEAD + links + HEAD + CLUSTER_ID + MAC
    }

    fn close(&self, mut out: Vec<u8>) -> Option<Vec<u8>> {
        let mut mac = self.mac.clone();
        mac.update(&out);
        out.extend_from_slice(&mac.finalize().into_bytes());
        (out.len() <= MAX_DATAGRAM).then_some(out)
    }

    /// A datagram with this behind magic and version, authenticated whatever it is: what a peer with the secret may send.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn seal_content(&self, content: &[u8]) -> Vec<u8> {
        let mut out = [MAGIC.as_slice(), &[VERSION], content].concat();
        let mut mac = self.mac.clone();
        mac.update(&out);
        out.extend_from_slice(&mac.finalize().into_bytes());
        out
    }

    /// Checks a datagram and returns what it says.
    ///
    /// # Errors
    /// [`Refused`]; the datagram is then dropped and counted.
    pub fn open(&self, datagram: &[u8]) -> Result<Opened, Refused> {
        if datagram.len() < MAGIC.len() + 2 + MAC || !datagram.starts_with(MAGIC) {
            return Err(Refused::Garbage);
        }
        if datagram[4] != VERSION {
            return Err(Refused::Version(datagram[4]));
        }
        let (content, tag) = datagram.split_at(datagram.len() - MAC);
        let mut mac = self.mac.clone();
        mac.update(content);
        mac.verify_slice(tag).map_err(|_| self.unauthentic(content))?;
        let rest = &content[6..];
        let (name, message) = rest.split_at_checked(usize::from(content[5])).ok_or(Refused::Content)?;
        let name = std::str::from_utf8(name).map_err(|_| Refused::Content)?;
        let from = NodeName::new(name).map_err(|_| Refused::Content)?;
        let (message, rest) = postcard::take_from_bytes(message).map_err(|_| Refused::Content)?;
        Ok(Opened { from, message, links: additions(rest)? })
    }

    /// Only for counting: nothing of such a datagram can be believed.
    fn unauthentic(&self, content: &[u8]) -> Refused {
        let last = content.len().checked_sub(HEAD + CLUSTER_ID).and_then(|at| content.get(at..));
        match last {
            Some([CLUSTER, length, 0, id @ ..])
                if usize::from(*length) == CLUSTER_ID && *id != self.cluster =>
            {
                Refused::OtherCluster
            }
            Some(_) | None => Refused::Authentication,
        }
    }
}

fn add(out: &mut Vec<u8>, tag: u8, content: &[u8]) -> Option<()> {
    out.push(tag);
    out.extend_from_slice(&u16::try_from(content.len()).ok()?.to_le_bytes());
    out.extend_from_slice(content);
    Some(())
}

fn additions(mut rest: &[u8]) -> Result<Option<LinkBeat>, Refused> {
    let mut links = None;
    while let [tag, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (content, next) = after.split_at_checked(length).ok_or(Refused::Content)?;
        if *tag == LINKS {
            let beat: LinkBeat = postcard::from_bytes(content).map_err(|_| Refused::Content)?;
            if !beat.in_bounds() {
                return Err(Refused::Content);
            }
            links = Some(beat);
        }
        rest = next;
    }
    if rest.is_empty() { Ok(links) } else { Err(Refused::Content) }
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

    fn links() -> LinkBeat {
        LinkBeat { link: 1, stream: 3, number: 77, hears: vec![(node("beta"), 0b11)] }
    }

    fn sealer() -> Sealer {
        Sealer::new(&secret(7), "demo")
    }

    fn sealed() -> Vec<u8> {
        sealer().seal(&sealer().encode(&node("alpha"), &message()).unwrap(), &links()).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let expected = Opened { from: node("alpha"), message: message(), links: Some(links()) };
        assert_eq!(sealer().open(&sealed()), Ok(expected));
        let encoded = sealer().encode(&node("alpha"), &message()).unwrap();
        assert_eq!(sealed().len(), Sealer::length(&encoded, &links()));
    }

    /// The format of version 0.1.0, without additions: still read. A change here needs a new version.
    #[test]
    fn golden_datagram() {
        let old = sealer().close(sealer().encode(&node("alpha"), &message()).unwrap()).unwrap();
        assert_eq!(hex(&old), include_str!("golden.hex").trim());
        let expected = Opened { from: node("alpha"), message: message(), links: None };
        assert_eq!(sealer().open(&old), Ok(expected));
    }

    /// The format with what it says about links.
    #[test]
    fn golden_datagram_with_links() {
        assert_eq!(hex(&sealed()), include_str!("golden_links.hex").trim());
    }

    /// How version 0.1.0 read a message: whatever follows is left alone.
    #[test]
    fn an_agent_of_the_release_before_reads_what_this_one_sends() {
        let datagram = sealed();
        let content = &datagram[6 + "alpha".len()..datagram.len() - MAC];
        assert_eq!(postcard::from_bytes(content), Ok(message()));
    }

    #[test]
    fn an_addition_of_a_later_version_is_skipped_and_a_torn_one_refused() {
        let mut out = sealer().encode(&node("alpha"), &message()).unwrap();
        add(&mut out, 200, b"from the future").unwrap();
        add(&mut out, LINKS, &postcard::to_stdvec(&links()).unwrap()).unwrap();
        let read = sealer().open(&sealer().close(out.clone()).unwrap()).unwrap();
        assert_eq!(read.links, Some(links()));
        out.push(LINKS);
        assert_eq!(sealer().open(&sealer().close(out).unwrap()), Err(Refused::Content));
    }

    #[test]
    fn more_reports_than_a_cluster_can_have_are_refused() {
        let hears = (0..=crate::core::links::MAX_REPORTS).map(|i| (node(&format!("n{i}")), 1)).collect();
        let many = LinkBeat { hears, ..links() };
        let datagram = sealer().seal(&sealer().encode(&node("alpha"), &message()).unwrap(), &many).unwrap();
        assert_eq!(sealer().open(&datagram), Err(Refused::Content));
    }

    #[test]
    fn another_secret_and_another_cluster_are_refused_and_told_apart() {
        assert_eq!(Sealer::new(&secret(8), "demo").open(&sealed()), Err(Refused::Authentication));
        assert_eq!(Sealer::new(&secret(7), "e2e").open(&sealed()), Err(Refused::OtherCluster));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_gets_through(byte in 0usize..300, bit in 0u8..8) {
            let sealer = sealer();
            let mut datagram = sealed();
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
