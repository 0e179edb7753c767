//! Client of the replicator on this host: HTTP with JSON over its Unix socket (`baton_replicator::api`).
//!
//! Owns nothing but the path of the socket and when it answered last. Every call opens a connection of its own, so that a replicator
//! that was restarted is noticed at once and no call waits behind another. Every call is bounded, and all
//! commands are idempotent: who does not know whether a call arrived repeats it. If the agent dies nothing
//! here needs to be undone; the replicator keeps the last desired state until its serve-until deadline.

mod follow;

pub use follow::{Followed, follow};

use crate::heartbeat::clock;
use baton_replicator::api::{
    Desired, DiscardRequest, ExportStatus, Format, Problem, ResyncRequest, Status, VerifyRequest,
    VolumeConfig, VolumeStatus,
};
use baton_replicator::types::{Instant, VolumeName};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;

/// Bound of `configure` and `detach`: opening a backing store and replaying its metadata is local disk work.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound of `format`: mkfs.ext4 with lazy initialisation writes a few MiB through the replication path.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(60);
/// The replicator answers a long poll within this much of the wait it was asked for.
const STATUS_MARGIN: Duration = Duration::from_secs(2);
/// Longest long poll the control API grants.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(30);
/// A status of 64 volumes with 8 peers each is below 1 MiB; more is not a replicator.
const BODY_MAX: usize = 4 << 20;

/// Why a call to the replicator did not succeed. Names the socket or the volume.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Nobody listens on the socket: the replicator is down or starting.
    #[error("the replicator does not listen on {}", socket.display())]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// Why connecting failed.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke before the answer was complete; whether the command took effect is unknown.
    #[error("the replicator broke off '{call}'")]
    Broken {
        /// The call.
        call: String,
        /// What broke.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time; whether the command took effect is unknown.
    #[error("the replicator did not answer '{call}' within {} ms", timeout.as_millis())]
    Timeout {
        /// The call.
        call: String,
        /// The bound.
        timeout: Duration,
    },
    /// The replicator refused.
    #[error("the replicator refused '{call}'")]
    Refused {
        /// The call.
        call: String,
        /// Its reason.
        #[source]
        problem: Problem,
    },
    /// The answer is not what the control API promises.
    #[error("the replicator answered '{call}' with HTTP {status}, which does not fit its API: {detail}")]
    Nonsense {
        /// The call.
        call: String,
        /// HTTP status.
        status: u16,
        /// What does not fit.
        detail: String,
    },
}

impl ReplicaError {
    /// The replicator's own words, if it refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Timeout { .. } | Self::Nonsense { .. } => {
                None
            }
        }
    }
}

/// A replicator's control API.
#[derive(Clone, Debug)]
pub struct ReplicaClient {
    socket: PathBuf,
    /// When the newest status arrived, nanoseconds of CLOCK_BOOTTIME; 0 = never.
    answered: Arc<AtomicU64>,
}

impl ReplicaClient {
    /// A client for `<run-dir>/replicator.sock`. Connects at each call.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), answered: Arc::default() }
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// When the newest status arrived; none if none ever did.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        Some(Instant(self.answered.load(Ordering::Relaxed))).filter(|at| *at > Instant::ZERO)
    }

    /// Everything, as soon as its version is greater than `after`, or after `wait` (at most 30 s).
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn status(&self, after: u64, wait: Duration) -> Result<Status, ReplicaError> {
        let wait = wait.min(STATUS_WAIT_MAX);
        let path = format!("/v1/status?after={after}&wait_ms={}", wait.as_millis());
        let body = self.call(Method::GET, &path, None, wait + STATUS_MARGIN).await?;
        let status = body.json()?;
        self.answered.store(clock::now().0, Ordering::Relaxed);
        Ok(status)
    }

    /// Creates the volume's backing store and metadata if both are absent, and attaches it.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn configure(&self, config: &VolumeConfig) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{}", config.volume);
        self.call(Method::PUT, &path, Some(encode(config)), LOCAL_TIMEOUT).await.map(drop)
    }

    /// Brings role, epoch and required set into force; answers once they are. `timeout` is the caller's,
    /// because a promotion belongs to a takeover's budget.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn desired(
        &self,
        volume: &VolumeName,
        desired: &Desired,
        timeout: Duration,
    ) -> Result<VolumeStatus, ReplicaError> {
        let path = format!("/v1/volumes/{volume}/desired");
        self.call(Method::PUT, &path, Some(encode(desired)), timeout).await?.json()
    }

    /// Makes a filesystem on a blank primary volume.
    ///
    /// # Errors
    /// See [`ReplicaError`]; refused unless the volume is primary and blank.
    pub async fn format(&self, volume: &VolumeName, filesystem: &str) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/format");
        let body = encode(&Format { filesystem: filesystem.to_owned() });
        self.call(Method::POST, &path, Some(body), FORMAT_TIMEOUT).await.map(drop)
    }

    /// Compares the replicas; answers when it has begun. Idempotent by the request's id.
    ///
    /// # Errors
    /// See [`ReplicaError`]; refused unless primary and connected to a peer.
    pub async fn verify(&self, volume: &VolumeName, request: &VerifyRequest) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/verify");
        self.call(Method::POST, &path, Some(encode(request)), LOCAL_TIMEOUT).await.map(drop)
    }

    /// Stops comparing them.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn stop_verify(&self, volume: &VolumeName) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/verify");
        self.call(Method::DELETE, &path, None, LOCAL_TIMEOUT).await.map(drop)
    }

    /// Lets a volume's resyncs stand still, or go on.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn pause_resync(&self, volume: &VolumeName, paused: bool) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/resync");
        let body = encode(&ResyncRequest { paused });
        self.call(Method::PUT, &path, Some(body), LOCAL_TIMEOUT).await.map(drop)
    }

    /// Gives a secondary's data up after a split brain; answers when the copy is kept and the word is durable.
    /// Idempotent: whoever gave up waiting asks again.
    ///
    /// # Errors
    /// See [`ReplicaError`]; refused unless the replica is at odds with a primary, or if no copy can be kept.
    pub async fn discard(&self, volume: &VolumeName, request: &DiscardRequest) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/discard");
        self.call(Method::POST, &path, Some(encode(request)), LOCAL_TIMEOUT).await.map(drop)
    }

    /// Removes a copy of data that was given up.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn release(&self, volume: &VolumeName, snapshot: &str) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/snapshots/{snapshot}");
        self.call(Method::DELETE, &path, None, LOCAL_TIMEOUT).await.map(drop)
    }

    /// Takes a snapshot of the replica and serves it for backup; the one that is served already stays.
    ///
    /// # Errors
    /// See [`ReplicaError`]; refused unless the replica is UpToDate.
    pub async fn export(&self, volume: &VolumeName) -> Result<ExportStatus, ReplicaError> {
        let path = format!("/v1/volumes/{volume}/export");
        let answer = self.call(Method::POST, &path, None, LOCAL_TIMEOUT).await?;
        let (call, status) = (answer.call.clone(), answer.status);
        let volume: VolumeStatus = answer.json()?;
        volume.export.ok_or_else(|| ReplicaError::Nonsense {
            call,
            status,
            detail: "there is no export in its answer; is it of an older release?".into(),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn end_export(&self, volume: &VolumeName) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/export");
        self.call(Method::DELETE, &path, None, LOCAL_TIMEOUT).await.map(drop)
    }

    /// Flushes, marks the clean shutdown and closes a secondary volume.
    ///
    /// # Errors
    /// See [`ReplicaError`].
    pub async fn detach(&self, volume: &VolumeName) -> Result<(), ReplicaError> {
        let path = format!("/v1/volumes/{volume}/detach");
        self.call(Method::POST, &path, None, LOCAL_TIMEOUT).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Answer, ReplicaError> {
        let call = format!("{method} {}", path.split('?').next().unwrap_or(path));
        match tokio::time::timeout(timeout, self.exchange(&call, method, path, body)).await {
            Ok(answer) => answer?.checked(),
            Err(_) => Err(ReplicaError::Timeout { call, timeout }),
        }
    }

    async fn exchange(
        &self,
        call: &str,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, ReplicaError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ReplicaError::Unreachable { socket: self.socket.clone(), source })?;
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ReplicaError::Broken {
            call: call.to_owned(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(e.into()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "replicator")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| broken(e.into()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| broken(e.into()))?;
            let status = response.status().as_u16();
            let body =
                Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(broken)?.to_bytes();
            Ok(Answer { call: call.to_owned(), status, body })
        };
        // The connection is driven here and not by a task of its own: a call that is dropped closes it.
        tokio::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The peer closed, or the answer is complete: what was received is still delivered.
            _ = &mut connection => exchange.await,
        }
    }
}

struct Answer {
    call: String,
    status: u16,
    body: Bytes,
}

impl Answer {
    fn checked(self) -> Result<Self, ReplicaError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => Err(ReplicaError::Refused { call: self.call, problem }),
            Err(_) => {
                let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
                Err(ReplicaError::Nonsense { call: self.call, status: self.status, detail: text })
            }
        }
    }

    fn json<T: DeserializeOwned>(self) -> Result<T, ReplicaError> {
        serde_json::from_slice(&self.body).map_err(|e| ReplicaError::Nonsense {
            call: self.call,
            status: self.status,
            detail: e.to_string(),
        })
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Bytes {
    // Plain structs with text keys: serialisation has no way to fail.
    Bytes::from(serde_json::to_vec(value).expect("API types serialise"))
}

#[cfg(test)]
mod tests;
