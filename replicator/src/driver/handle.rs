//! A handle on a volume: what others may ask of its thread and know of it.

use super::Answer;
use super::door::Door;
use super::volume::Owner;
use crate::api::{Problem, Snapshot, VolumeConfig, VolumeStatus};
use crate::control::problem;
use crate::core::engine::Event;
use crate::frontend::{Device, FrontEndEvent};
use crate::store::{Completion, keep};
use crate::transport::{Admission, TransportEvent};
use crate::types::{Epoch, GroupName, Instant, NodeName};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// What arrives at a volume.
pub(super) enum Input {
    Store(Completion),
    Meta(Completion),
    Transport(TransportEvent),
    /// The number tells this front end's events from an earlier one's.
    Front(u64, FrontEndEvent),
    Desired(crate::api::Desired, Answer),
    /// Compare the replicas; none: stop comparing.
    Verify(Option<crate::api::VerifyRequest>, Answer),
    /// Let resyncs stand still, or go on.
    PauseResync(bool, Answer),
    /// Take a snapshot and serve it, or end that.
    Export(bool, Answer),
    /// That was done.
    ExportDone(Result<Option<Box<super::export::Export>>, String>, Option<Answer>),
    ServeUntil(Epoch, Instant),
    Reconfigure(VolumeConfig, Answer),
    /// Give this replica's data up.
    Discard(crate::api::DiscardRequest, Answer),
    /// The copy that was asked for exists, or why not.
    Kept(Result<String, String>),
    /// Something that blocks has ended.
    Ended(Event),
    /// Look again what filesystem there is.
    Look(Answer),
    Stop(bool, Answer),
}

/// What others may know of a volume.
pub(super) struct Published {
    pub config: VolumeConfig,
    pub status: VolumeStatus,
    /// Copies of data that was given up.
    pub snapshots: Vec<Snapshot>,
    pub device: Option<Device>,
}

/// A handle on a volume; clones name the same one.
#[derive(Clone)]
pub(super) struct Volume {
    pub door: Door<Owner>,
    pub published: Arc<Mutex<Published>>,
    pub node: NodeName,
}

impl Volume {
    pub fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> VolumeStatus {
        self.published().status.clone()
    }

    pub fn group(&self) -> GroupName {
        self.published().config.group.clone()
    }

    pub fn local_device(&self) -> Option<PathBuf> {
        self.published().device.as_ref().map(|d| d.local_path.clone())
    }

    /// How this peer is let in, if it is one.
    pub fn admission(&self, peer: &NodeName) -> Option<Admission> {
        let config = &self.published().config;
        let known = config.peers.iter().any(|p| p.node == *peer);
        let peer_timeout = Duration::from_millis(config.peer_timeout_ms);
        known.then_some(Admission { peer_timeout, transport: config.transport })
    }

    /// Looks again which copies there are.
    pub fn look_for_snapshots(&self) {
        let backing = self.published().config.backing.clone();
        let found = keep::kept(&backing, &self.node);
        let mut published = self.published();
        published.snapshots.clone_from(&found);
        published.status.snapshots = found;
    }

    /// Hands in what needs no answer.
    pub fn send(&self, input: Input) {
        // An error means that the volume was detached in this moment.
        let _ = self.door.send(input);
    }

    /// Hands in what may be lost if the volume has more to do.
    pub fn offer(&self, input: Input) {
        let _ = self.door.offer(input);
    }

    /// Hands in a command and waits for its answer; whoever calls bounds the wait.
    pub async fn command(&self, input: impl FnOnce(Answer) -> Input) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        let gone =
            || problem(409, "detached", "Volume was detached", "it was detached while the command waited");
        self.door.send(input(answer)).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn reconfigure(&self, config: VolumeConfig) -> Result<(), Problem> {
        if self.published().config == config {
            return Ok(());
        }
        self.command(|answer| Input::Reconfigure(config, answer)).await
    }

    pub async fn stop(&self, even_primary: bool) -> Result<(), Problem> {
        self.command(|answer| Input::Stop(even_primary, answer)).await
    }

    /// The status once it is as wanted; none if it is not in time.
    pub async fn wait(
        &self,
        limit: Duration,
        version: &watch::Sender<u64>,
        wanted: impl Fn(&VolumeStatus) -> bool,
    ) -> Option<VolumeStatus> {
        let mut changes = version.subscribe();
        let look = changes.wait_for(|_| wanted(&self.status()));
        let found = tokio::time::timeout(limit, look).await.is_ok();
        found.then(|| self.status())
    }
}
