//! Frames on a serial line: consistent overhead byte stuffing (Cheshire and Baker, 1997) with a zero byte at either end.
//!
//! A zero never occurs inside a frame, so whatever garbage came before, the next zero begins anew: one damaged frame
//! costs that frame and at most the one after it. A length with a checksum would have to search for a plausible length
//! after every error. Damage inside a frame is found by the heartbeat's own MAC, so there is no checksum here. The cost
//! is one byte in 254 and two zeros.

/// Longest frame taken; more than a line carries in a keepalive at any speed that is configured for one.
pub const MAX_FRAME: usize = 65_536;

/// Appends a frame to `out`.
pub fn encode(content: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    let mut code_at = out.len();
    out.push(0);
    let mut code = 1u8;
    for &byte in content {
        if byte != 0 {
            out.push(byte);
            code += 1;
        }
        if byte == 0 || code == u8::MAX {
            out[code_at] = code;
            code_at = out.len();
            out.push(0);
            code = 1;
        }
    }
    out[code_at] = code;
    out.push(0);
}

/// What came out of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A frame.
    Frame(Vec<u8>),
    /// Bytes that are none.
    Garbage,
}

/// Takes a line's bytes and finds the frames.
#[derive(Debug, Default)]
pub struct Decoder {
    frame: Vec<u8>,
    overlong: bool,
}

impl Decoder {
    /// The next byte; a frame when it ended one.
    pub fn push(&mut self, byte: u8) -> Option<Piece> {
        if byte != 0 {
            if self.frame.len() < MAX_FRAME {
                self.frame.push(byte);
            } else {
                self.overlong = true;
            }
            return None;
        }
        let overlong = std::mem::take(&mut self.overlong);
        if self.frame.is_empty() {
            return None;
        }
        let piece = if overlong { None } else { decode(&self.frame) };
        self.frame.clear();
        Some(piece.map_or(Piece::Garbage, Piece::Frame))
    }
}

fn decode(mut stuffed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(stuffed.len());
    while let [code, rest @ ..] = stuffed {
        let (block, rest) = rest.split_at_checked(usize::from(*code).checked_sub(1)?)?;
        out.extend_from_slice(block);
        if *code != u8::MAX && !rest.is_empty() {
            out.push(0);
        }
        stuffed = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(bytes: &[u8]) -> Vec<Piece> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|b| decoder.push(*b)).collect()
    }

    fn encoded(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(content, &mut out);
        out
    }

    #[test]
    fn known_encodings() {
        assert_eq!(encoded(&[0x11, 0x22, 0, 0x33]), [0, 3, 0x11, 0x22, 2, 0x33, 0]);
        assert_eq!(encoded(&[0, 0]), [0, 1, 1, 1, 0]);
        let long: Vec<u8> = (1..=254).collect();
        assert_eq!(encoded(&long)[..3], [0, 255, 1]);
    }

    #[test]
    fn an_overlong_frame_is_garbage_and_the_next_one_is_not() {
        let mut bytes = vec![7; MAX_FRAME + 10];
        bytes.extend(encoded(b"after"));
        assert_eq!(pieces(&bytes), [Piece::Garbage, Piece::Frame(b"after".to_vec())]);
    }

    proptest! {
        #[test]
        fn what_was_framed_comes_out(content in proptest::collection::vec(0u8..4, 1..1200)) {
            let bytes = encoded(&content);
            prop_assert!(bytes[1..bytes.len() - 1].iter().all(|b| *b != 0));
            prop_assert!(bytes.len() <= content.len() + content.len() / 254 + 4);
            prop_assert_eq!(pieces(&bytes), vec![Piece::Frame(content)]);
        }

        #[test]
        fn after_any_garbage_the_next_frame_is_whole(
            garbage in proptest::collection::vec(any::<u8>(), 0..600),
            content in proptest::collection::vec(any::<u8>(), 1..600),
        ) {
            let mut bytes = garbage;
            bytes.extend(encoded(&content));
            let pieces = pieces(&bytes);
            prop_assert_eq!(pieces.last(), Some(&Piece::Frame(content)));
        }
    }
}
