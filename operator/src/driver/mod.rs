//! The owner loop.
mod config;
mod history;
mod snapshot;
mod state_dir;
mod summary;
mod translate;
