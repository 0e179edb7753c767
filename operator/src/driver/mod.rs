//! The agent's process: starts the adapters, feeds the cores, carries out what they decide.
//!
//! Start-up is a script ([`run`]): everything that can be wrong with the configuration is found before a port is
//! bound. Then one loop (`owner`) owns the cores. A stop is an orderly restart: longer promises are asked for,
//! addresses are left standing for their length, and the next agent resumes in place.

mod access;
mod apply;
mod checks;
mod commands;
mod config;
mod consequences;
mod exec;
mod failures;
mod fence;
mod fencing;
mod gateways;
pub(crate) mod history;
mod links;
mod maintenance;
mod members;
mod memory;
mod owner;
mod placement;
mod recovering;
mod reload;
mod replicator;
mod resolve;
mod resolving;
mod rounds;
mod snapshot;
mod start;
mod state_dir;
mod summary;
mod takeover;
mod translate;
mod unit;
mod verify;

pub use config::Config;
pub use history::rfc3339;
pub use start::{StartError, run};
