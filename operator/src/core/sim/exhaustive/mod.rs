//! An exhaustive check of leadership: every order of events within stated budgets, on the production cores
//! ([`GroupCore`](crate::core::group::GroupCore), [`HeartbeatCore`](crate::core::promises::HeartbeatCore),
//! [`Runtime`](crate::core::runtime::Runtime)), put together as in the simulation, with its etcd and its replica.
//!
//! * [`cluster`]: a state. [`moves`]: what can happen in it; [`time`]: a tick of it. [`data`]: writes and resyncs.
//! * [`key`], [`fields`]: which states are one. [`search`]: breadth first through all of them.
//! * [`judge`]: the invariants, and healing. [`runs`]: what is searched, and rules left out that must be noticed.
//!
//! What it shows and what not: `docs/decisions/0030-exhaustive-check.md`.

mod cluster;
mod data;
mod fields;
mod judge;
mod key;
mod moves;
mod runs;
mod search;
mod time;

pub(in crate::core) use key::Key;
