//! Fuzz target: bytes from a peer, before and after it has proved itself.
//!
//! What is read as a frame is what was sent; nobody gets in without the secret; no length makes us allocate more than a
//! frame may have.

use super::auth::{self, Channel, Parties, Terms};
use super::frame::{HEADER_LEN, KIND_HELLO, MAX_BODY, MAX_HEAD, RawFrame, ReadError, read_frame};
use super::secret::Secret;
use crate::fuzz::bytes::Choices;
use crate::types::{NodeName, Transport, VolumeName};
use std::io::{self, Cursor, Read, Write};

/// What comes is given, what goes is dropped.
struct Stranger<'a>(Cursor<&'a [u8]>);

impl Read for Stranger<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Stranger<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first frame's checksums are made right, if it is all there: otherwise nothing would come further.
fn seal(bytes: &mut [u8]) {
    let Some(h) = bytes.first_chunk::<HEADER_LEN>() else { return };
    let len = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]) as usize;
    let (head, body) = (len(8).min(MAX_HEAD), len(12).min(MAX_BODY));
    if bytes.len() >= HEADER_LEN + head + body {
        let crc = crc32c::crc32c(&bytes[HEADER_LEN + head..HEADER_LEN + head + body]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[HEADER_LEN..HEADER_LEN + head]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Runs it.
pub fn fuzz_wire(data: &[u8]) {
    let mut c = Choices::new(data);
    let what = c.below(8);
    let mut bytes = c.rest().to_vec();
    if !c.rarely(8) {
        seal(&mut bytes);
    }
    let secret = Secret::new([7; 32]).expect("long enough");
    let parties = Parties {
        dialer: NodeName::new("alpha").expect("a name"),
        listener: NodeName::new("beta").expect("a name"),
        volume: VolumeName::new("webstore").expect("a name"),
    };
    let now = Terms::Now { channel: Channel::Bulk, token: [1; 16], binding: [2; 32] };
    let mut stranger = Stranger(Cursor::new(&bytes));
    match what {
        0..=2 => frame(&bytes),
        3 => drop(auth::challenged(&mut stranger)),
        4 => drop(auth::open(&mut stranger, Transport::Tls)),
        5 => {
            let terms = if bytes.len().is_multiple_of(2) { now } else { Terms::Before };
            let welcome = auth::dial(&mut stranger, &secret, &[3; 32], &parties, &terms);
            assert!(welcome.is_err(), "welcomed by who does not know the secret");
        }
        6 => drop(auth::challenge(&mut stranger)),
        _ => {
            let hello = RawFrame::new(KIND_HELLO, bytes.clone());
            for binding in [None, Some([2; 32])] {
                let proved = auth::check(&secret, &[3; 32], &hello, binding);
                assert!(proved.is_err(), "let in without the secret: {proved:?}");
            }
        }
    }
}

fn frame(bytes: &[u8]) {
    let mut from = bytes;
    match read_frame(&mut from, MAX_HEAD, MAX_BODY) {
        Ok(frame) => {
            let read = bytes.len() - from.len();
            let again = [&frame.header()[..], &frame.head, &frame.body].concat();
            assert_eq!(again, bytes[..read], "{frame:?}");
            assert!(frame.check_bounds().is_ok());
        }
        Err(ReadError::Io(e)) => assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof),
        Err(ReadError::Frame(_)) => {}
    }
}
