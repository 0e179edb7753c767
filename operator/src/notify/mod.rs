//! Telling people: mail, webhooks and commands, as Heartbeat's MailTo and mon's alerts did.
//!
//! * [`conditions`] says which states hold by a snapshot, [`news`] what happened since the one before; [`core`] decides
//!   for one target what it is told and when, and which of the agents tells it; `outbox` puts together what comes at
//!   once; [`queue`] says when a delivery is tried; [`text`] makes a mail of a message. All of these are pure.
//! * [`task`] feeds them and asks etcd; [`worker`] is a task per target that delivers; [`deliver`] is one attempt;
//!   [`spool`] is what survives a restart.
//!
//! Nothing else in the agent waits for any of this. If it dies, groups are kept alive all the same, and nobody hears.

pub mod conditions;
pub mod core;
pub mod deliver;
pub mod message;
pub mod news;
mod outbox;
pub mod queue;
pub mod spool;
pub mod task;
pub mod text;
pub mod what;
pub mod worker;

pub use task::{Notifier, Parts, TestOutcome};
pub use worker::advice;
