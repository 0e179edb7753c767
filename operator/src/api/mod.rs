//! The REST API of an agent.

mod commands;

pub use commands::{Accepted, CommandError, Commands, SpecDocument};
