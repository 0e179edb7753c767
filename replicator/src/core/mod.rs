//! What the replicator decides, without I/O, clock or randomness: time and random seeds come in as arguments,
//! effects go out as values.
//!
//! * [`range`]: byte ranges, sets of them, and the queue that orders overlapping operations;
//! * [`meta`]: the metadata file: superblock, activity log, dirty bitmaps;
//! * [`codec`]: bounded little-endian reading and writing;
//! * [`frame`]: what replicators say to each other, and `wire`, its encoding;
//! * [`digest`]: what verify compares;
//! * [`handshake`]: the table that turns two replicas' identities into a verdict;
//! * [`split_brain`]: whose data is given up when both sides went on alone;
//! * [`engine`]: one volume's state machine, [`engine::Engine::handle`].
//!
//! If any of this panics the process stops ([`abort_on_panic`](crate::process::abort_on_panic)); everything a restart
//! needs is in the metadata.

pub mod codec;
pub mod digest;
pub mod engine;
pub mod frame;
pub mod handshake;
pub mod meta;
pub mod range;
pub mod split_brain;
mod wire;
