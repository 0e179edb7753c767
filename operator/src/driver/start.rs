//! The start-up script of the agent.

use super::access;
use super::commands::DriverCommands;
use super::config::Config;
use super::exec::{Executor, Plan};
use super::history::History;
use super::owner::{Back, Ears, Lease, Owner, QUEUE};
use super::reload::{self, Reload};
use super::snapshot::{self, Input};
use super::state_dir::{StateDir, StateError};
use super::unit::Unit;
use crate::api::{self, ApiState};
use crate::causes::chain;
use crate::core::group::Severity;
use crate::core::promises::HeartbeatCore;
use crate::core::record::{Durable, LongPromise, Outcome};
use crate::core::rules::Rules;
use crate::core::timing::BadTimers;
use crate::docker::{DockerError, Engine, Owner as Ownership};
use crate::etcd::{Alive, Etcd, EtcdError, SpecEntry};
use crate::heartbeat::wire::Sealer;
use crate::heartbeat::{self, HeartbeatThread, ServeUntilSender, clock};
use crate::net::{AddressKeeper, KeeperEvent, NetError, RemovalReason};
use crate::notify::{self, Notifier};
use crate::replica::{ReplicaClient, follow};
use crate::security::Security;
use crate::security::files::FileError;
use crate::security::tls::TlsError;
use crate::security::tokens::Tokens;
use crate::spec::{Spec, SpecErrors};
use crate::status::{EtcdStatus, Event as HistoryEvent};
use baton_replicator::transport::{Secret, SecretError};
use baton_replicator::types::{GroupName, Instant};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long the specification in etcd is waited for before the last known one is used.
const SPEC_WAIT: Duration = Duration::from_secs(3);
/// Pause of the history's writer after a failure.
const HISTORY_RETRY: Duration = Duration::from_secs(1);

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The specification.
    #[error("the cluster specification is not valid:\n{0}")]
    Spec(SpecErrors),
    /// No specification anywhere.
    #[error("there is no cluster specification: give --spec FILE, or let etcd be reached ({etcd})")]
    NoSpec {
        /// What etcd said.
        etcd: String,
    },
    /// The timers.
    #[error("heartbeat: {0}")]
    Timers(#[from] BadTimers),
    /// etcd's URLs.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The engine's socket.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The API's certificates.
    #[error("the API's TLS: {0}")]
    Tls(#[from] TlsError),
    /// The copy of the tokens.
    #[error(transparent)]
    Tokens(#[from] FileError),
    /// Addresses.
    #[error("cannot manage addresses")]
    Net(#[from] NetError),
    /// Heartbeats.
    #[error(transparent)]
    Heartbeat(#[from] heartbeat::StartError),
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

/// Runs the agent until `shutdown` resolves; then prepares an orderly restart.
///
/// # Errors
/// [`StartError`] naming what is wrong, before anything has been changed.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), StartError> {
    let secret = Secret::load(&config.secret_file)?;
    let from_file = config.spec.as_deref().map(read_spec).transpose()?;
    let cluster = match (&from_file, &config.cluster) {
        (Some(spec), _) => spec.cluster.clone(),
        (None, Some(name)) => name.clone(),
        (None, None) => return Err(StartError::NoSpec { etcd: "--cluster is needed to ask it".into() }),
    };
    let etcd_tls = config.access.etcd_tls(&config.etcd, config.node.as_str());
    let etcd_stamp = etcd_tls.as_ref().map(|files| files.stamp());
    let etcd =
        Etcd::with_tls(&config.etcd, &cluster, config.node.clone(), Duration::from_secs(1), etcd_tls.clone())
            .await?;
    let state_dir = StateDir::open(&config.state_dir)?;
    let (spec, version) = choose_spec(&config, &etcd, from_file).await?;
    let spec = Arc::new(spec);
    let timers = spec.heartbeat.core().check()?;
    // A node that the specification does not name stays up and waits for one that does.
    let node = spec.nodes.get(&config.node);
    let own_address = node.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |n| n.address);

    let ownership = Ownership { cluster: spec.cluster.clone(), node: config.node.to_string() };
    let engine = Engine::connect(&config.docker, ownership, config.service_network.clone())?;
    match engine.ping().await {
        Ok(info) => tracing::info!(version = %info.version, api = %info.api_version, "Docker engine"),
        Err(error) => tracing::warn!(error = %chain(&error), "the Docker engine does not answer yet"),
    }
    let (history, entries) = History::new(config.node.clone());
    let (back, back_ear) = mpsc::channel::<Back>(QUEUE);
    let on_address = address_events(back.clone(), history.clone());
    let keeper = Arc::new(AddressKeeper::start(own_address, timers.fencetime, clock::now, on_address)?);

    let now = clock::now();
    let mut units = BTreeMap::new();
    let mut promised = Vec::new();
    let mut all_services = BTreeMap::new();
    for name in spec.groups.keys().filter(|_| node.is_some()) {
        let durable = state_dir.load(name)?;
        promised.push((name.clone(), bound_until(&durable, now)));
        let Some(plan) = Plan::of(&spec, &config, &engine, name) else { continue };
        all_services.extend(plan.containers());
        if let Some(unit) = Unit::new(&spec, &config.node, name, plan, timers, durable, now) {
            units.insert(name.clone(), unit);
        }
    }
    let replica = ReplicaClient::new(config.run_dir.join("replicator.sock"));
    let executor = Executor { engine: engine.clone(), replica: replica.clone(), keeper: Arc::clone(&keeper) };
    // A specification that does not come from etcd may be an old one: what it does not know may be right.
    if version != 0 {
        executor.remove_strays(&all_services).await;
    }

    let core = HeartbeatCore::new(
        config.node.clone(),
        rand::random(),
        timers,
        Rules::default(),
        spec.nodes.keys().cloned(),
        promised,
        now,
    );
    let incarnation = core.incarnation();
    let beats = Arc::new(Mutex::new(core));
    let sender = ServeUntilSender::new(&config.run_dir).map_err(|source| StartError::Sys {
        doing: "make",
        what: "a datagram socket".into(),
        source,
    })?;
    let links = reload::links(&spec, &config, timers.keepalive);
    let tokens = Arc::new(Tokens::open(&config.state_dir.join("agent").join("tokens.json"))?);
    let door = access::open(&config.access, config.api, &config.run_dir, config.node.as_str(), &spec.cluster)
        .await?;
    let keeping = Arc::clone(&keeper);
    let (thread, realtime) = HeartbeatThread::start(
        links,
        Sealer::new(&secret, &spec.cluster),
        Arc::clone(&beats),
        move |group, epoch, until| {
            sender.send(group, epoch, until);
            keeping.set_until(group, until);
        },
    )?;
    if !realtime.priority || !realtime.memory {
        tracing::warn!(
            priority = realtime.priority,
            locked_memory = realtime.memory,
            "heartbeats run without real-time priority or locked memory: a loaded host may be late (CAP_SYS_NICE, \
             CAP_IPC_LOCK)"
        );
    }

    let alive = Alive {
        addresses: links_of(&spec, &config),
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: format!("{incarnation:016x}"),
    };
    let (lease_task, lease) = etcd.keep_lease(timers.ttl, alive);
    let (replicas, _follower) = follow(replica);
    let (status, status_ear) = watch::channel(snapshot::build(&Input {
        spec: &spec,
        spec_version: version,
        me: &config.node,
        now,
        at: super::history::rfc3339(std::time::SystemTime::now()),
        incarnation,
        etcd: EtcdStatus { endpoints: config.etcd.clone(), ..EtcdStatus::default() },
        peers: &BTreeMap::new(),
        refused: &BTreeMap::new(),
        node_keys: &BTreeMap::new(),
        groups: &units.iter().map(|(n, u): (&GroupName, &Unit)| (n.clone(), u.input())).collect(),
        volumes: None,
        volumes_at: None,
        advice: Vec::new(),
    }));
    let ran = Arc::new(AtomicU64::new(now.0));
    let (told, in_force) = watch::channel(Arc::clone(&spec));
    let notifier = Notifier::start(notify::Parts {
        me: config.node.clone(),
        spec: in_force.clone(),
        state_dir: config.state_dir.clone(),
        etcd: etcd.clone(),
        status: status_ear.clone(),
        events: history.subscribe(),
    });
    let commands = DriverCommands {
        me: config.node.clone(),
        back: back.clone(),
        in_force,
        state_dir: config.state_dir.clone(),
        etcd: etcd.clone(),
        history: history.clone(),
        status: status_ear.clone(),
        alive: Arc::clone(&ran),
        notifier: notifier.clone(),
        replica: executor.replica.clone(),
    };
    tokio::spawn(write_history(etcd.clone(), entries));
    let verifier = super::verify::Verifier {
        me: config.node.clone(),
        in_force: commands.in_force.clone(),
        etcd: etcd.clone(),
        replica: executor.replica.clone(),
        status: status_ear.clone(),
        history: history.clone(),
    };
    let verifies = verifier.start();
    let resolver = super::resolve::Resolver {
        me: config.node.clone(),
        in_force: commands.in_force.clone(),
        etcd: etcd.clone(),
        replica: executor.replica.clone(),
        history: history.clone(),
    };
    let given_up = resolver.start();
    super::maintenance::watch(etcd.clone(), status_ear.clone(), history.clone());
    let stores = [config.state_dir.clone(), config.state_dir.join("volumes")];
    tokio::spawn(crate::metrics::probe(etcd.clone(), stores.into()));
    let (stop_api, api_stopped) = watch::channel(false);
    tokio::spawn(etcd.clone().follow_tokens(Arc::clone(&tokens)));
    let recorder = |history: &History| {
        let history = history.clone();
        move |severity, line: &str| history.record(None, severity, line)
    };
    let mut security =
        Security::new(&spec.cluster, tokens, Arc::new(etcd.clone()), Box::new(recorder(&history)));
    security.open_metrics = config.access.metrics_open;
    security.authentication = !config.access.api_insecure;
    let certificates = crate::security::watch::Watch {
        node: config.node.to_string(),
        api: door.tls,
        etcd: etcd_tls.zip(etcd_stamp).map(|(files, stamp)| (files, stamp, renew_etcd(etcd.clone()))),
        look: crate::security::watch::LOOK,
        advice: door.advice,
        record: Box::new(recorder(&history)),
    };
    let api_state = ApiState::new(status_ear.clone(), Arc::new(commands))
        .at_port(config.api.port())
        .with_series(crate::series::Series::record(status_ear))
        .with_security(Arc::new(security));
    let api = tokio::spawn(api::serve(door.incoming, api_state, async move {
        let mut stopped = api_stopped;
        let _ = stopped.wait_for(|s| *s).await;
    }));
    let ears = Ears { back: back_ear, replicas, engine: engine.events(), etcd: etcd.watch(), lease };
    tracing::info!(
        node = %config.node,
        cluster = %spec.cluster,
        api = %door.tcp.map_or("Unix socket only".to_owned(), |at| at.to_string()),
        heartbeats = %format!("udp {}", config.heartbeat_port),
        "baton-agent {} runs",
        env!("CARGO_PKG_VERSION")
    );
    history.record(None, Severity::Info, &format!("agent {} started", env!("CARGO_PKG_VERSION")));
    let mut owner = Owner {
        thread,
        lease_task,
        reload: Reload::new(told, version),
        config,
        shown: Arc::clone(&spec),
        spec,
        timers,
        beats,
        etcd,
        executor,
        state_dir,
        history,
        units,
        back,
        status,
        alive: ran,
        node_keys: BTreeMap::new(),
        revision: 0,
        volumes: None,
        replicator: Default::default(),
        handshakes: Default::default(),
        configuring: Default::default(),
        configure_at: BTreeMap::new(),
        configure_errors: BTreeMap::new(),
        configured: BTreeMap::new(),
        lease: Lease::default(),
        published: Instant::ZERO,
        verifies,
        given_up,
        availability: Default::default(),
        security: certificates.start(),
        notifier,
    };
    owner.start_checks();
    owner.run(ears, shutdown).await;
    stop_api.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_millis(500), api).await;
    Ok(())
}

fn renew_etcd(etcd: Etcd) -> crate::security::watch::Renew {
    Box::new(move || {
        let etcd = etcd.clone();
        Box::pin(async move { etcd.renew_all().await })
    })
}

fn read_spec(path: &std::path::Path) -> Result<Spec, StartError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Sys {
        doing: "read",
        what: shown.clone(),
        source,
    })?;
    Spec::parse(&text, |name| std::env::var(name).ok()).map_err(|e| StartError::Spec(e.in_file(shown)))
}

/// etcd's specification if it can be read, else the last one read from there, else the file's. A cluster without one
/// gets the file's.
async fn choose_spec(
    config: &Config,
    etcd: &Etcd,
    from_file: Option<Spec>,
) -> Result<(Spec, i64), StartError> {
    let kept: PathBuf = config.state_dir.join("agent").join("spec.yaml");
    let parse =
        |text: &str, name: String| Spec::parse(text, |_| None).map_err(|e| StartError::Spec(e.in_file(name)));
    let deadline = tokio::time::Instant::now() + SPEC_WAIT;
    let found = loop {
        match etcd.spec().await {
            Ok(Some(found)) => break Ok(Some(found)),
            Ok(None) => match &from_file {
                None => break Ok(None),
                // Another agent may be faster: then its text counts.
                Some(spec) => match etcd.put_spec(&first_entry(config, spec), 0).await {
                    Outcome::Committed { revision } => break Ok(Some((spec.text.clone(), revision))),
                    Outcome::GuardFailed | Outcome::Unknown => {}
                },
            },
            Err(error) if tokio::time::Instant::now() >= deadline => break Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    match found {
        Ok(Some((text, version))) => {
            let spec = parse(&text, "the specification in etcd".into())?;
            reload::keep_copy(&config.state_dir, &text);
            Ok((spec, version))
        }
        Ok(None) => {
            let spec = from_file.ok_or_else(|| StartError::NoSpec { etcd: "it holds none".into() })?;
            Ok((spec, 0))
        }
        Err(error) => {
            tracing::error!(
                endpoints = config.etcd.join(","),
                error = %chain(&error),
                "cannot reach etcd: starts with the last known specification and keeps trying; leadership cannot \
                 change until etcd answers"
            );
            let spec = match std::fs::read_to_string(&kept) {
                Ok(text) => parse(&text, kept.display().to_string()),
                Err(_) => from_file.ok_or_else(|| StartError::NoSpec { etcd: chain(&error) }),
            };
            Ok((spec?, 0))
        }
    }
}

/// The history's entry of a cluster's first specification.
fn first_entry(config: &Config, spec: &Spec) -> SpecEntry {
    let file = config.spec.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
    SpecEntry {
        version: 0,
        at: super::history::rfc3339(std::time::SystemTime::now()),
        by: format!("agent {}", config.node),
        from: "local".into(),
        message: format!("first start, from {file}"),
        text: spec.text.clone(),
    }
}

fn links_of(spec: &Spec, config: &Config) -> Vec<String> {
    let own = spec.nodes.get(&config.node);
    own.into_iter().flat_map(|n| &n.heartbeat).map(ToString::to_string).collect()
}

/// Until when a longer promise binds that was given before this start. After a reboot of the host the clock started
/// again, so never longer than its whole length from now.
pub(super) fn bound_until(durable: &Durable, now: Instant) -> Instant {
    let Some(LongPromise { until, length_ms }) = durable.promise.clone() else { return Instant::ZERO };
    until.min(now.plus(Duration::from_millis(length_ms)))
}

fn address_events(back: mpsc::Sender<Back>, history: History) -> impl Fn(KeeperEvent) + Send + 'static {
    move |event| {
        let (group, severity, message) = match event {
            KeeperEvent::Up { group, address, interface } => {
                (Some(group), Severity::Info, format!("{address} is up on {interface} and announced"))
            }
            KeeperEvent::Removed { group, address, why } => match why {
                RemovalReason::Released => (group, Severity::Info, format!("{address} removed")),
                RemovalReason::Stray => {
                    (group, Severity::Warning, format!("{address} removed: left by an earlier run"))
                }
                RemovalReason::Fenced | RemovalReason::Expired => {
                    (group, Severity::Critical, format!("{address} removed: this node may not serve now"))
                }
            },
            KeeperEvent::Vanished { group, address } => (
                Some(group),
                Severity::Warning,
                format!("{address} was removed by somebody else; it is added again"),
            ),
            KeeperEvent::Failed { address, error } => {
                let what = address.map(|a| format!("{a}: ")).unwrap_or_default();
                (None, Severity::Warning, format!("{what}{}", chain(&error)))
            }
            KeeperEvent::Link(link) => {
                let word = if link.carrier { "up" } else { "down" };
                (None, Severity::Warning, format!("link {} is {word}", link.interface))
            }
        };
        match group {
            Some(group) => drop(back.try_send(Back::Address(group, severity, message))),
            None => history.record(None, severity, &message),
        }
    }
}

/// Writes the history to etcd, one entry after another.
async fn write_history(etcd: Etcd, mut entries: mpsc::Receiver<HistoryEvent>) {
    while let Some(event) = entries.recv().await {
        // An entry whose fate is unknown may be there twice after this: better than not at all.
        while etcd.append_event(&event).await.is_err() {
            tokio::time::sleep(HISTORY_RETRY).await;
        }
    }
}
