//! The decision core: who leads, who may serve until when, what is done next. Pure state machines: no I/O, no
//! clock, no randomness; time and random numbers come in as arguments, actions go out as data.
//!
//! * [`timing`]: the timers and the one function that checks their inequalities.
//! * [`beat`]: what heartbeats carry. [`promises`]: acknowledgements given and received, and what follows from
//!   them (serve-until); shared between the heartbeat thread and the driver.
//! * [`links`]: who is heard on which heartbeat link.
//! * [`record`]: a group's record in etcd and the guarded transactions on it.
//! * [`checks`]: what the outcomes of a health check mean.
//! * [`group`]: leadership of one group. [`runtime`]: start, stop and fence of what the group consists of.
//!
//! If the process dies anywhere, the durable part ([`record::Durable`]) and etcd's record are enough to go on.

pub mod beat;
pub mod checks;
pub mod group;
pub mod links;
pub mod promises;
pub mod record;
pub mod resolve;
pub mod resync;
pub mod rules;
pub mod runtime;
pub mod timing;
pub mod verify;
pub mod whatif;

#[cfg(test)]
mod sim;
