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
use crate::fence::{self, Fencer};
use crate::heartbeat::wire::Sealer;
use crate::heartbeat::{self, HeartbeatThread, ServeUntilSender, clock};
use crate::net::frames::mac_text;
use crate::net::gate::{self, GateEvent};
use crate::net::{AddressKeeper, GateConfig, KeeperEvent, NetError, RemovalReason};
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
use tokio::sync::{Notify, mpsc, watch};

/// How long the specification in etcd is waited for before the last known one is used.
const SPEC_WAIT: Duration = Duration::from_secs(3);
/// How long a node that knows none of this cluster waits for etcd before it gives up, to be started again. Going on with the
/// file would help nobody: without etcd nothing can be led, and nobody would write the file's text there later.
const FIRST_WAIT: Duration = Duration::from_secs(30);
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
    /// A first start without etcd.
    #[error(
        "etcd does not answer, and this node has never read this cluster's specification there: start etcd, or mend --etcd, \
         then start the agent again ({etcd})"
    )]
    FirstWithoutEtcd {
        /// What etcd said.
        etcd: String,
    },
    /// etcd has two members and nobody has said that this is meant.
    #[error("{}", super::members::two_members("etcd"))]
    TwoMembers,
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
    let mut shutdown = Box::pin(shutdown);
    let (spec, version) = tokio::select! {
        chosen = choose_spec(&config, &etcd, from_file, FIRST_WAIT) => chosen?,
        () = &mut shutdown => return Ok(()),
    };
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
    let gate = GateConfig { table: gate::table_name(&spec.cluster), guarded: spec.vips().collect() };
    let keeper = AddressKeeper::start(own_address, timers.fencetime, clock::now, Some(gate), on_address)
        .map(Arc::new)?;

    let failure_book = super::failures::FailureBook::open(&config.state_dir, &config.boot_id_file);
    let now = clock::now();
    let mut units = BTreeMap::new();
    let mut promised = Vec::new();
    let mut all_services = BTreeMap::new();
    for name in spec.groups.keys().filter(|_| node.is_some()) {
        let durable = state_dir.load(name)?;
        promised.push((name.clone(), bound_until(&durable, now)));
        let Some(plan) = Plan::of(&spec, &config, &engine, name) else { continue };
        all_services.extend(plan.containers());
        if let Some(mut unit) = Unit::new(&spec, &config.node, name, plan, timers, durable, now) {
            failure_book.load(name).tell(&mut unit);
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
    let links = reload::links(&spec, &config, timers);
    let tokens = Arc::new(Tokens::open(&config.state_dir.join("agent").join("tokens.json"))?);
    let door = access::open(&config.access, config.api, &config.run_dir, config.node.as_str(), &spec.cluster)
        .await?;
    let keeping = Arc::clone(&keeper);
    let news = Arc::new(Notify::new());
    let heard = Arc::clone(&news);
    let (thread, realtime) = HeartbeatThread::start(
        links,
        Sealer::new(&secret, &spec.cluster),
        Arc::clone(&beats),
        move |group, epoch, until| {
            sender.send(group, epoch, until);
            keeping.set_until(group, until);
        },
        move || heard.notify_one(),
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
        groups: &units.iter().map(|(n, u): (&GroupName, &Unit)| (n.clone(), u.input(None))).collect(),
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
    let fencer = Fencer::start(fence::Parts {
        me: config.node.clone(),
        dir: config.fence_agents.clone(),
        records: config.state_dir.join("fence"),
        in_force: in_force.clone(),
        etcd: etcd.clone(),
        history: history.clone(),
    });
    let commands = DriverCommands {
        fencer: fencer.clone(),
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
        tokens: Arc::clone(&tokens),
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
    let members = super::members::start(super::members::Parts {
        me: config.node.clone(),
        etcd: etcd.clone(),
        in_force: commands.in_force.clone(),
        status: status_ear.clone(),
        history: history.clone(),
    });
    let stores = [config.state_dir.clone(), config.state_dir.join("volumes")];
    tokio::spawn(crate::metrics::probe(stores.into()));
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
    let ears = Ears { back: back_ear, replicas, engine: engine.events(), etcd: etcd.watch(), lease, news };
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
        watchdog: Ok(None),
        node_keys: BTreeMap::new(),
        revision: 0,
        volumes: None,
        replicator: Default::default(),
        handshakes: Default::default(),
        links_told: super::links::Told::default(),
        memory: None,
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
        fencer,
        members,
        failure_book,
    };
    owner.start_checks();
    // Last, because from now on the core has to run.
    owner.watch();
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

/// An etcd of two members is refused where this node starts for the first time; one that has run before goes on, as a
/// member may be about to be replaced.
async fn enough_members(etcd: &Etcd, spec: &Spec, first: bool) -> Result<(), StartError> {
    if !first || spec.etcd.two_members {
        return Ok(());
    }
    let listed = etcd.listed().await.unwrap_or_default();
    let voters = crate::etcd::Look { listed, ..Default::default() }.voters();
    if voters == Some(2) { Err(StartError::TwoMembers) } else { Ok(()) }
}

/// etcd's specification if it can be read, else the last one read from there; a cluster without one gets the file's. A node
/// that never read one waits `first_wait` for etcd.
async fn choose_spec(
    config: &Config,
    etcd: &Etcd,
    from_file: Option<Spec>,
    first_wait: Duration,
) -> Result<(Spec, i64), StartError> {
    let kept: PathBuf = config.state_dir.join("agent").join("spec.yaml");
    let parse =
        |text: &str, name: String| Spec::parse(text, |_| None).map_err(|e| StartError::Spec(e.in_file(name)));
    // The copy of another cluster, on a host that is set up anew, does not count.
    let of_this = |spec: &Spec| etcd.keys().prefix() == crate::etcd::Keys::new(&spec.cluster).prefix();
    let first = !std::fs::read_to_string(&kept)
        .is_ok_and(|text| Spec::parse(&text, |_| None).is_ok_and(|spec| of_this(&spec)));
    let begin = tokio::time::Instant::now();
    let deadline = begin + if first { first_wait } else { SPEC_WAIT };
    let mut said = false;
    let found = loop {
        match etcd.spec().await {
            Ok(Some(found)) => break Ok(Some(found)),
            // It was there once: etcd was emptied. What the file says may be long out of date.
            Ok(None) if !first => break Ok(None),
            Ok(None) => match &from_file {
                None => break Ok(None),
                // Another agent may be faster: then its text counts.
                Some(spec) => {
                    enough_members(etcd, spec, first).await?;
                    match etcd.put_spec(&first_entry(config, spec), 0).await {
                        Outcome::Committed { revision } => break Ok(Some((spec.text.clone(), revision))),
                        Outcome::GuardFailed | Outcome::Unknown => {}
                    }
                }
            },
            Err(error) if tokio::time::Instant::now() >= deadline => break Err(error),
            Err(error) if !said && begin.elapsed() >= SPEC_WAIT => {
                said = true;
                tracing::error!(
                    endpoints = config.etcd.join(","),
                    error = %chain(&error),
                    "cannot reach etcd, which a first start needs: waits {} s for it",
                    first_wait.as_secs()
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    match found {
        Ok(Some((text, version))) => {
            let spec = parse(&text, "the specification in etcd".into())?;
            enough_members(etcd, &spec, first).await?;
            reload::keep_copy(&config.state_dir, &text);
            Ok((spec, version))
        }
        Ok(None) => {
            let spec = match std::fs::read_to_string(&kept) {
                Ok(text) if !first => {
                    tracing::error!(
                        "etcd holds no specification, but did: starts with the last one known, and writes nothing"
                    );
                    parse(&text, kept.display().to_string())?
                }
                _ => from_file.ok_or_else(|| StartError::NoSpec { etcd: "it holds none".into() })?,
            };
            Ok((spec, 0))
        }
        Err(error) if first => Err(StartError::FirstWithoutEtcd { etcd: chain(&error) }),
        Err(error) => {
            tracing::error!(
                endpoints = config.etcd.join(","),
                error = %chain(&error),
                "cannot reach etcd: starts with the last known specification and keeps trying; leadership cannot \
                 change until etcd answers"
            );
            let text = std::fs::read_to_string(&kept).map_err(|source| StartError::Sys {
                doing: "read",
                what: kept.display().to_string(),
                source,
            })?;
            Ok((parse(&text, kept.display().to_string())?, 0))
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
            KeeperEvent::Conflict { group, address, mac } => (
                Some(group),
                Severity::Critical,
                format!("{address} is claimed by another machine, {}; it is announced again", mac_text(mac)),
            ),
            KeeperEvent::ConflictOver { group, address } => {
                (Some(group), Severity::Info, format!("no other machine claims {address} any more"))
            }
            KeeperEvent::Gate(GateEvent::InForce) => {
                (None, Severity::Info, "fencing by nftables is in force".to_owned())
            }
            KeeperEvent::Gate(GateEvent::Restored) => (
                None,
                Severity::Warning,
                "the nftables rules that fence this node were removed by somebody else; they are there again"
                    .into(),
            ),
            KeeperEvent::Gate(GateEvent::Missing(why)) => (
                None,
                Severity::Warning,
                format!("fencing by address lifetimes only, nftables is not in force: {why}"),
            ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const SPEC: &str = "cluster: test\nnodes:\n  a: { address: 10.0.0.11 }\n  b: { address: 10.0.0.12 }\n\
                        groups:\n  web:\n    addresses: [10.0.0.100/24]\n    services: { w: { image: w } }\n";

    fn config(state: &std::path::Path) -> Config {
        let state = state.to_str().unwrap();
        Config::parse_from(["baton-agent", "--node", "a", "--etcd", "http://x:1", "--state-dir", state])
    }

    #[tokio::test]
    async fn two_members_of_etcd_are_refused_until_a_person_accepts_them() {
        let Some(cluster) = crate::etcd::tests::Cluster::start(2).await else { return };
        let etcd = cluster.etcd("a").await;
        let dir = tempfile::tempdir().unwrap();
        StateDir::open(dir.path()).unwrap();
        let config = config(dir.path());
        let spec = |more: &str| Some(Spec::parse(&format!("{SPEC}{more}"), |_| None).unwrap());
        let refused = choose_spec(&config, &etcd, spec(""), FIRST_WAIT).await.unwrap_err().to_string();
        assert!(
            refused.starts_with("etcd has two members") && refused.contains("a small witness"),
            "{refused}"
        );
        assert_eq!(etcd.spec().await.unwrap(), None, "nothing was written");
        let (_, version) =
            choose_spec(&config, &etcd, spec("etcd: { two_members: true }\n"), FIRST_WAIT).await.unwrap();
        assert!(version > 0);

        // A node that has run before starts again, whatever the specification says by now.
        let entry = SpecEntry { text: SPEC.into(), by: "anna".into(), ..SpecEntry::default() };
        assert!(matches!(etcd.put_spec(&entry, version).await, Outcome::Committed { .. }));
        assert!(choose_spec(&config, &etcd, None, FIRST_WAIT).await.is_ok());
        let fresh = tempfile::tempdir().unwrap();
        StateDir::open(fresh.path()).unwrap();
        let fresh = self::config(fresh.path());
        assert!(matches!(choose_spec(&fresh, &etcd, None, FIRST_WAIT).await, Err(StartError::TwoMembers)));
    }

    #[tokio::test]
    async fn an_emptied_etcd_gets_no_specification_from_an_old_file() {
        let Some(cluster) = crate::etcd::tests::Cluster::start(1).await else { return };
        let etcd = cluster.etcd("a").await;
        let dir = tempfile::tempdir().unwrap();
        StateDir::open(dir.path()).unwrap();
        let config = config(dir.path());
        let old = || Some(Spec::parse(SPEC, |_| None).unwrap());
        let (_, version) = choose_spec(&config, &etcd, old(), FIRST_WAIT).await.unwrap();
        // Changed since by `baton apply`.
        let newer = format!("{SPEC}heartbeat: {{ deadtime: 3s }}\n");
        let entry = SpecEntry { text: newer.clone(), by: "anna".into(), ..SpecEntry::default() };
        assert!(matches!(etcd.put_spec(&entry, version).await, Outcome::Committed { .. }));
        let (spec, _) = choose_spec(&config, &etcd, old(), FIRST_WAIT).await.unwrap();
        assert_eq!(spec.text, newer);
        cluster.empty().await;
        let (spec, version) = choose_spec(&config, &etcd, old(), FIRST_WAIT).await.unwrap();
        assert_eq!((spec.text, version), (newer, 0), "the one that was in force, not the file's");
        assert_eq!(etcd.spec().await.unwrap(), None, "and a person decides what is written");
    }

    #[tokio::test]
    async fn without_etcd_only_a_node_that_has_run_in_this_cluster_starts() {
        let me = baton_replicator::types::NodeName::new("a").unwrap();
        let nowhere =
            Etcd::new(&["http://127.0.0.1:1".into()], "test", me, Duration::from_millis(100)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        StateDir::open(dir.path()).unwrap();
        let config = config(dir.path());
        let chosen = |file: bool| {
            let file = file.then(|| Spec::parse(SPEC, |_| None).unwrap());
            choose_spec(&config, &nowhere, file, Duration::from_millis(300))
        };
        let refused = chosen(true).await.unwrap_err().to_string();
        assert!(refused.starts_with("etcd does not answer") && refused.contains("start etcd"), "{refused}");
        // What another cluster left here is none of this one's.
        reload::keep_copy(dir.path(), &SPEC.replace("cluster: test", "cluster: other"));
        assert!(matches!(chosen(true).await, Err(StartError::FirstWithoutEtcd { .. })));
        let newer = format!("{SPEC}heartbeat: {{ deadtime: 3s }}\n");
        reload::keep_copy(dir.path(), &newer);
        let (spec, version) = chosen(true).await.unwrap();
        assert_eq!((spec.text, version), (newer, 0));
    }
}
