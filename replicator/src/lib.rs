//! Baton's replicator: one block device per volume whose acknowledged writes are on every member of the
//! in-sync set.
//!
//! * [`core`] decides: metadata, activity log, bitmap, handshake and the request engine, without I/O, clock
//!   or randomness.
//! * [`store`], [`frontend`], [`transport`], [`control`] do: backing files, the FUSE file on a loop device,
//!   the peers, the agent's commands.
//! * [`hold`] keeps the devices' descriptors while the replicator itself is started again.
//! * [`memory`]: what the process asks of the kernel so that it never waits for its own device.
//! * [`driver`] owns one engine per volume and is the only place that waits for more than one thing.

pub mod api;
pub mod clock;
pub mod control;
pub mod core;
pub mod driver;
pub mod files;
pub mod frontend;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod hold;
pub mod memory;
pub mod process;
pub mod store;
pub mod tls;
pub mod transport;
pub mod types;
