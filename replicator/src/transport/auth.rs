//! Mutual authentication: who is there, proved with the cluster secret and, with TLS, with the node's certificate.
//!
//! ```text
//! listener → dialer   CHALLENGE  listener's nonce
//! dialer → listener   OPEN       version, TLS or plain
//! listener → dialer   OPENED     version                          (or REFUSED: why)
//!                     TLS 1.3 handshake, both with their certificates, unless plain; what follows is inside it
//! dialer → listener   HELLO      dialer's nonce, dialer, listener, volume, channel, token, proof D
//! listener → dialer   WELCOME    proof L                          (or REFUSED: why)
//! ```
//!
//! A proof is HMAC-SHA256 over the direction, the protocol version, both nonces, both names, the volume, which of the
//! session's connections this is, and a value that only the two ends of this TLS connection know: whoever sits
//! between them with a stolen authority still needs the secret. The listener answers every wrong proof in the same way
//! and tells nothing else to who has not proved himself; the dialer takes a refusal for what it is, an unauthenticated
//! hint.
//!
//! *Version 1*, of the release before, has no OPEN and no TLS: HELLO follows CHALLENGE, without channel and token, and
//! one connection is the session. Its listener hangs up at an OPEN.

use super::failure::AuthError;
use super::frame::{
    KIND_CHALLENGE, KIND_HELLO, KIND_OPEN, KIND_OPENED, KIND_REFUSED, KIND_WELCOME, RawFrame, read_frame,
};
use super::secret::Secret;
use crate::types::{NodeName, Transport, VolumeName};
use rand::RngCore;
use std::io::{self, Read, Write};

/// Version of the handshake. 2: OPEN, TLS, two connections.
pub(super) const VERSION: u16 = 2;
/// The release before.
const VERSION_BEFORE: u16 = 1;
/// Largest frame before authentication: three names of 63 bytes, nonce, token, proof, or a refusal's text.
const MAX_HANDSHAKE_HEAD: usize = 1024;
const NONCE_LEN: usize = 32;
const TOKEN_LEN: usize = 16;
const MAC_LEN: usize = 32;
const LABEL_DIALER: &str = "baton replication: dialer to listener";
const LABEL_LISTENER: &str = "baton replication: listener to dialer";

/// What the dialer is told about a proof that does not hold, and its own word for the same.
pub(super) const WRONG_SECRET: &str = "the proof does not hold: the two nodes have different cluster secrets";

pub(super) type Nonce = [u8; NONCE_LEN];
/// Names a session while its second connection comes about.
pub(super) type Token = [u8; TOKEN_LEN];
/// What only the two ends of a TLS connection know; zeroes if plain.
pub(super) type Binding = [u8; 32];

/// Who talks to whom about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parties {
    pub dialer: NodeName,
    pub listener: NodeName,
    pub volume: VolumeName,
}

/// Which of a session's two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// What the dialer says: the blocks.
    Bulk = 1,
    /// What the listener says, acknowledgements above all, and the dialer's pings.
    Acks = 2,
}

/// What a proof covers besides nonces and parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    /// Version 1.
    Before,
    /// Version 2.
    Now {
        /// Which connection.
        channel: Channel,
        /// Of which session.
        token: Token,
        /// Inside of which TLS connection.
        binding: Binding,
    },
}

/// Dialer: waits for the listener's nonce.
pub(super) fn challenged(stream: &mut impl Read) -> Result<Nonce, AuthError> {
    let frame = read_frame(stream, MAX_HANDSHAKE_HEAD, 0)?;
    match frame.kind {
        KIND_CHALLENGE => Nonce::try_from(&frame.head[..]).map_err(|_| AuthError::Unexpected),
        KIND_REFUSED => Err(refusal(&frame)),
        _ => Err(AuthError::Unexpected),
    }
}

/// Dialer: offers a version and a transport.
pub(super) fn open(stream: &mut (impl Read + Write), transport: Transport) -> Result<(), AuthError> {
    let mut head = VERSION.to_le_bytes().to_vec();
    head.push(transport_byte(transport));
    send(stream, KIND_OPEN, head)?;
    let answer = match read_frame(stream, MAX_HANDSHAKE_HEAD, 0).map_err(AuthError::from) {
        // What the release before does with a message that it does not know.
        Err(AuthError::Io(e)) if hung_up(&e) => return Err(AuthError::Older),
        other => other?,
    };
    match answer.kind {
        KIND_OPENED if answer.head[..] == VERSION.to_le_bytes() => Ok(()),
        KIND_REFUSED => Err(refusal(&answer)),
        _ => Err(AuthError::Unexpected),
    }
}

/// Dialer: says who it is, and has the listener prove itself.
pub(super) fn dial(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    nonce: &Nonce,
    parties: &Parties,
    terms: &Terms,
) -> Result<(), AuthError> {
    let own = fresh();
    let transcript = transcript(nonce, &own, parties, terms);
    let parts: Vec<&[u8]> = transcript.iter().map(Vec::as_slice).collect();
    let mut hello = own.to_vec();
    for name in [parties.dialer.as_str(), parties.listener.as_str(), parties.volume.as_str()] {
        hello.push(name.len() as u8); // at most 63, see BadName
        hello.extend_from_slice(name.as_bytes());
    }
    if let Terms::Now { channel, token, .. } = terms {
        hello.push(*channel as u8);
        hello.extend_from_slice(token);
    }
    hello.extend_from_slice(&secret.mac(LABEL_DIALER, &parts));
    // A listener that refused our certificate has hung up by now, and said why before.
    let sent = send(stream, KIND_HELLO, hello);
    let answer = match (read_frame(stream, MAX_HANDSHAKE_HEAD, 0).map_err(AuthError::from), sent) {
        (Err(AuthError::Io(_)), Err(e)) => return Err(e.into()),
        (answer, _) => answer?,
    };
    match answer.kind {
        KIND_WELCOME if secret.verify(LABEL_LISTENER, &parts, &answer.head) => Ok(()),
        KIND_WELCOME => Err(AuthError::WrongSecret),
        KIND_REFUSED => Err(refusal(&answer)),
        _ => Err(AuthError::Unexpected),
    }
}

/// What a dialer said first.
#[derive(Debug)]
pub(super) enum First {
    /// It is of the release before, and this is its HELLO.
    Before(RawFrame),
    /// It wants this.
    Open(Transport),
}

/// Listener: challenges, and hears what the dialer wants.
pub(super) fn challenge(stream: &mut (impl Read + Write)) -> Result<(Nonce, First), AuthError> {
    let nonce = fresh();
    send(stream, KIND_CHALLENGE, nonce.to_vec())?;
    let first = match read_frame(stream, MAX_HANDSHAKE_HEAD, 0).map_err(AuthError::from) {
        // A doctor, or a scanner of ports.
        Err(AuthError::Io(e)) if hung_up(&e) => return Err(AuthError::Silent),
        other => other?,
    };
    match (first.kind, &first.head[..]) {
        (KIND_HELLO, _) => Ok((nonce, First::Before(first))),
        // A newer release may append to it; it takes the version that it is answered.
        (KIND_OPEN, [low, high, transport, ..]) if u16::from_le_bytes([*low, *high]) >= VERSION => {
            let transport = match transport {
                0 => Transport::Plain,
                1 => Transport::Tls,
                _ => return Err(AuthError::Unexpected),
            };
            Ok((nonce, First::Open(transport)))
        }
        _ => Err(AuthError::Unexpected),
    }
}

/// Listener: takes the offer.
pub(super) fn opened(stream: &mut impl Write) -> Result<(), AuthError> {
    Ok(send(stream, KIND_OPENED, VERSION.to_le_bytes().to_vec())?)
}

/// Listener: reads the HELLO inside of what was opened.
pub(super) fn hello(stream: &mut impl Read) -> Result<RawFrame, AuthError> {
    Ok(read_frame(stream, MAX_HANDSHAKE_HEAD, 0)?)
}

/// Listener: checks a HELLO. `binding`: none in version 1.
pub(super) fn check(
    secret: &Secret,
    nonce: &Nonce,
    hello: &RawFrame,
    binding: Option<Binding>,
) -> Result<Proved, AuthError> {
    let Hello { nonce: own, parties, terms, mac } =
        parse_hello(hello, binding).ok_or(AuthError::Unexpected)?;
    let transcript = transcript(nonce, own, &parties, &terms);
    let parts: Vec<&[u8]> = transcript.iter().map(Vec::as_slice).collect();
    if !secret.verify(LABEL_DIALER, &parts, mac) {
        return Err(AuthError::WrongSecret);
    }
    Ok(Proved { welcome: secret.mac(LABEL_LISTENER, &parts).to_vec(), parties, terms })
}

/// A dialer that knows the secret.
#[derive(Debug)]
pub(super) struct Proved {
    pub parties: Parties,
    pub terms: Terms,
    welcome: Vec<u8>,
}

impl Proved {
    /// Listener: lets it in.
    pub fn welcome(self, stream: &mut impl Write) -> Result<(Parties, Terms), AuthError> {
        send(stream, KIND_WELCOME, self.welcome)?;
        Ok((self.parties, self.terms))
    }
}

/// Tells the dialer that there will be no session.
pub(super) fn refuse(stream: &mut impl Write, why: &str) {
    let why: String = why.chars().take(MAX_HANDSHAKE_HEAD / 4).collect();
    let _ = send(stream, KIND_REFUSED, why.into());
}

/// Names a session.
pub(super) fn token() -> Token {
    let mut token = Token::default();
    rand::rng().fill_bytes(&mut token);
    token
}

fn transcript(listener: &Nonce, dialer: &[u8], parties: &Parties, terms: &Terms) -> Vec<Vec<u8>> {
    let version = match terms {
        Terms::Before => VERSION_BEFORE,
        Terms::Now { .. } => VERSION,
    };
    let mut parts = vec![version.to_le_bytes().to_vec(), listener.to_vec(), dialer.to_vec()];
    for name in [parties.dialer.as_str(), parties.listener.as_str(), parties.volume.as_str()] {
        parts.push(name.as_bytes().to_vec());
    }
    if let Terms::Now { channel, token, binding } = terms {
        parts.extend([vec![*channel as u8], token.to_vec(), binding.to_vec()]);
    }
    parts
}

fn transport_byte(transport: Transport) -> u8 {
    match transport {
        Transport::Plain => 0,
        Transport::Tls => 1,
    }
}

fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn fresh() -> Nonce {
    let mut nonce = Nonce::default();
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

fn send(stream: &mut impl Write, kind: u16, head: Vec<u8>) -> io::Result<()> {
    let frame = RawFrame::new(kind, head);
    let mut bytes = frame.header().to_vec();
    bytes.extend_from_slice(&frame.head);
    stream.write_all(&bytes)?;
    stream.flush()
}

fn refusal(frame: &RawFrame) -> AuthError {
    // A stranger's text ends up in our log and status: printable characters only.
    let text: String = String::from_utf8_lossy(&frame.head).chars().filter(|c| !c.is_control()).collect();
    if text == WRONG_SECRET { AuthError::WrongSecret } else { AuthError::Refused(text) }
}

struct Hello<'a> {
    nonce: &'a [u8],
    parties: Parties,
    terms: Terms,
    mac: &'a [u8],
}

fn parse_hello(hello: &RawFrame, binding: Option<Binding>) -> Option<Hello<'_>> {
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
    let terms = match binding {
        None => Terms::Before,
        Some(binding) => {
            let (channel, after) = rest.split_first()?;
            let (token, after) = after.split_at_checked(TOKEN_LEN)?;
            rest = after;
            let channel = match channel {
                1 => Channel::Bulk,
                2 => Channel::Acks,
                _ => return None,
            };
            Terms::Now { channel, token: token.try_into().ok()?, binding }
        }
    };
    let parties = Parties { dialer, listener, volume };
    (rest.len() == MAC_LEN).then_some(Hello { nonce, parties, terms, mac: rest })
}
