//! The agent's side: the control API on a Unix socket and the serve-until datagrams.
//!
//! The table of requests stands in [`crate::api`]. This module owns sockets, routes, bounds and problem
//! documents; what a command means is the [`Controller`]'s business.
//!
//! Invariants: sockets have mode 0600; bodies, waits and commands are bounded; an unreadable datagram is counted
//! and ignored. If the process dies, the sockets stay as dead files and the next process replaces them.

mod datagram;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod http;
mod socket;

pub use datagram::ServeUntilSocket;
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_datagram, fuzz_http};
pub use http::{ControlServer, router};
pub use socket::bind_private;

use crate::api::{
    Desired, DiscardRequest, Format, Problem, ResyncRequest, Status, VerifyRequest, VolumeConfig,
    VolumeStatus,
};
use crate::types::VolumeName;
use std::future::Future;
use std::time::Duration;

/// What carries out the agent's commands. A command is dropped when its bound has passed; it may then go on
/// inside, and the agent repeats it.
pub trait Controller: Send + Sync + 'static {
    /// The status: at once if there is no `after` or its version is greater, else when it changes or after `wait`.
    fn status(&self, after: Option<u64>, wait: Duration) -> impl Future<Output = Status> + Send;

    /// Creates the backing store if needed and attaches the volume.
    fn configure(&self, config: VolumeConfig) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Brings role, epoch and required set into force.
    fn desired(
        &self,
        volume: VolumeName,
        desired: Desired,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Compares the replicas, or (none) stops comparing them.
    fn verify(
        &self,
        volume: VolumeName,
        request: Option<VerifyRequest>,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Lets resyncs stand still, or go on.
    fn resync(
        &self,
        volume: VolumeName,
        request: ResyncRequest,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Gives a secondary's data up after a split brain.
    fn discard(
        &self,
        volume: VolumeName,
        request: DiscardRequest,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Removes a copy of data that was given up.
    fn release(
        &self,
        volume: VolumeName,
        snapshot: String,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Takes a snapshot of the replica here and serves it by NBD, or ends that.
    fn export(
        &self,
        volume: VolumeName,
        wanted: bool,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Makes a filesystem on a blank primary.
    fn format(
        &self,
        volume: VolumeName,
        format: Format,
    ) -> impl Future<Output = Result<VolumeStatus, Problem>> + Send;

    /// Flushes, marks the shutdown clean and closes.
    fn detach(&self, volume: VolumeName) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// Makes a problem document: `kind` is the last part of its type, e.g. `epoch-too-old`.
#[must_use]
pub fn problem(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Problem {
    Problem { kind: format!("/problems/{kind}"), title: title.into(), status, detail: detail.into() }
}
