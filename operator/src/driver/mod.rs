//! The agent's process: starts the adapters, feeds the cores, carries out what they decide.
//!
//! Start-up is a script ([`run`]): everything that can be wrong with the configuration is found before a port is
//! bound. Then one loop (`owner`) owns the cores. A stop is an orderly restart: longer promises are asked for,
//! addresses are left standing for their length, and the next agent resumes in place.

mod checks;
mod commands;
mod config;
mod exec;
mod history;
mod owner;
mod snapshot;
mod start;
mod state_dir;
mod summary;
mod takeover;
mod translate;
mod unit;

pub use config::Config;
pub use start::{StartError, run};
