//! The replicator's core in a simulated world: named traps, then seeds.

mod bugs;
mod drbd_bugs;
mod faults;
mod frames;
mod growth;
mod mutants;
mod peers;
mod protocols;
mod recorded;
mod resume;
mod resync;
mod seeds;
mod sim;
mod split_brain;
mod traps;
mod verify;
mod world;
