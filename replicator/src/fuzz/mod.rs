//! What is fuzzed: functions that take any bytes and must neither panic nor break what they assert.
//!
//! They are built for tests and for fuzzers (`cfg(fuzzing)`) only. `cargo test fuzz` runs each over its corpus,
//! `fuzz/corpus/<target>`, and then for a moment over mutations of it; `fuzz/README.md` says how a fuzzer with coverage
//! runs the same functions for hours. An input that breaks something goes into the corpus with the change that mends it.
//!
//! * `frames`: a peer's frames, after the transport; [`engine`]: an engine that a peer tells anything, in any order;
//! * [`metadata`]: a metadata file; [`handshake`]: the table over two identities;
//! * [`wire`](crate::transport::fuzz_wire): bytes from a peer before and after it has proved itself;
//! * [`requests`](crate::frontend::fuse::fuzz_requests): what `/dev/fuse` gives, and what another process left of it;
//! * [`control`](crate::control::fuzz_http): the agent's socket, and its datagrams.

pub mod bytes;
pub mod engine;
pub mod handshake;
pub mod metadata;
#[cfg(test)]
mod mutations;
mod peer;
#[cfg(test)]
mod tests;

use crate::core::frame::Frame;

/// A target: any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("frames", frames),
    ("engine", engine::run),
    ("handshake", handshake::run),
    ("metadata", metadata::run),
    ("wire", crate::transport::fuzz_wire),
    ("requests", crate::frontend::fuse::fuzz_requests),
    ("control", crate::control::fuzz_http),
    ("datagram", crate::control::fuzz_datagram),
];

/// A frame is refused, or is exactly what would have been sent.
pub fn frames(data: &[u8]) {
    let mut bytes = bytes::Choices::new(data);
    let kind = u16::from(bytes.byte());
    let head = usize::from(bytes.short());
    let (head, body) = bytes.rest().split_at(head.min(bytes.rest().len()));
    let body = ::bytes::Bytes::copy_from_slice(body);
    if let Ok(frame) = Frame::decode(kind, head, body.clone()) {
        assert_eq!(frame.encode(), (kind, head.to_vec(), body), "{frame:?}");
    }
}
