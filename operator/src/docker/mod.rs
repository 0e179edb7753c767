//! The Docker engine of this host: volumes, service containers, events.
//!
//! [`Engine`] makes single calls and decides nothing about groups. Every operation is idempotent and bounded,
//! a dropped future drops its request, and errors name the container, image or volume. The engine, not the
//! agent, mounts filesystems: when the first container that uses a volume starts. If the agent dies, running
//! containers go on until fencing stops their storage and address; they carry labels by which the next agent
//! finds them.

mod body;
mod check;
mod container;
mod error;
mod events;
mod exec;
mod inspect;
mod spec;
mod volume;

pub use check::{Check, CheckError, at, run_check};
pub use container::Ensured;
pub use error::DockerError;
pub use events::Wake;
pub use exec::ExecOutcome;
pub use inspect::{Health, Inspection, Liveness, Owned};
pub use spec::{
    BadNetworkMode, HealthcheckSpec, LABEL_CLUSTER, LABEL_CONFIG, LABEL_GROUP, LABEL_HOST, LABEL_SERVICE,
    MountSpec, NetworkMode, Owner, ServiceSpec, Ulimit,
};
pub use volume::VolumeSpec;

use bollard::{API_DEFAULT_VERSION, Docker};
use std::future::Future;
use std::time::Duration;

/// Bound of a question. The engine answers in milliseconds; while it starts or stops a container it holds
/// that container's lock, and the answer about it is then "unknown" rather than late.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// bollard's own bound, in whole seconds and on the response head only: above all of ours.
const CLIENT_TIMEOUT_S: u64 = 600;

/// What answers at the engine's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Version of the engine.
    pub version: String,
    /// Newest API version it speaks.
    pub api_version: String,
}

/// A connection to the engine, for one cluster and node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    url: String,
    owner: Owner,
    network: NetworkMode,
}

impl Engine {
    /// Prepares a client for `unix:///path` (or `tcp://host:port`). Requests connect one by one, so an engine
    /// that restarts is found again without doing anything here.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] if a Unix socket does not exist.
    pub fn connect(url: &str, owner: Owner, network: NetworkMode) -> Result<Self, DockerError> {
        let doing = "connecting";
        let docker = if url.starts_with("tcp://") || url.starts_with("http://") {
            Docker::connect_with_http(url, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_unix(url, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION)
        }
        .map_err(|e| DockerError::from_bollard(e, url, doing, Duration::ZERO))?;
        Ok(Self { docker, url: url.to_owned(), owner, network })
    }

    /// Asks for the version and agrees on an API version both sides speak.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] or [`DockerError::Timeout`].
    pub async fn ping(&self) -> Result<EngineInfo, DockerError> {
        // The version lives in state shared by all clones, so negotiating on a clone is enough.
        self.call("negotiating the API version", QUERY_TIMEOUT, self.docker.clone().negotiate_version())
            .await?;
        let version = self.call("asking for the version", QUERY_TIMEOUT, self.docker.version()).await?;
        Ok(EngineInfo {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
        })
    }

    /// Whose containers this handle manages.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The image is on this host.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn image_present(&self, image: &str) -> Result<bool, DockerError> {
        Ok(self.image_id(image).await?.is_some())
    }

    /// Fetches the image from its registry, within `within`.
    ///
    /// # Errors
    /// What the engine says of the registry.
    pub async fn pull(&self, image: &str, within: Duration) -> Result<(), DockerError> {
        use futures::TryStreamExt;
        let options =
            bollard::query_parameters::CreateImageOptionsBuilder::new().from_image(&tagged(image)).build();
        let progress = self.docker.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) });
        self.call(&format!("pulling image '{image}'"), within, progress).await
    }

    async fn image_id(&self, image: &str) -> Result<Option<String>, DockerError> {
        let doing = format!("inspecting image '{image}'");
        match self.call(&doing, QUERY_TIMEOUT, self.docker.inspect_image(image)).await {
            Ok(found) => Ok(Some(found.id.unwrap_or_default())),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One bounded request.
    async fn call<T>(
        &self,
        doing: &str,
        within: Duration,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, DockerError> {
        match tokio::time::timeout(within, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(DockerError::from_bollard(error, &self.url, doing, within)),
            Err(_) => Err(DockerError::Timeout { doing: doing.to_owned(), within }),
        }
    }

    fn foreign(&self, kind: &'static str, name: &str) -> DockerError {
        let Owner { cluster, node } = self.owner.clone();
        DockerError::Foreign { kind, name: name.to_owned(), cluster, node }
    }
}

/// The reference with a tag: without one the engine would fetch every tag of the repository.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::tagged;

    #[test]
    fn only_an_untagged_reference_gets_a_tag() {
        assert_eq!(tagged("mariadb"), "mariadb:latest");
        assert_eq!(tagged("host:5000/mariadb"), "host:5000/mariadb:latest");
        assert_eq!(tagged("mariadb:10.11"), "mariadb:10.11");
        assert_eq!(tagged("mariadb@sha256:00"), "mariadb@sha256:00");
    }
}
