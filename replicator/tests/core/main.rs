//! The replicator's core in a simulated world: named traps, then seeds.

mod frames;
mod sim;
mod traps;
mod world;
