//! The replicator as a process: one engine per volume, and the adapters around them.
//!
//! [`Replicator`] owns what is shared: the volumes, the listener, the way from a session to its volume, the
//! version of the status. `volume` owns one engine; `door` is the way to it, and who carries out what comes; `handle` is how others
//! reach it;
//! `open` turns files into an engine; `failed` is what status says of one that could not be opened.
//!
//! Invariants: an engine is touched by one thread at a time; the queue to it is bounded, and nothing it calls
//! blocks. If the process dies, the devices' I/O waits for the next one (see [`crate::hold`]), or without a holder the
//! kernel fails it; peers freeze, and the next start takes the rest from the metadata.

mod door;
mod export;
mod failed;
mod handle;
mod open;
mod volume;

use crate::api::{
    Desired, DiscardRequest, Format, Problem, ResyncRequest, ServeUntil, Status, VerifyRequest, VolumeConfig,
    VolumeStatus,
};
use crate::control::{Controller, problem};
use crate::frontend::{Begin, EventSink, FrontEnd, FrontEndConfig, fuse, mkfs, nbd, stale};
use crate::hold::Holder;
use crate::store::keep;
use crate::tls::TlsFiles;
use crate::transport::{
    Admission, Admit, Credentials, HandshakeLog, Listener, ListenerConfig, Secret, SessionId, TransportEvent,
};
use crate::types::{DiskState, FrontEndKind, NodeName, Role, VolumeName};
use door::Door;
use handle::{Input, Volume};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use volume::Owner;

/// For the first metadata updates of a volume that is being attached.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// For `mkfs`: the front end of a new volume answers at once, a frozen one never does.
const FORMAT_LIMIT: Duration = Duration::from_secs(120);
/// For an orderly stop of all volumes: below the ten seconds that a container engine waits before it kills.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Makes front ends: [`crate::frontend::start`], or what a test puts in its place.
pub type FrontEndFactory = Arc<dyn Fn(FrontEndConfig, EventSink) -> Arc<dyn FrontEnd> + Send + Sync>;

/// What a replicator needs to know.
#[derive(Clone)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// Address for peers.
    pub listen: SocketAddr,
    /// The cluster secret.
    pub secret: Secret,
    /// This node's certificate, for volumes with TLS. May be missing as long as there are none.
    pub certificate: TlsFiles,
    /// Take peers of the release before, which has no TLS, while the cluster is being upgraded.
    pub accept_before: bool,
    /// Durable state of this node.
    pub state_dir: PathBuf,
    /// Sockets and private mounts.
    pub run_dir: PathBuf,
    /// Where device symlinks are made.
    pub device_dir: PathBuf,
    /// The same directory as the host sees it.
    pub host_device_dir: PathBuf,
    /// Text of the host's boot id.
    pub host_boot: String,
    /// How volumes become devices.
    pub front_end: FrontEndFactory,
    /// Who keeps the devices when this process dies.
    pub holder: Holder,
}

/// What volumes and the rest of the process share.
struct Shared {
    options: Options,
    credentials: Credentials,
    handshakes: Arc<HandshakeLog>,
    tag: String,
    version: watch::Sender<u64>,
    routes: RwLock<HashMap<SessionId, Door<Owner>>>,
    volumes: Mutex<BTreeMap<VolumeName, Volume>>,
    /// Volumes that could not be opened, for status.
    failed: Mutex<BTreeMap<VolumeName, VolumeStatus>>,
    /// Held while a volume is opened: the same one must not be opened twice.
    opening: Mutex<()>,
}

/// A running replicator.
pub struct Replicator {
    shared: Arc<Shared>,
    listener: Listener,
}

/// Why a replicator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The state directory is not usable.
    #[error("cannot use the state directory {path}", path = .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
}

impl Replicator {
    /// Cleans up after an earlier process and listens for peers.
    ///
    /// # Errors
    /// [`StartError`] with what is in the way.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let state = |source| StartError::State { path: options.state_dir.clone(), source };
        std::fs::create_dir_all(&options.state_dir).map_err(state)?;
        let tag = stale::node_tag(&options.state_dir, &options.node).map_err(state)?;
        let left = fuse::left(&options.holder, &tag);
        for name in &left {
            tracing::warn!(
                device = name,
                "an earlier process left it; its I/O waits until the agent decides"
            );
        }
        nbd::clean(&options.run_dir);
        for line in stale::clean(&tag, &options.run_dir, &options.device_dir, &left) {
            tracing::warn!("{line}");
        }
        let (address, secret, node) = (options.listen, options.secret.clone(), options.node.clone());
        let credentials = Credentials::new(node.clone(), options.certificate.clone());
        let accept_before = options.accept_before;
        let handshakes = Arc::<HandshakeLog>::default();
        let shared = Arc::new(Shared {
            options,
            credentials: credentials.clone(),
            handshakes: handshakes.clone(),
            tag,
            version: watch::Sender::new(1),
            routes: RwLock::default(),
            volumes: Mutex::default(),
            failed: Mutex::default(),
            opening: Mutex::default(),
        });
        let (gate, sessions) = (shared.clone(), shared.clone());
        let admit: Admit = Arc::new(move |peer, volume| gate.admit(peer, volume));
        let log = handshakes;
        let config = ListenerConfig { address, secret, credentials, node, admit, accept_before, log };
        let listener = Listener::bind(config, Arc::new(move |event| sessions.transport(event)))
            .map_err(|source| StartError::Listen { address, source })?;
        Ok(Self { shared, listener })
    }

    /// Where peers reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_address()
    }

    /// The agent vouches: every volume of the group hears it.
    pub fn serve_until(&self, message: &ServeUntil) {
        for volume in self.shared.volumes().values().filter(|v| v.group() == message.group) {
            volume.send(Input::ServeUntil(message.epoch, message.until));
        }
    }

    /// Stops all volumes in order, within five seconds.
    pub async fn stop(&self) {
        let all: Vec<Volume> = std::mem::take(&mut *self.shared.volumes()).into_values().collect();
        let stops = all.into_iter().map(|volume| {
            tokio::spawn(async move {
                let name = volume.status().volume;
                match tokio::time::timeout(STOP_LIMIT, volume.stop(true)).await {
                    Ok(Ok(())) => tracing::info!(%name, "stopped in order"),
                    Ok(Err(error)) => tracing::error!(%name, %error, "not stopped in order"),
                    Err(_) => tracing::error!(%name, "did not stop within {STOP_LIMIT:?}"),
                }
            })
        });
        for stop in stops.collect::<Vec<_>>() {
            let _ = stop.await;
        }
    }

    fn volume(&self, name: &VolumeName) -> Result<Volume, Problem> {
        let found = self.shared.volumes().get(name).cloned();
        found.ok_or_else(|| {
            problem(404, "no-such-volume", "No such volume", format!("{name} is not attached here"))
        })
    }
}

impl Shared {
    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<VolumeName, VolumeStatus>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of opening a volume; a failure stays visible in the status until it succeeds.
    fn note_opened(&self, config: &VolumeConfig, error: Option<&Problem>) {
        match error {
            None => {
                tracing::info!(volume = %config.volume, "attached");
                self.failed().remove(&config.volume);
            }
            Some(problem) => {
                tracing::error!(volume = %config.volume, "not attached: {}", problem.detail);
                self.failed().insert(config.volume.clone(), failed::status(config, &problem.detail));
            }
        }
        self.version.send_modify(|v| *v += 1);
    }

    /// A device that an earlier process left of a volume that cannot be opened: what waits for it fails.
    fn release_left(&self, config: &VolumeConfig) {
        if self.options.holder.has(config.volume.as_str()) {
            let config = self.front_end_config(config, Begin::Release);
            // It ends by itself and says in the log what came of it.
            drop((self.options.front_end)(config, Arc::new(|_| ())));
        }
    }

    fn front_end_config(&self, config: &VolumeConfig, begin: Begin) -> FrontEndConfig {
        FrontEndConfig {
            kind: config.front_end,
            volume: config.volume.clone(),
            size_bytes: config.size_bytes,
            tag: self.tag.clone(),
            run_dir: self.options.run_dir.clone(),
            device_dir: self.options.device_dir.clone(),
            holder: self.options.holder.clone(),
            begin,
        }
    }

    fn admit(&self, peer: &NodeName, volume: &VolumeName) -> Result<Admission, String> {
        let volumes = self.volumes();
        let known = volumes.get(volume).ok_or_else(|| format!("{volume} is not attached here"))?;
        known.admission(peer).ok_or_else(|| format!("{peer} is not a peer of {volume}"))
    }

    /// Sessions that peers opened find their volume here.
    fn transport(&self, event: TransportEvent) {
        let id = match &event {
            TransportEvent::Opened(session) => {
                let volume = self.volumes().get(session.volume()).cloned();
                let Some(volume) = volume else { return session.close("the volume was detached") };
                let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
                routes.insert(session.id(), volume.door.clone());
                session.id()
            }
            TransportEvent::Frame { session, .. } | TransportEvent::Closed { session, .. } => *session,
            TransportEvent::Refused { volume, .. } => {
                let volume = self.volumes().get(volume).cloned();
                if let Some(volume) = volume {
                    volume.offer(Input::Transport(event));
                }
                return;
            }
            TransportEvent::DialFailed { .. } => return,
        };
        let ended = matches!(event, TransportEvent::Closed { .. });
        let route = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(route) = route {
            // An error means that the volume is gone, and its sessions with it.
            let _ = route.send(Input::Transport(event));
        }
        if ended {
            self.routes.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }
}

impl Controller for Replicator {
    async fn status(&self, after: Option<u64>, wait: Duration) -> Status {
        let mut version = self.shared.version.subscribe();
        if let Some(after) = after {
            // Whether it changed or not, there is an answer.
            let _ = tokio::time::timeout(wait, version.wait_for(|v| *v > after)).await;
        }
        let version = *version.borrow();
        let mut volumes: Vec<VolumeStatus> = self.shared.volumes().values().map(Volume::status).collect();
        volumes.extend(self.shared.failed().values().cloned());
        let worker_restarts = self.shared.options.holder.restarts();
        let handshakes = self.shared.handshakes.counts();
        let node = Some(self.shared.options.node.clone());
        let memory = Some(crate::memory::status());
        Status { version, node, volumes, worker_restarts, handshakes, memory }
    }

    async fn configure(&self, config: VolumeConfig) -> Result<VolumeStatus, Problem> {
        let known = self.shared.volumes().get(&config.volume).cloned();
        let volume = match known {
            Some(volume) => {
                volume.reconfigure(config).await?;
                volume
            }
            None => {
                let shared = self.shared.clone();
                let opened = tokio::task::spawn_blocking(move || {
                    let _opening = shared.opening.lock().unwrap_or_else(PoisonError::into_inner);
                    let known = shared.volumes().get(&config.volume).cloned();
                    if let Some(volume) = known {
                        return Ok(volume);
                    }
                    let name = config.volume.clone();
                    let opened = open::open(&shared, config.clone());
                    shared.note_opened(&config, opened.as_ref().err());
                    if opened.is_err() {
                        shared.release_left(&config);
                    }
                    let volume = opened?;
                    shared.volumes().insert(name, volume.clone());
                    Ok(volume)
                });
                opened.await.map_err(|e| problem(500, "internal", "Internal error", e.to_string()))??
            }
        };
        let attached =
            volume.wait(ATTACH_LIMIT, &self.shared.version, |s| s.disk != DiskState::Attaching).await;
        attached.ok_or_else(|| {
            problem(
                504,
                "attaching",
                "Still attaching",
                "its metadata could not be updated in time; try again",
            )
        })
    }

    async fn desired(&self, volume: VolumeName, desired: Desired) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        volume.command(|answer| Input::Desired(desired, answer)).await?;
        Ok(volume.status())
    }

    async fn verify(
        &self,
        volume: VolumeName,
        request: Option<VerifyRequest>,
    ) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        volume.command(|answer| Input::Verify(request, answer)).await?;
        Ok(volume.status())
    }

    async fn resync(&self, volume: VolumeName, request: ResyncRequest) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        volume.command(|answer| Input::PauseResync(request.paused, answer)).await?;
        Ok(volume.status())
    }

    async fn discard(&self, volume: VolumeName, request: DiscardRequest) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        volume.command(|answer| Input::Discard(request, answer)).await?;
        Ok(volume.status())
    }

    async fn release(&self, volume: VolumeName, snapshot: String) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        let known = volume.clone();
        let released = tokio::task::spawn_blocking(move || {
            let backing = known.published().config.backing.clone();
            let released = keep::release(&backing, &snapshot);
            known.look_for_snapshots();
            released
        });
        let released = released.await;
        self.shared.version.send_modify(|v| *v += 1);
        released
            .map_err(|e| problem(500, "internal", "Internal error", e.to_string()))?
            .map_err(|e| problem(500, "storage", "Storage failed", e.to_string()))?;
        Ok(volume.status())
    }

    async fn format(&self, name: VolumeName, format: Format) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&name)?;
        volume.command(Input::Look).await?;
        let status = volume.status();
        if volume.published().config.front_end == FrontEndKind::Nbd {
            let detail = format!("{name} has no block device here: whoever uses it by NBD formats it");
            return Err(problem(409, "no-device", "No block device", detail));
        }
        let (Role::Primary, Some(_)) = (status.role, &status.device) else {
            return Err(problem(409, "not-primary", "Not primary", format!("{name} has no device here")));
        };
        if let Some(found) = status.filesystem {
            let detail = format!("{name} holds something already: {found}; nothing was changed");
            return Err(problem(409, "not-blank", "Volume is not blank", detail));
        }
        let device = volume.local_device().ok_or_else(|| {
            problem(409, "not-primary", "Not primary", format!("{name} has lost its device"))
        })?;
        let filesystem = format.filesystem;
        let made =
            tokio::task::spawn_blocking(move || mkfs::make_filesystem(&device, &filesystem, FORMAT_LIMIT));
        made.await
            .map_err(|e| problem(500, "internal", "Internal error", e.to_string()))?
            .map_err(|e| problem(500, "format", "Formatting failed", e.to_string()))?;
        volume.command(Input::Look).await?;
        Ok(volume.status())
    }

    async fn export(&self, volume: VolumeName, wanted: bool) -> Result<VolumeStatus, Problem> {
        let volume = self.volume(&volume)?;
        volume.command(|answer| Input::Export(wanted, answer)).await?;
        Ok(volume.status())
    }

    async fn detach(&self, name: VolumeName) -> Result<(), Problem> {
        let volume = self.volume(&name)?;
        volume.stop(false).await?;
        self.shared.volumes().remove(&name);
        Ok(())
    }
}

/// The answer to a command.
type Answer = oneshot::Sender<Result<(), Problem>>;
