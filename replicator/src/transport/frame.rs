//! Frames on the wire.
//!
//! ```text
//! offset  size  field (little endian)
//!      0     4  magic "BtnR"
//!      4     2  version, 1
//!      6     2  kind
//!      8     4  length of the head, at most 64 KiB
//!     12     4  length of the body, at most 2 MiB
//!     16     4  CRC32C of the body
//!     20     4  CRC32C of the 20 bytes before and the head
//!     24     …  head, then body
//! ```
//!
//! Invariant: no length is used before it is checked, nothing is delivered before its checksum is. The version
//! grows when this layout changes; a peer of another version is told so in the handshake and not talked to. The
//! handshake has a version of its own, see `auth`.

use crate::store::AlignedBuf;
use bytes::Bytes;
use std::io::{self, Read};

/// Largest head: fields and short lists. A bitmap or a list of ranges goes into the body.
pub const MAX_HEAD: usize = 64 * 1024;
/// Largest body: twice the largest write of a front end.
pub const MAX_BODY: usize = 2 * 1024 * 1024;
/// Kinds from here on belong to the transport itself.
pub const RESERVED_KINDS: u16 = 0xff00;
/// Version of the layout above.
pub(super) const VERSION: u16 = 1;
/// Length of the fixed header.
pub(super) const HEADER_LEN: usize = 24;

const MAGIC: [u8; 4] = *b"BtnR";

/// "I am alive": sent when nothing else was; never delivered.
pub(super) const KIND_PING: u16 = 0xff01;
/// Listener to dialer: the listener's nonce.
pub(super) const KIND_CHALLENGE: u16 = 0xff02;
/// Dialer to listener: who it is, its nonce and its proof.
pub(super) const KIND_HELLO: u16 = 0xff03;
/// Listener to dialer: the listener's proof.
pub(super) const KIND_WELCOME: u16 = 0xff04;
/// Listener to dialer: why not.
pub(super) const KIND_REFUSED: u16 = 0xff05;
/// Dialer to listener: the version and transport it wants.
pub(super) const KIND_OPEN: u16 = 0xff06;
/// Listener to dialer: the version it takes.
pub(super) const KIND_OPENED: u16 = 0xff07;

/// A message: a kind, a small head (fields) and a body (blocks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// What it is; below [`RESERVED_KINDS`].
    pub kind: u16,
    /// At most [`MAX_HEAD`] bytes.
    pub head: Bytes,
    /// At most [`MAX_BODY`] bytes. Received bodies are 4096-aligned in memory.
    pub body: Bytes,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are another protocol's.
    #[error("not a Baton frame")]
    Magic,
    /// Another version of the protocol.
    #[error("the peer speaks version {0} of the replication protocol, this node version {VERSION}")]
    Version(u16),
    /// A length is out of bounds.
    #[error("{what} of {len} bytes is longer than {max}")]
    TooLong {
        /// `head` or `body`.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// A checksum does not match.
    #[error("checksum of the {0} does not match")]
    Checksum(&'static str),
    /// The kind belongs to the transport.
    #[error("frame kind {0:#06x} is reserved")]
    Kind(u16),
}

impl RawFrame {
    /// A frame without a body.
    #[must_use]
    pub fn new(kind: u16, head: impl Into<Bytes>) -> Self {
        Self { kind, head: head.into(), body: Bytes::new() }
    }

    /// Its length on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.head.len() + self.body.len()
    }

    pub(super) fn check_bounds(&self) -> Result<(), FrameError> {
        bound("head", self.head.len(), MAX_HEAD)?;
        bound("body", self.body.len(), MAX_BODY)
    }

    /// The fixed header. The frame must be within bounds.
    pub(super) fn header(&self) -> [u8; HEADER_LEN] {
        let mut h = [0; HEADER_LEN];
        h[0..4].copy_from_slice(&MAGIC);
        h[4..6].copy_from_slice(&VERSION.to_le_bytes());
        h[6..8].copy_from_slice(&self.kind.to_le_bytes());
        h[8..12].copy_from_slice(&(self.head.len() as u32).to_le_bytes());
        h[12..16].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        h[16..20].copy_from_slice(&crc32c::crc32c(&self.body).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&h[..20]), &self.head);
        h[20..24].copy_from_slice(&crc.to_le_bytes());
        h
    }
}

fn bound(what: &'static str, len: usize, max: usize) -> Result<(), FrameError> {
    if len > max { Err(FrameError::TooLong { what, len, max }) } else { Ok(()) }
}

/// Why reading a frame ended.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Frame(FrameError),
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<FrameError> for ReadError {
    fn from(e: FrameError) -> Self {
        Self::Frame(e)
    }
}

/// Reads one frame. `max_body` is smaller before authentication, so that a stranger cannot make us allocate.
pub(super) fn read_frame(
    from: &mut impl Read,
    max_head: usize,
    max_body: usize,
) -> Result<RawFrame, ReadError> {
    let mut h = [0; HEADER_LEN];
    from.read_exact(&mut h)?;
    let u32_at = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let u16_at = |at: usize| u16::from_le_bytes([h[at], h[at + 1]]);
    if h[..4] != MAGIC {
        return Err(FrameError::Magic.into());
    }
    if u16_at(4) != VERSION {
        return Err(FrameError::Version(u16_at(4)).into());
    }
    let (head_len, body_len) = (u32_at(8) as usize, u32_at(12) as usize);
    bound("head", head_len, max_head)?;
    bound("body", body_len, max_body)?;
    let mut head = vec![0; head_len];
    from.read_exact(&mut head)?;
    if crc32c::crc32c_append(crc32c::crc32c(&h[..20]), &head) != u32_at(20) {
        return Err(FrameError::Checksum("head").into());
    }
    let body = if body_len == 0 {
        Bytes::new()
    } else {
        let mut body = AlignedBuf::for_overwrite(body_len);
        from.read_exact(&mut body)?;
        body.into_bytes()
    };
    if crc32c::crc32c(&body) != u32_at(16) {
        return Err(FrameError::Checksum("body").into());
    }
    Ok(RawFrame { kind: u16_at(6), head: head.into(), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frame: &RawFrame) -> Vec<u8> {
        [&frame.header()[..], &frame.head, &frame.body].concat()
    }

    fn decode(mut bytes: &[u8]) -> Result<RawFrame, ReadError> {
        read_frame(&mut bytes, MAX_HEAD, MAX_BODY)
    }

    #[test]
    fn golden_encoding() {
        let frame =
            RawFrame { kind: 0x0102, head: Bytes::from_static(b"head"), body: Bytes::from_static(b"body!") };
        let hex: String = encode(&frame).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden_frame.hex").trim());
        assert_eq!(decode(&encode(&frame)).unwrap(), frame);
    }

    #[test]
    fn lengths_are_refused_before_anything_is_allocated_or_read() {
        let mut bytes = encode(&RawFrame::new(1, "x"));
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(ReadError::Frame(FrameError::TooLong { what: "body", .. }))));
        bytes[8..12].copy_from_slice(&(MAX_HEAD as u32 + 1).to_le_bytes());
        assert!(matches!(decode(&bytes), Err(ReadError::Frame(FrameError::TooLong { what: "head", .. }))));
        bytes[4] = 9;
        assert!(matches!(decode(&bytes), Err(ReadError::Frame(FrameError::Version(9)))));
        assert!(matches!(
            decode(b"GET / HTTP/1.1\r\nHost: baton\r\n\r\n"),
            Err(ReadError::Frame(FrameError::Magic))
        ));
    }

    proptest! {
        #[test]
        fn round_trips_and_notices_any_changed_byte(
            kind in any::<u16>(),
            head in proptest::collection::vec(any::<u8>(), 0..300),
            body in proptest::collection::vec(any::<u8>(), 0..5000),
            at in any::<proptest::sample::Index>(),
            flip in 1u8..,
        ) {
            let frame = RawFrame { kind, head: head.into(), body: body.into() };
            let mut bytes = encode(&frame);
            prop_assert_eq!(&decode(&bytes).unwrap(), &frame);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
