//! etcd: the groups' records, guarded transactions, the node's lease, desired state and history.
//!
//! [`Etcd`] is a cheap handle on all members. Reads and other idempotent requests are hedged: if the member asked
//! does not answer within [`HEDGE`], the next one is asked, too, and the first answer counts. A transaction is sent
//! *once*, to a member that has just shown that it can commit; what became of it otherwise is
//! [`Outcome::Unknown`](crate::core::record::Outcome::Unknown), and [`Etcd::write_fence`] is how that is settled. No library under this retries a request:
//! etcd-client repeats only for expired auth tokens, which are not used here, and tonic sends what it was given
//! once or not at all.
//!
//! Every call is bounded by the request timeout. Values are JSON. Nothing is decided here. If the process dies,
//! the lease runs out and takes `alive` and the leader keys with it. The types of records and transactions are the
//! core's: [`crate::core::record`].

mod bugs;
mod desired;
mod events;
mod fencing;
mod keys;
mod lease;
mod members;
mod notified;
mod placement;
mod pool;
mod records;
mod spec_history;
mod tokens;
mod volumes;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

pub use bugs::{KnownBug, known_bugs, version_warning, version_warnings};
pub use fencing::FenceLock;
pub use keys::Keys;
pub use lease::{Alive, LeaseEvent, LeaseTask};
pub use members::{ListedMember, Look, MemberStatus};
pub use placement::{Mover, better_place, members_of_nodes};
pub use pool::{Etcd, EtcdError, EtcdTls, HEDGE};
pub use spec_history::{SPECS_KEPT, SpecEntry};
pub use watch::Watch;
