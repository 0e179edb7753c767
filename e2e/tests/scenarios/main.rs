//! The scenarios: real containers, real faults, judged by what clients saw. One file per family of faults.
//!
//! `make test` brings the cluster up and runs them; see `baton_e2e::scenario` for the frame they run in. The bounds
//! are those promised with default timers; where a figure has another origin, the constant says so.

mod alerts;
mod apply;
mod bad_input;
mod cable;
mod cli;
mod contract;
mod control;
mod dashboards;
mod emptied;
mod fencing;
mod foresight;
mod frozen;
mod grow;
mod health;
mod links;
mod memory;
mod moves;
mod notify;
mod operations;
mod page;
mod placing;
mod power;
mod replace;
mod replication;
mod security;
mod transport;
mod verify;
mod worker;

use std::time::Duration;

/// HTTP is back after the loss of the leader: in the worst case.
const HTTP_WORST: Duration = Duration::from_millis(4000);
/// The same, median of several.
const HTTP_MEDIAN: Duration = Duration::from_millis(2500);
/// Committed writes are back after the loss of the leader: median.
const WRITES_MEDIAN: Duration = Duration::from_millis(5000);
/// Without HTTP during a planned move: the better of two in a row, which others on a shared machine do not both disturb.
const MOVE: Duration = Duration::from_millis(1500);
/// The same of a single one, and beside a browser, a resync or an upgrade on the same two cores.
const MOVE_BESIDE: Duration = Duration::from_millis(3000);
/// Longest pause of the leader's writes when a standby is lost: `warntime` (500 ms) and 300 ms.
const STANDBY_LOST: Duration = Duration::from_millis(800);

/// Waits for a stretch of time that is itself what is tested ("for 60 s"), never for something to happen.
fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
