//! What can go wrong with the engine, in words an operator can act on.
//!
//! Docker reports most failures as free text. The texts recognised here are those of engine 20.10 to 28; an
//! unknown one stays [`DockerError::Engine`] with its text, never lost.

use std::time::Duration;

/// Why an operation on the engine did not succeed. Every variant names the container, image or volume.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// Nobody answers on the engine's socket.
    #[error("the Docker engine at {url} does not answer while {doing}")]
    Unreachable {
        /// The engine's address.
        url: String,
        /// What was being done.
        doing: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// No answer in time. The engine may still carry the request out.
    #[error("the Docker engine did not finish {doing} within {} ms", within.as_millis())]
    Timeout {
        /// What was being done.
        doing: String,
        /// The bound.
        within: Duration,
    },
    /// The container still runs after SIGKILL: a process hangs in the kernel, most likely on frozen storage.
    #[error(
        "container '{container}' still runs {} ms after SIGKILL: a process is stuck in the kernel, most likely on \
         a frozen volume",
        within.as_millis()
    )]
    StillRunning {
        /// The container.
        container: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The image is not on this host.
    #[error("image '{image}' of container '{container}' is not on this host: pull or load it")]
    ImageMissing {
        /// The container that needs it.
        container: String,
        /// The image.
        image: String,
    },
    /// There is no such container.
    #[error("container '{container}' does not exist")]
    ContainerMissing {
        /// The container.
        container: String,
    },
    /// A Docker volume that a service needs does not exist. Docker would make an empty, unreplicated one.
    #[error("container '{container}' needs the Docker volume '{volume}', which does not exist")]
    VolumeMissing {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// The volume has other options and a container uses it.
    #[error("Docker volume '{volume}' has other options than wanted ({difference}) and is used by {users}")]
    VolumeInUse {
        /// The volume.
        volume: String,
        /// What differs.
        difference: String,
        /// The containers.
        users: String,
    },
    /// The engine could not mount a volume of the container.
    #[error("cannot mount a volume of container '{container}': {detail}; {advice}")]
    MountFailed {
        /// The container.
        container: String,
        /// The engine's words.
        detail: String,
        /// What it most likely means.
        advice: &'static str,
    },
    /// The container whose network namespace is to be shared does not exist or does not run.
    #[error("the network of container '{namespace}' cannot be shared with '{container}': {detail}")]
    NamespaceGone {
        /// The service container.
        container: String,
        /// The container that holds the namespace.
        namespace: String,
        /// Why.
        detail: String,
    },
    /// Something of that name exists and is not ours.
    #[error(
        "{kind} '{name}' exists and does not belong to cluster '{cluster}' on node '{node}': rename or remove it"
    )]
    Foreign {
        /// `container` or `Docker volume`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Our cluster.
        cluster: String,
        /// Our node.
        node: String,
    },
    /// Any other answer of the engine.
    #[error("the Docker engine refused {doing} (HTTP {status}): {message}")]
    Engine {
        /// What was being done.
        doing: String,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The exchange with the engine broke.
    #[error("the exchange with the Docker engine broke while {doing}")]
    Broken {
        /// What was being done.
        doing: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
}

impl DockerError {
    /// HTTP status, if the engine answered one that has no meaning of its own here.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        if let Self::Engine { status, .. } = self { Some(*status) } else { None }
    }

    /// The engine answered nothing: its containers are in an unknown state.
    #[must_use]
    pub fn no_answer(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }

    pub(super) fn from_bollard(
        source: bollard::errors::Error,
        url: &str,
        doing: &str,
        within: Duration,
    ) -> Self {
        use bollard::errors::Error as E;
        let doing = doing.to_owned();
        match source {
            E::DockerResponseServerError { status_code, message } => {
                Self::Engine { doing, status: status_code, message: message.trim().to_owned() }
            }
            E::RequestTimeoutError => Self::Timeout { doing, within },
            E::HyperLegacyError { .. } | E::SocketNotFoundError(_) => {
                Self::Unreachable { url: url.to_owned(), doing, source }
            }
            source => Self::Broken { doing, source },
        }
    }
}

/// What a refused start means. `namespace`: the container whose network is shared.
pub(super) fn translate_start(error: DockerError, container: &str, namespace: Option<&str>) -> DockerError {
    let DockerError::Engine { doing, status, message } = error else { return error };
    let lower = message.to_lowercase();
    let container = container.to_owned();
    if let Some(advice) = mount_advice(&lower) {
        return DockerError::MountFailed { container, detail: message, advice };
    }
    let namespace_gone = lower.contains("cannot join network")
        || (status == 404 && lower.contains("no such container") && !message.contains(&container));
    match namespace {
        Some(namespace) if namespace_gone => {
            DockerError::NamespaceGone { container, namespace: namespace.to_owned(), detail: message }
        }
        _ if status == 404 && lower.contains("no such container") => {
            DockerError::ContainerMissing { container }
        }
        _ => DockerError::Engine { doing, status, message },
    }
}

/// What a mount failure most likely means, none if the text is not about a mount.
fn mount_advice(lower: &str) -> Option<&'static str> {
    if !(lower.contains("failed to mount local volume") || lower.contains("error while mounting volume")) {
        return None;
    }
    let advice = if lower.contains("no such file") || lower.contains("no such device") {
        "its block device is not there: is the volume primary on this node?"
    } else if lower.contains("wrong fs type")
        || lower.contains("invalid argument")
        || lower.contains("bad superblock")
    {
        "the device holds no such filesystem: has the volume been formatted?"
    } else if lower.contains("structure needs cleaning") {
        "the filesystem is damaged: run fsck on the device"
    } else if lower.contains("busy") {
        "the device is in use elsewhere on this host"
    } else if lower.contains("input/output error") || lower.contains("can't read superblock") {
        "the device fails reads: see the replicator's status"
    } else if lower.contains("read-only") || lower.contains("permission denied") {
        "the device does not take writes: is the volume primary on this node?"
    } else {
        "see the engine's and the kernel's log"
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> DockerError {
        DockerError::Engine { doing: "starting".into(), status, message: message.into() }
    }

    #[test]
    fn mount_failures_say_what_they_mean() {
        let cases = [
            ("mount /dev/baton/web:/x, data: : no such file or directory", "primary"),
            ("mount /dev/baton/web:/x: invalid argument", "formatted"),
            ("mount /dev/baton/web:/x: structure needs cleaning", "fsck"),
            ("mount /dev/baton/web:/x: device or resource busy", "in use elsewhere"),
            ("mount /dev/baton/web:/x: input/output error", "fails reads"),
            ("mount /dev/baton/web:/x: sideways", "kernel's log"),
        ];
        for (text, word) in cases {
            let full =
                format!("error while mounting volume '/v/_data': failed to mount local volume: {text}");
            let error = translate_start(refused(500, &full), "demo-alpha-web-mysql", None);
            assert!(matches!(error, DockerError::MountFailed { .. }), "{text}: {error:?}");
            let shown = error.to_string();
            assert!(shown.contains(word) && shown.contains("demo-alpha-web-mysql"), "{shown}");
        }
    }

    #[test]
    fn a_vanished_namespace_is_told_from_a_vanished_container() {
        let gone = translate_start(refused(404, "No such container: 0123abcd"), "svc", Some("alpha-ns"));
        assert!(matches!(gone, DockerError::NamespaceGone { .. }), "{gone:?}");
        let gone = translate_start(
            refused(409, "cannot join network of a non running container: 0123"),
            "svc",
            Some("alpha-ns"),
        );
        assert!(matches!(gone, DockerError::NamespaceGone { .. }), "{gone:?}");
        let missing = translate_start(refused(404, "No such container: svc"), "svc", Some("alpha-ns"));
        assert!(matches!(missing, DockerError::ContainerMissing { .. }), "{missing:?}");
    }

    #[test]
    fn unknown_texts_are_kept() {
        let error = translate_start(refused(500, "driver failed programming"), "svc", None);
        assert!(error.to_string().contains("driver failed programming"));
    }
}
