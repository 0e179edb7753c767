//! The replicator's process: volumes with their owner threads, the listener for peers, the agent's sockets.
//!
//! Each volume has one owner ([`volume`]) and nobody else touches its engine. This module routes: a peer's session
//! to its volume, a command to its owner, every owner's status to whoever waits for it. Start-up is a script
//! ([`run`]); shutdown stops every volume in order, within a bound.

mod attach;
mod config;
mod volume;

pub use config::Config;

use crate::api::{Desired, Format, Problem, ServeUntil, Status, VolumeConfig, VolumeStatus};
use crate::control::{ControlServer, Controller, ServeUntilSocket, problem};
use crate::frontend::{mkfs, stale};
use crate::transport::{Listener, ListenerConfig, Secret, SecretError, TransportEvent};
use crate::types::{DiskState, NodeName, VolumeName};
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use volume::{Input, not_attached};

/// Making a filesystem; the control API's own bound is above it.
const MKFS_LIMIT: Duration = Duration::from_secs(300);
/// After mkfs the engine looks at the first blocks again: two store reads.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Stopping all volumes at the end of the process. Docker's default grace is 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// Why the replicator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Something of the system.
    #[error("cannot {doing} {what}")]
    Sys {
        /// Verb.
        doing: &'static str,
        /// Object.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What everybody in the process shares.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) secret: Secret,
    pub(crate) tag: String,
    host_boot: String,
    volumes: Mutex<BTreeMap<VolumeName, Entry>>,
    routes: Mutex<HashMap<u64, Sender<Input>>>,
    version: watch::Sender<u64>,
}

struct Entry {
    config: VolumeConfig,
    status: VolumeStatus,
    /// None: attaching failed, the status says why.
    owner: Option<Sender<Input>>,
    device: Option<PathBuf>,
}

impl Shared {
    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Entry>> {
        // A panic aborts the process, so a poisoned mutex cannot be met.
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<u64, Sender<Input>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An owner's newest status; `changed` wakes whoever waits.
    pub(crate) fn publish(&self, status: VolumeStatus, changed: bool) {
        if let Some(entry) = self.volumes().get_mut(&status.volume) {
            entry.status = status;
        }
        if changed {
            self.version.send_modify(|v| *v += 1);
        }
    }

    pub(crate) fn set_device(&self, name: &VolumeName, device: Option<PathBuf>) {
        if let Some(entry) = self.volumes().get_mut(name) {
            entry.device = device;
        }
    }

    fn owner(&self, name: &VolumeName) -> Result<Sender<Input>, Problem> {
        let volumes = self.volumes();
        let entry = volumes.get(name).ok_or_else(|| not_attached(name))?;
        entry.owner.clone().ok_or_else(|| {
            let why = entry.status.alarms.last().cloned().unwrap_or_default();
            problem(409, "attach-failed", "The volume could not be attached", why)
        })
    }

    /// Sends a peer's event to its volume. Called from the listener's and the dialers' threads.
    fn route(&self, event: TransportEvent) {
        match &event {
            TransportEvent::Opened(session) => {
                let Ok(owner) = self.owner(session.volume()) else {
                    session.close("the volume is not attached here");
                    return;
                };
                self.routes().insert(session.id().0, owner.clone());
                let _ = owner.send(Input::Transport(event));
            }
            TransportEvent::Frame { session, .. } => {
                let owner = self.routes().get(&session.0).cloned();
                if let Some(owner) = owner {
                    let _ = owner.send(Input::Transport(event));
                }
            }
            TransportEvent::Closed { session, .. } => {
                let owner = self.routes().remove(&session.0);
                if let Some(owner) = owner {
                    let _ = owner.send(Input::Transport(event));
                }
            }
            TransportEvent::DialFailed { volume, .. } => {
                if let Ok(owner) = self.owner(volume) {
                    let _ = owner.send(Input::Transport(event));
                }
            }
        }
    }

    /// Whether a peer's session for a volume is welcome, and the volume's `peer_timeout`.
    fn admit(&self, node: &NodeName, name: &VolumeName) -> Result<Duration, String> {
        let volumes = self.volumes();
        let entry = volumes.get(name).filter(|e| e.owner.is_some());
        let entry = entry.ok_or_else(|| format!("volume {name} is not attached here"))?;
        if entry.config.peers.iter().any(|p| p.node == *node) {
            Ok(Duration::from_millis(entry.config.peer_timeout_ms))
        } else {
            Err(format!("{node} is no peer of volume {name} here"))
        }
    }

    fn serve_until(&self, said: &ServeUntil) {
        for entry in self.volumes().values().filter(|e| e.config.group == said.group) {
            if let Some(owner) = &entry.owner {
                let _ = owner.send(Input::ServeUntil(said.epoch, said.until));
            }
        }
    }

    fn status(&self) -> Status {
        let version = *self.version.borrow();
        let volumes = self.volumes().values().map(|e| e.status.clone()).collect();
        Status { version, node: Some(self.config.node.clone()), volumes }
    }

    fn status_of(&self, name: &VolumeName) -> Option<VolumeStatus> {
        self.volumes().get(name).map(|e| e.status.clone())
    }
}

/// The agent's commands.
struct Commands(Arc<Shared>);

impl Commands {
    async fn ask(
        &self, name: &VolumeName, input: impl FnOnce(volume::Waiter) -> Input,
    ) -> Result<VolumeStatus, Problem> {
        let gone = || problem(503, "stopping", "Stopping", format!("volume {name} is being stopped"));
        let owner = self.0.owner(name)?;
        let (waiter, answer) = oneshot::channel();
        owner.send(input(waiter)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Controller for Commands {
    async fn status(&self, after: Option<u64>, wait: Duration) -> Status {
        if let Some(after) = after {
            let mut version = self.0.version.subscribe();
            let _ = tokio::time::timeout(wait, version.wait_for(|v| *v > after)).await;
        }
        self.0.status()
    }

    async fn configure(&self, config: VolumeConfig) -> Result<VolumeStatus, Problem> {
        let name = config.volume.clone();
        let known = self.0.volumes().get(&name).map(|e| (e.config == config, e.owner.is_some()));
        match known {
            Some((true, true)) => {}
            Some((false, true)) => {
                // Another configuration: stop the owner in order (refused for a primary), then attach anew.
                self.detach(name.clone()).await?;
                self.attach(config).await?;
            }
            Some((_, false)) | None => self.attach(config).await?,
        }
        self.0.status_of(&name).ok_or_else(|| not_attached(&name))
    }

    async fn desired(&self, name: VolumeName, desired: Desired) -> Result<VolumeStatus, Problem> {
        self.ask(&name, |waiter| Input::Desired(desired, waiter)).await
    }

    async fn format(&self, name: VolumeName, format: Format) -> Result<VolumeStatus, Problem> {
        let refused = |detail: String| problem(409, "not-blank", "Not formatted", detail);
        let owner = self.0.owner(&name)?;
        let (status, device) = {
            let volumes = self.0.volumes();
            let entry = volumes.get(&name).ok_or_else(|| not_attached(&name))?;
            (entry.status.clone(), entry.device.clone())
        };
        let Some(device) = device else {
            return Err(refused(format!("volume {name} is not primary here: there is no device to format")));
        };
        if let Some(found) = status.filesystem {
            return Err(refused(format!("volume {name} already holds {found}; nothing was changed")));
        }
        let made = tokio::task::spawn_blocking(move || {
            mkfs::make_filesystem(&device, &format.filesystem, MKFS_LIMIT).map_err(|e| volume::chain(&e))
        });
        let failed = |detail| problem(500, "mkfs", "The filesystem could not be made", detail);
        made.await.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        let _ = owner.send(Input::Probe);
        let mut version = self.0.version.subscribe();
        let seen = async {
            loop {
                match self.0.status_of(&name) {
                    Some(status) if status.filesystem.is_some() => return Ok(status),
                    Some(_) => {}
                    None => return Err(not_attached(&name)),
                }
                // Every owner publishes at least once per tick; the version need not change for that.
                let _ = tokio::time::timeout(Duration::from_millis(20), version.changed()).await;
            }
        };
        tokio::time::timeout(PROBE_LIMIT, seen)
            .await
            .map_err(|_| failed("the new filesystem is not recognised".into()))?
    }

    async fn detach(&self, name: VolumeName) -> Result<(), Problem> {
        self.ask(&name, |waiter| Input::Stop { even_primary: false, waiter }).await?;
        self.0.volumes().remove(&name);
        self.0.version.send_modify(|v| *v += 1);
        Ok(())
    }
}

impl Commands {
    async fn attach(&self, config: VolumeConfig) -> Result<(), Problem> {
        let shared = Arc::clone(&self.0);
        let attached = tokio::task::spawn_blocking(move || attach::attach(&shared, config)).await;
        attached.map_err(|e| problem(500, "attach-failed", "The volume could not be attached", e.to_string()))?
    }
}

/// Runs the replicator until `shutdown` resolves, then stops every volume in order.
///
/// # Errors
/// [`StartError`] naming what could not be had.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), StartError> {
    let sys = |doing, what: String| move |source| StartError::Sys { doing, what, source };
    let secret = Secret::load(&config.secret_file)?;
    let shown = |p: &std::path::Path| p.display().to_string();
    let host_boot = std::fs::read_to_string(&config.boot_id_file)
        .map_err(sys("read the boot id in", shown(&config.boot_id_file)))?
        .trim()
        .to_owned();
    for dir in [&config.run_dir, &config.state_dir, &config.device_dir] {
        std::fs::create_dir_all(dir).map_err(sys("make the directory", shown(dir)))?;
    }
    let tag = stale::node_tag(&config.state_dir, &config.node)
        .map_err(sys("keep this node's mark in", shown(&config.state_dir)))?;
    for left in stale::clean(&tag, &config.run_dir, &config.device_dir) {
        tracing::info!("left by an earlier process: {left}");
    }
    let shared = Arc::new(Shared {
        secret: secret.clone(),
        tag,
        host_boot,
        volumes: Mutex::default(),
        routes: Mutex::default(),
        version: watch::channel(1).0,
        config: config.clone(),
    });
    let (admitting, routing) = (Arc::clone(&shared), Arc::clone(&shared));
    let listener = ListenerConfig {
        address: config.listen,
        secret,
        node: config.node.clone(),
        admit: Arc::new(move |node, volume| admitting.admit(node, volume)),
    };
    let listener = Listener::bind(listener, Arc::new(move |event| routing.route(event)))
        .map_err(sys("listen for peers on", config.listen.to_string()))?;
    let serving = Arc::clone(&shared);
    let path = config.run_dir.join("serve-until.sock");
    let _serve_until = ServeUntilSocket::bind(&path, move |said| serving.serve_until(&said))
        .map_err(sys("listen on", shown(&path)))?;
    let path = config.run_dir.join("replicator.sock");
    let control = ControlServer::bind(&path).map_err(sys("listen on", shown(&path)))?;
    tracing::info!(
        node = %config.node,
        peers = %listener.local_address(),
        control = %path.display(),
        "baton-replicator {} runs",
        env!("CARGO_PKG_VERSION")
    );
    let served = control.serve(Arc::new(Commands(Arc::clone(&shared))), shutdown).await;
    served.map_err(sys("serve on", shown(&path)))?;
    stop_all(&shared).await;
    Ok(())
}

async fn stop_all(shared: &Arc<Shared>) {
    let names: Vec<VolumeName> = shared.volumes().keys().cloned().collect();
    let commands = Commands(Arc::clone(shared));
    let stops = names.iter().map(|name| {
        let commands = &commands;
        async move {
            let stopped = commands.ask(name, |waiter| Input::Stop { even_primary: true, waiter }).await;
            match stopped {
                Ok(_) => tracing::info!(volume = %name, "stopped in order"),
                Err(problem) => tracing::warn!(volume = %name, "not stopped in order: {problem}"),
            }
        }
    });
    let all = async {
        for stop in stops {
            stop.await;
        }
    };
    if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
        tracing::warn!("not all volumes stopped within {STOP_LIMIT:?}; the next start resyncs what they had in flight");
    }
}

/// Status of a volume that could not be attached.
fn failed_status(config: &VolumeConfig, why: &str) -> VolumeStatus {
    VolumeStatus {
        volume: config.volume.clone(),
        group: config.group.clone(),
        size_bytes: config.size_bytes,
        role: crate::types::Role::Secondary,
        epoch: crate::types::Epoch::ZERO,
        disk: DiskState::Failed,
        generation: crate::types::Generation(0),
        boot: crate::types::BootId(0),
        device: None,
        filesystem: None,
        frozen: None,
        frozen_since: None,
        required: Vec::new(),
        peers: Vec::new(),
        activity_log_extents: 0,
        counters: crate::api::Counters::default(),
        alarms: vec![why.to_owned()],
    }
}
