//! Baton's agent and command line.
//!
//! * [`core`] decides: promises, leadership, in-sync bookkeeping, a group's start and stop, without I/O,
//!   clock or randomness.
//! * [`spec`] reads the cluster specification.
//! * [`heartbeat`], [`etcd`], [`net`], [`docker`], [`replica`] are the adapters: UDP, etcd, netlink and ARP,
//!   the Docker engine, the replicator; [`probe`]: the checks that reach past them.
//! * [`fence`] runs external fence agents.
//! * [`driver`] owns the core: the only place that waits for more than one thing.
//! * [`status`] is the one snapshot behind [`api`], [`metrics`] and [`cli`]; [`series`] is its short memory,
//!   [`web`] the page that shows both; [`explain`] and [`whatif`] say what follows from it.

pub mod api;
pub mod basis;
mod causes;
pub mod cli;
pub mod core;
pub mod docker;
pub mod driver;
pub mod etcd;
pub mod explain;
pub mod fence;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod heartbeat;
pub mod metrics;
pub mod net;
pub mod notify;
pub mod probe;
pub mod replica;
pub mod security;
pub mod series;
pub mod spec;
pub mod status;
pub mod watchdog;
pub mod web;
pub mod whatif;
