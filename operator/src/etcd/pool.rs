//! The members: which one to ask, and when to ask another one as well.
//!
//! Each member has a channel of its own, because one balanced channel would keep sending a share of the requests to
//! a member that is dead. The member that answered last is asked first. One that was overtaken or timed out gets a
//! new connection, so that nothing waits behind a half-open one.

use super::keys::Keys;
use crate::heartbeat::clock;
use crate::security::files;
use crate::security::tls::TlsFiles;
use baton_replicator::types::{Instant, NodeName};
use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions};
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After this long without an answer the next member is asked as well. A healthy member on a local network answers
/// in a few milliseconds; a dead one costs this much.
pub const HEDGE: Duration = Duration::from_millis(100);
/// A member that answered this recently is trusted with a transaction without asking first.
const FRESH: Duration = Duration::from_millis(100);
/// A member that cannot be connected to in this time counts as dead.
const CONNECT: Duration = Duration::from_millis(500);
/// Between two rounds when every member refused; an election takes a few hundred milliseconds.
const ROUND: Duration = Duration::from_millis(50);
/// HTTP/2 pings, so that streams (watch) notice a member that vanished. etcd refuses more than one in 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// A request that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EtcdError {
    /// No member answered in time.
    #[error("etcd does not answer: {0}")]
    Unreachable(String),
    /// A value that this version cannot read.
    #[error("etcd key {key} holds something else than expected: {why}")]
    BadValue {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another writer was faster, again and again.
    #[error("etcd key {key} keeps changing under us")]
    Contended {
        /// The key.
        key: String,
    },
}

/// Mutual TLS towards etcd: its authority, and this node's certificate and key.
pub type EtcdTls = TlsFiles;

struct Endpoint {
    url: String,
    client: Mutex<Client>,
    last_ok: AtomicU64,
}

struct Inner {
    endpoints: Vec<Endpoint>,
    preferred: AtomicUsize,
    timeout: Duration,
    keys: Keys,
    me: NodeName,
    tls: Option<EtcdTls>,
    fence_counter: AtomicU64,
    answered: AtomicU64,
    /// Microseconds that a confirmed request takes, smoothed; 0 before the first one.
    latency: AtomicU64,
}

/// A handle on an etcd cluster; cheap to clone. Needs a tokio runtime.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files are read for each new connection, so that a renewed certificate needs nothing else.
fn tls_options(files: &EtcdTls) -> Result<TlsOptions, String> {
    let ca = files::read(&files.ca).map_err(|e| e.to_string())?;
    let certificate = files::read(&files.cert).map_err(|e| e.to_string())?;
    let key = files::read_private(&files.key).map_err(|e| e.to_string())?;
    Ok(TlsOptions::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(certificate, key)))
}

/// With `require_leader` a member without a leader refuses at once, instead of letting the request wait for an election.
pub(super) async fn client(url: &str, tls: Option<&EtcdTls>, require_leader: bool) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING.0, PING.1)
        .with_require_leader(require_leader);
    if url.starts_with("https:") {
        let files = tls.ok_or("https needs --etcd-ca, --etcd-cert and --etcd-key")?;
        options = options.with_tls(tls_options(files)?);
    }
    Client::connect([url], Some(options)).await.map_err(|e| e.to_string())
}

/// Whether the same request may succeed a moment later: no connection, or no leader (gRPC's UNAVAILABLE).
fn transient(error: &Error) -> bool {
    const UNAVAILABLE: i32 = 14;
    match error {
        Error::GRpcStatus(status) => status.code() as i32 == UNAVAILABLE,
        Error::TransportError(_) | Error::IoError(_) => true,
        _ => false,
    }
}

impl Etcd {
    /// A handle on the members at these URLs. Connects when first used.
    ///
    /// # Errors
    /// No URL, or one that is not one.
    pub async fn new(
        urls: &[String],
        cluster: &str,
        me: NodeName,
        timeout: Duration,
    ) -> Result<Self, EtcdError> {
        Self::with_tls(urls, cluster, me, timeout, None).await
    }

    /// The same, with TLS for the URLs that begin with `https:`.
    ///
    /// # Errors
    /// As [`Etcd::new`], or an identity that cannot be read.
    pub async fn with_tls(
        urls: &[String],
        cluster: &str,
        me: NodeName,
        timeout: Duration,
        tls: Option<EtcdTls>,
    ) -> Result<Self, EtcdError> {
        let mut endpoints = Vec::new();
        for url in urls {
            let client = client(url, tls.as_ref(), true)
                .await
                .map_err(|e| EtcdError::Unreachable(format!("{url}: {e}")))?;
            endpoints.push(Endpoint {
                url: url.clone(),
                client: Mutex::new(client),
                last_ok: AtomicU64::new(0),
            });
        }
        if endpoints.is_empty() {
            return Err(EtcdError::Unreachable("no endpoint is configured".into()));
        }
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        Ok(Self(Arc::new(Inner {
            endpoints,
            preferred: AtomicUsize::new(0),
            timeout,
            keys: Keys::new(cluster),
            me,
            tls,
            // Only has to differ from what was written before; the wall clock makes it grow across restarts.
            fence_counter: AtomicU64::new(u64::try_from(seed).unwrap_or(0)),
            answered: AtomicU64::new(0),
            latency: AtomicU64::new(0),
        })))
    }

    /// The URLs.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.0.endpoints.iter().map(|e| e.url.clone()).collect()
    }

    /// The keys of the cluster.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &NodeName {
        &self.0.me
    }

    /// When any member answered last; none if none ever did.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        Some(Instant(self.0.answered.load(Relaxed))).filter(|at| *at > Instant::ZERO)
    }

    /// How long a confirmed request takes, smoothed over the last ten or so; none before the first one.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        Some(self.0.latency.load(Relaxed)).filter(|us| *us > 0).map(Duration::from_micros)
    }

    /// A request took this long until it was confirmed.
    pub(super) fn took(&self, took: Duration) {
        let now = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        // As TCP smooths its round trips (RFC 6298): an eighth of the new one. A lost race with another request does no
        // harm: it is a figure for people.
        let smoothed = |old: u64| if old == 0 { now } else { old - old / 8 + now / 8 };
        self.0.latency.store(smoothed(self.0.latency.load(Relaxed)).max(1), Relaxed);
    }

    pub(super) fn tls(&self) -> Option<&EtcdTls> {
        self.0.tls.as_ref()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    pub(super) fn next_fence(&self) -> u64 {
        self.0.fence_counter.fetch_add(1, Relaxed) + 1
    }

    /// Indices of the members, the preferred one first.
    pub(super) fn order(&self) -> Vec<usize> {
        let (n, first) = (self.0.endpoints.len(), self.0.preferred.load(Relaxed));
        (0..n).map(|i| (first + i) % n).collect()
    }

    pub(crate) fn client(&self, index: usize) -> Client {
        lock(&self.0.endpoints[index].client).clone()
    }

    pub(super) fn succeeded(&self, index: usize) {
        let now = clock::now().0;
        self.0.endpoints[index].last_ok.store(now, Relaxed);
        self.0.answered.store(now, Relaxed);
        self.0.preferred.store(index, Relaxed);
    }

    /// Gives a member that did not answer a new connection.
    pub(super) async fn renew(&self, index: usize) {
        let endpoint = &self.0.endpoints[index];
        endpoint.last_ok.store(0, Relaxed);
        // Does not connect yet, so it neither waits nor fails for a URL that was accepted before.
        match client(&endpoint.url, self.0.tls.as_ref(), true).await {
            Ok(new) => *lock(&endpoint.client) = new,
            Err(error) => tracing::warn!(url = endpoint.url, error, "keeps its old connection to etcd"),
        }
    }

    /// Gives every member a new connection, because this node's certificate was renewed. Requests on their way end on the
    /// old ones.
    pub async fn renew_all(&self) {
        for index in 0..self.0.endpoints.len() {
            self.renew(index).await;
        }
    }

    /// Asks one member after the other, [`HEDGE`] apart, until one answers. Only for requests that may be carried
    /// out more than once. Returns the answer and who gave it.
    pub(super) async fn hedged<T, F, Fut>(&self, op: F) -> Result<(T, usize), EtcdError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let begin = std::time::Instant::now();
        let mut waiting = self.order().into_iter();
        let mut running = FuturesUnordered::new();
        let mut pending: Vec<usize> = Vec::new();
        let mut last_error = String::from("no answer in time");
        let mut may_pass = false;
        let launch = |index: usize| {
            let attempt = op(self.client(index));
            async move { (index, attempt.await) }
        };
        let deadline = tokio::time::Instant::now() + self.0.timeout;
        let outcome = loop {
            if running.is_empty() {
                match waiting.next() {
                    Some(index) => {
                        pending.push(index);
                        running.push(launch(index));
                    }
                    // Between two leaders every member refuses; go round again until the time is up.
                    None if may_pass && tokio::time::Instant::now() + ROUND < deadline => {
                        may_pass = false;
                        waiting = self.order().into_iter();
                        tokio::time::sleep(ROUND).await;
                        continue;
                    }
                    None => break Err(EtcdError::Unreachable(last_error)),
                }
            }
            tokio::select! {
                Some((index, answer)) = running.next() => match answer {
                    Ok(value) => {
                        pending.retain(|&p| p != index);
                        self.succeeded(index);
                        break Ok((value, index));
                    }
                    Err(error) => {
                        pending.retain(|&p| p != index);
                        may_pass |= transient(&error);
                        last_error = format!("{}: {error}", self.0.endpoints[index].url);
                    }
                },
                () = tokio::time::sleep(HEDGE), if waiting.len() > 0 => {
                    if let Some(index) = waiting.next() {
                        pending.push(index);
                        running.push(launch(index));
                    }
                }
                () = tokio::time::sleep_until(deadline) => break Err(EtcdError::Unreachable(last_error)),
            }
        };
        drop(running);
        crate::metrics::live().etcd_request("request", begin.elapsed(), outcome.is_ok());
        if outcome.is_ok() {
            self.took(begin.elapsed());
        }
        for index in pending {
            self.renew(index).await;
        }
        outcome
    }

    /// A member that can commit: it answered just now, or it is the first to answer a linearizable read.
    pub(super) async fn ready(&self) -> Result<usize, EtcdError> {
        let first = self.order()[0];
        let last_ok = Instant(self.0.endpoints[first].last_ok.load(Relaxed));
        if last_ok > Instant::ZERO && clock::now().since(last_ok) <= FRESH {
            return Ok(first);
        }
        let key = self.0.keys.spec();
        let probe = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, Some(GetOptions::new().with_keys_only())).await }
        };
        self.hedged(probe).await.map(|(_, index)| index)
    }
}
