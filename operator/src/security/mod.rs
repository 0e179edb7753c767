//! Who may do what, and how they prove it: certificates, tokens, roles, the audit trail. See docs/security.md.
//!
//! * [`pki`] makes certificates, [`identity`] reads what they say, [`files`] keeps keys private (the replicator's, too).
//! * [`tls`] and [`listener`] let connections in, [`watch`] follows their files.
//! * [`token`] and [`tokens`]: bearer tokens; [`failures`] slows down who has none.
//! * [`guard`] is the door of the API; [`rules`] says which role a request needs, [`audit`] writes down who came.

pub mod audit;
mod crypto;
pub mod failures;
pub mod guard;
pub mod identity;
pub mod listener;
pub mod pki;
mod principal;
pub mod rules;
pub mod sensitive;
pub mod tls;
pub mod token;
pub mod tokens;
pub mod watch;

pub use baton_replicator::files;
pub use crypto::use_ring;
pub use guard::Security;
pub use principal::{Principal, Role, Via};
pub use sensitive::Sensitive;

#[cfg(test)]
mod door_tests;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod pki_tests;
