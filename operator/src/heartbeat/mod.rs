//! Heartbeats: authenticated UDP datagrams between agents, on a thread of their own.
//!
//! * [`clock`] is the clock of every deadline. [`Secret`] is the cluster's key, [`Codec`] the datagram format.
//! * [`HeartbeatThread`] sends what a [`HeartbeatLogic`] says and feeds it what arrives, and hands serve-until on to
//!   [`ServeUntilSink`]s ([`ReplicatorSocket`] is one).
//! * [`realtime`] asks for real-time priority and locked memory.
//!
//! The thread decides nothing. If it dies, the process dies (`panic = "abort"`), every deadline that it handed on
//! passes, and the peers hear nothing any more: that is how a dead node looks.

pub mod clock;
pub mod realtime;

mod publish;

mod thread;
mod wire;

#[cfg(test)]
mod tests;

pub use baton_replicator::transport::{Secret, SecretError};
pub use publish::{ReplicatorSocket, ServeUntilSink};
pub use thread::{
    Counters, HeartbeatConfig, HeartbeatError, HeartbeatHandle, HeartbeatLogic, HeartbeatThread, LinkCounters,
};
pub use wire::{Codec, MAX_DATAGRAM, Refused, TooLarge};
