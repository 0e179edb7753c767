//! Why a connection came to nothing, in words and as a count per reason.

use super::auth::WRONG_SECRET;
use super::frame::{FrameError, ReadError};
use crate::api::{HandshakeFailure, Handshakes};
use rustls::{AlertDescription, CertificateError, Error as TlsFailure};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    /// Nothing was said: somebody looked whether the port is open.
    #[error("it closed the connection without a word")]
    Silent,
    /// TCP never came about, or broke.
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("the handshake broke off: {0}")]
    Io(io::Error),
    #[error("the handshake broke off: {0}")]
    Frame(FrameError),
    #[error("unexpected message in the handshake")]
    Unexpected,
    #[error("{WRONG_SECRET}")]
    WrongSecret,
    #[error("{0}")]
    WrongNode(String),
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Transport(String),
    /// The release before, which has no TLS and hangs up at an OPEN.
    #[error("the peer hangs up at the offer of TLS: it runs a release before TLS. Upgrade it")]
    Older,
    #[error("{0}")]
    Before(String),
    #[error("refused by the peer: {0}")]
    Refused(String),
    #[error("refused here: {0}")]
    NotAdmitted(String),
}

impl AuthError {
    /// What it counts as; none if nobody failed to prove anything.
    pub fn counts_as(&self) -> Option<HandshakeFailure> {
        Some(match self {
            Self::Silent | Self::Connect(_) => return None,
            Self::Io(_) | Self::Frame(_) | Self::Unexpected => HandshakeFailure::Broken,
            Self::WrongSecret => HandshakeFailure::Secret,
            Self::WrongNode(_) => HandshakeFailure::WrongNode,
            Self::Certificate(_) => HandshakeFailure::Certificate,
            Self::Transport(_) => HandshakeFailure::Transport,
            Self::Older | Self::Before(_) => HandshakeFailure::Version,
            Self::Refused(_) => HandshakeFailure::Refused,
            Self::NotAdmitted(_) => HandshakeFailure::NotAdmitted,
        })
    }

    /// What the other side is told, if anything.
    pub fn to_peer(&self) -> Option<String> {
        match self {
            Self::WrongSecret
            | Self::WrongNode(_)
            | Self::Certificate(_)
            | Self::Transport(_)
            | Self::Before(_) => Some(self.to_string()),
            Self::NotAdmitted(why) => Some(why.clone()),
            Self::Silent
            | Self::Connect(_)
            | Self::Io(_)
            | Self::Frame(_)
            | Self::Unexpected
            | Self::Older
            | Self::Refused(_) => None,
        }
    }
}

impl From<ReadError> for AuthError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io(e) => e.into(),
            ReadError::Frame(e) => Self::Frame(e),
        }
    }
}

impl From<io::Error> for AuthError {
    fn from(e: io::Error) -> Self {
        if let Some(failure) = e.get_ref().and_then(|inner| inner.downcast_ref::<TlsFailure>()) {
            return of_tls(failure);
        }
        match e.kind() {
            io::ErrorKind::WouldBlock => {
                Self::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            _ => Self::Io(e),
        }
    }
}

/// In words that say whose certificate is meant.
fn of_tls(failure: &TlsFailure) -> AuthError {
    use AlertDescription as Alert;
    match failure {
        TlsFailure::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => AuthError::WrongNode(
            "the certificate that the peer shows is another node's than the one this connection is for"
                .into(),
        ),
        TlsFailure::InvalidCertificate(why) => {
            let why = match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "it has expired; renew it with 'baton cert renew'".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "it is not valid yet; compare the hosts' clocks".to_owned()
                }
                // The latter: an authority of the same name.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "it is not signed by this cluster's authority".to_owned()
                }
                other => other.to_string(),
            };
            AuthError::Certificate(format!("the certificate that the peer shows is refused: {why}"))
        }
        TlsFailure::NoCertificatesPresented => AuthError::Certificate("the peer shows no certificate".into()),
        TlsFailure::AlertReceived(alert) => {
            let why = match alert {
                Alert::CertificateExpired => {
                    "it has expired, says the peer; renew it with 'baton cert renew'"
                }
                Alert::UnknownCA => "the peer trusts another authority",
                Alert::CertificateRequired => "none was shown",
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::AccessDenied
                | Alert::DecryptError => "the peer says why in its log",
                other => return AuthError::Certificate(format!("the peer broke TLS off: {other:?}")),
            };
            AuthError::Certificate(format!("the peer refuses this node's certificate: {why}"))
        }
        other => AuthError::Certificate(format!("TLS failed: {other}")),
    }
}

/// Counts how connections began; shared by listener and dialers.
#[derive(Debug)]
pub struct HandshakeLog(Mutex<Handshakes>);

impl Default for HandshakeLog {
    fn default() -> Self {
        let failed = HandshakeFailure::ALL.into_iter().map(|reason| (reason, 0)).collect();
        Self(Mutex::new(Handshakes { completed: 0, failed, last_failure: None }))
    }
}

impl HandshakeLog {
    /// So far.
    #[must_use]
    pub fn counts(&self) -> Handshakes {
        self.lock().clone()
    }

    pub(super) fn completed(&self) {
        self.lock().completed += 1;
    }

    pub(super) fn failed(&self, with: &str, error: &AuthError) {
        if let Some(reason) = error.counts_as() {
            self.count(reason, format!("{with}: {error}"));
        }
    }

    pub(super) fn count(&self, reason: HandshakeFailure, text: String) {
        let mut counts = self.lock();
        *counts.failed.entry(reason).or_default() += 1;
        counts.last_failure = Some(text);
    }

    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
