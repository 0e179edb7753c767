//! Follows the certificates' files: takes renewed ones up without a restart, and says how long each is good.
//!
//! Files are looked at every [`LOOK`], their metadata only. One that cannot be used changes nothing: the old one goes on, the advice of the
//! status says what is wrong. If this task dies, certificates are no longer renewed until the agent's next start.

use super::guard::unix_now;
use super::identity::Identity;
use super::pki::{RENEW_WITHIN_DAYS, read_certificate};
use super::tls::{ServerTls, Stamp, TlsFiles};
use crate::core::group::Severity;
use crate::status::CertificateStatus;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

/// A renewal is in force this much later.
pub const LOOK: Duration = Duration::from_secs(5);

/// What status shows of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Every certificate in use.
    pub certificates: Vec<CertificateStatus>,
    /// What needs a person.
    pub advice: Vec<String>,
}

/// Records what happened.
pub type Record = Box<dyn Fn(Severity, &str) + Send + Sync>;
/// Called when etcd's files have changed.
pub type Renew = Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// What is followed.
pub struct Watch {
    /// This node, for the advice.
    pub node: String,
    /// The API's TLS, if it has any.
    pub api: Option<Arc<ServerTls>>,
    /// The identity towards etcd, if it has one, what its files looked like when they were read, and what to do when
    /// that changes.
    pub etcd: Option<(TlsFiles, Stamp, Renew)>,
    /// How often to look.
    pub look: Duration,
    /// What is wrong with the set-up itself.
    pub advice: Vec<String>,
    /// The history.
    pub record: Record,
}

impl Watch {
    /// Looks again and again; the receiver has the first answer at once.
    #[must_use]
    pub fn start(self) -> watch::Receiver<Health> {
        let (sender, receiver) = watch::channel(self.health(&[]));
        tokio::spawn(self.run(sender));
        receiver
    }

    async fn run(self, sender: watch::Sender<Health>) {
        let mut etcd = self.etcd.as_ref().map(|(_, stamp, _)| stamp.clone());
        let mut failed: Option<(Stamp, String)> = None;
        loop {
            tokio::time::sleep(self.look).await;
            if let Some(tls) = self.api.as_ref().filter(|tls| tls.changed()) {
                let seen = tls.files().stamp();
                match tls.reload() {
                    Ok(()) => {
                        failed = None;
                        (self.record)(Severity::Info, "the API uses its renewed certificate");
                    }
                    // Told once per state of the files: they may be half-way copied.
                    Err(error) => {
                        let text = format!("the API goes on with its old certificate: {error}");
                        if failed.as_ref().is_none_or(|(of, _)| *of != seen) {
                            (self.record)(Severity::Warning, &text);
                        }
                        failed = Some((seen, text));
                    }
                }
            } else {
                failed = None;
            }
            if let Some((files, _, renew)) = &self.etcd
                && etcd != Some(files.stamp())
            {
                etcd = Some(files.stamp());
                renew().await;
                (self.record)(Severity::Info, "connections to etcd use the renewed certificate");
            }
            let more: Vec<String> = failed.iter().map(|(_, text)| text.clone()).collect();
            let health = self.health(&more);
            sender.send_if_modified(|old| {
                let new = *old != health;
                *old = health;
                new
            });
        }
    }

    fn health(&self, more: &[String]) -> Health {
        let mut health = Health { certificates: Vec::new(), advice: self.advice.clone() };
        health.advice.extend(more.iter().cloned());
        for (name, path) in self.files() {
            match read_certificate(&path) {
                Ok((identity, _)) => {
                    let status = status(name, &identity);
                    health.advice.extend(self.advise(&status, &path));
                    health.certificates.push(status);
                }
                Err(error) => health.advice.push(format!("certificate '{name}' of {}: {error}", self.node)),
            }
        }
        health
    }

    fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let api = self.api.as_ref().map(|tls| tls.files());
        let etcd = self.etcd.as_ref().map(|(files, _, _)| files);
        let mut all = Vec::new();
        for (certificate, authority, files) in [("api", "ca", api), ("etcd", "etcd-ca", etcd)] {
            if let Some(files) = files {
                all.push((certificate, files.cert.clone()));
                all.push((authority, files.ca.clone()));
            }
        }
        all
    }

    fn advise(&self, status: &CertificateStatus, path: &std::path::Path) -> Option<String> {
        let (name, node, path) = (&status.name, &self.node, path.display());
        match status.days_left {
            days if days > RENEW_WITHIN_DAYS => None,
            days if days < 0 => Some(format!(
                "certificate '{name}' of {node} ({path}) has expired: renew it with 'baton cert renew'"
            )),
            days => Some(format!(
                "certificate '{name}' of {node} ({path}) expires in {days} days: renew it with 'baton cert renew'"
            )),
        }
    }
}

fn status(name: &str, identity: &Identity) -> CertificateStatus {
    let since = Duration::from_secs(u64::try_from(identity.not_after).unwrap_or(0));
    CertificateStatus {
        name: name.to_owned(),
        subject: identity.subject(),
        expires: humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string(),
        expires_unix_s: identity.not_after,
        days_left: identity.days_left(unix_now()),
    }
}
