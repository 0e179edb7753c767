//! Mutual authentication: who is there, proved with the cluster secret.
//!
//! ```text
//! listener → dialer   CHALLENGE  listener's nonce
//! dialer → listener   HELLO      dialer's nonce, dialer, listener, volume, proof D
//! listener → dialer   WELCOME    proof L          (or REFUSED: why)
//! ```
//!
//! A proof is HMAC-SHA256 over the direction, the protocol version, both nonces, both names and the volume. The
//! listener answers every wrong proof in the same way and tells nothing else to who has not proved himself; the
//! dialer takes a refusal for what it is, an unauthenticated hint.

use super::frame::{
    FrameError, KIND_CHALLENGE, KIND_HELLO, KIND_REFUSED, KIND_WELCOME, RawFrame, ReadError, VERSION,
    read_frame,
};
use super::secret::Secret;
use crate::types::{NodeName, VolumeName};
use rand::RngCore;
use std::io::{self, Read, Write};
use std::time::Duration;

/// Largest frame before authentication: three names of 63 bytes, nonce, proof, or a refusal's text.
const MAX_HANDSHAKE_HEAD: usize = 1024;
const NONCE_LEN: usize = 32;
const MAC_LEN: usize = 32;
const LABEL_DIALER: &str = "baton replication: dialer to listener";
const LABEL_LISTENER: &str = "baton replication: listener to dialer";

/// What the dialer is told about a proof that does not hold, and its own word for the same.
const WRONG_SECRET: &str = "the proof does not hold: the two nodes have different cluster secrets";

/// Who talks to whom about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parties {
    pub dialer: NodeName,
    pub listener: NodeName,
    pub volume: VolumeName,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    #[error("the handshake broke off: {0}")]
    Io(io::Error),
    #[error("the handshake broke off: {0}")]
    Frame(FrameError),
    #[error("unexpected message in the handshake")]
    Unexpected,
    #[error("{WRONG_SECRET}")]
    WrongSecret,
    #[error("the node at this address is not {0}: {1}")]
    WrongNode(NodeName, String),
    #[error("refused by the peer: {0}")]
    Refused(String),
    #[error("refused here: {0}")]
    NotAdmitted(String),
}

impl From<ReadError> for AuthError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Self::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            ReadError::Io(e) => Self::Io(e),
            ReadError::Frame(e) => Self::Frame(e),
        }
    }
}

impl From<io::Error> for AuthError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The dialer's side.
pub(super) fn dial(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    parties: &Parties,
) -> Result<(), AuthError> {
    let challenge = read_frame(stream, MAX_HANDSHAKE_HEAD, 0)?;
    if challenge.kind == KIND_REFUSED {
        return Err(refusal(&challenge));
    }
    if challenge.kind != KIND_CHALLENGE || challenge.head.len() != NONCE_LEN {
        return Err(AuthError::Unexpected);
    }
    let nonce = fresh_nonce();
    let transcript = Transcript { listener_nonce: &challenge.head, dialer_nonce: &nonce, parties };
    let mut hello = nonce.to_vec();
    for name in [parties.dialer.as_str(), parties.listener.as_str(), parties.volume.as_str()] {
        hello.push(name.len() as u8); // at most 63, see BadName
        hello.extend_from_slice(name.as_bytes());
    }
    hello.extend_from_slice(&secret.mac(LABEL_DIALER, &transcript.parts()));
    send(stream, KIND_HELLO, hello)?;
    let answer = read_frame(stream, MAX_HANDSHAKE_HEAD, 0)?;
    match answer.kind {
        KIND_WELCOME if secret.verify(LABEL_LISTENER, &transcript.parts(), &answer.head) => Ok(()),
        KIND_WELCOME => Err(AuthError::WrongSecret),
        KIND_REFUSED => Err(refusal(&answer)),
        _ => Err(AuthError::Unexpected),
    }
}

/// The listener's side. `admit` is asked after the dialer has proved itself.
pub(super) fn listen(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    node: &NodeName,
    admit: impl FnOnce(&NodeName, &VolumeName) -> Result<Duration, String>,
) -> Result<(Parties, Duration), AuthError> {
    let nonce = fresh_nonce();
    send(stream, KIND_CHALLENGE, nonce.to_vec())?;
    let hello = read_frame(stream, MAX_HANDSHAKE_HEAD, 0)?;
    let (dialer_nonce, parties, mac) = parse_hello(&hello).ok_or(AuthError::Unexpected)?;
    let transcript = Transcript { listener_nonce: &nonce, dialer_nonce, parties: &parties };
    if !secret.verify(LABEL_DIALER, &transcript.parts(), mac) {
        let _ = send(stream, KIND_REFUSED, WRONG_SECRET.into());
        return Err(AuthError::WrongSecret);
    }
    if parties.listener != *node {
        let text = format!("this is {node}");
        let _ = send(stream, KIND_REFUSED, text.clone().into());
        return Err(AuthError::WrongNode(parties.listener, text));
    }
    match admit(&parties.dialer, &parties.volume) {
        Ok(peer_timeout) => {
            send(stream, KIND_WELCOME, secret.mac(LABEL_LISTENER, &transcript.parts()).to_vec())?;
            Ok((parties, peer_timeout))
        }
        Err(why) => {
            let why: String = why.chars().take(MAX_HANDSHAKE_HEAD / 4).collect();
            let _ = send(stream, KIND_REFUSED, why.clone().into());
            Err(AuthError::NotAdmitted(why))
        }
    }
}

/// Tells a stranger that there is no room, before the challenge.
pub(super) fn refuse(stream: &mut impl Write, why: &str) {
    let _ = send(stream, KIND_REFUSED, why.into());
}

struct Transcript<'a> {
    listener_nonce: &'a [u8],
    dialer_nonce: &'a [u8],
    parties: &'a Parties,
}

impl Transcript<'_> {
    fn parts(&self) -> [&[u8]; 6] {
        const VERSION_BYTES: [u8; 2] = VERSION.to_le_bytes();
        [
            &VERSION_BYTES,
            self.listener_nonce,
            self.dialer_nonce,
            self.parties.dialer.as_str().as_bytes(),
            self.parties.listener.as_str().as_bytes(),
            self.parties.volume.as_str().as_bytes(),
        ]
    }
}

fn fresh_nonce() -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

fn send(stream: &mut impl Write, kind: u16, head: Vec<u8>) -> io::Result<()> {
    let frame = RawFrame::new(kind, head);
    let mut bytes = frame.header().to_vec();
    bytes.extend_from_slice(&frame.head);
    stream.write_all(&bytes)
}

fn refusal(frame: &RawFrame) -> AuthError {
    // A stranger's text ends up in our log and status: printable characters only.
    let text: String = String::from_utf8_lossy(&frame.head).chars().filter(|c| !c.is_control()).collect();
    if text == WRONG_SECRET { AuthError::WrongSecret } else { AuthError::Refused(text) }
}

fn parse_hello(hello: &RawFrame) -> Option<(&[u8], Parties, &[u8])> {
    if hello.kind != KIND_HELLO {
        return None;
    }
    let (nonce, mut rest) = hello.head.split_at_checked(NONCE_LEN)?;
    let mut name = || {
        let (len, after) = rest.split_first()?;
        let (text, after) = after.split_at_checked(usize::from(*len))?;
        rest = after;
        std::str::from_utf8(text).ok()
    };
    let dialer = NodeName::new(name()?).ok()?;
    let listener = NodeName::new(name()?).ok()?;
    let volume = VolumeName::new(name()?).ok()?;
    (rest.len() == MAC_LEN).then_some((nonce, Parties { dialer, listener, volume }, rest))
}
