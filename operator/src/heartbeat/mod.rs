//! Heartbeats on the network: a thread of its own that sends, receives and judges them, and hands serve-until on.
//!
//! The thread shares only [`HeartbeatCore`](crate::core::promises::HeartbeatCore) with the driver. It asks for
//! real-time priority and locked memory and goes on without. If it dies the process dies with it
//! ([`abort_on_panic`](baton_replicator::process::abort_on_panic)); then serve-until runs out on its own.

pub use baton_replicator::clock;
mod bell;
mod link;
mod realtime;
mod round;
mod serve;
mod thread;
pub mod wire;

pub use realtime::Realtime;
pub(crate) use realtime::ask as ask_realtime;
pub use serve::ServeUntilSender;
pub use thread::{HeartbeatConfig, HeartbeatThread, LinkCounters, SharedCore, SharedLinks, StartError};
