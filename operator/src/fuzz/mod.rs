//! What is fuzzed: functions that take any bytes and must neither panic nor break what they assert.
//!
//! They are built for tests and for fuzzers (`cfg(fuzzing)`) only. `cargo test fuzz` runs each over its corpus,
//! `operator/fuzz/corpus/<target>`, and then for a moment over mutations of it; `replicator/fuzz/README.md` says how a fuzzer
//! with coverage runs the same functions for hours.
//!
//! * [`heartbeats`]: datagrams of strangers, and of peers that hold the secret and say anything;
//! * [`specification`]: any text as a cluster specification.

mod heartbeats;
mod specification;
#[cfg(test)]
mod tests;

pub use heartbeats::heartbeats;
pub use specification::specification;

/// A target: any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 2] = [("heartbeats", heartbeats), ("specification", specification)];
