//! Ways into the agent, decided at its start: TLS or not, which addresses, who etcd is.
//!
//! Without certificates the API answers on the Unix socket and on loopback only, and status says so: an agent that was
//! started without them still keeps its groups alive, and tells nobody on the network anything.

use super::start::StartError;
use crate::etcd::EtcdTls;
use crate::security::listener::{Incoming, bind_socket};
use crate::security::pki::read_certificate;
use crate::security::tls::{ServerTls, TlsError, TlsFiles};
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// The agent's socket for the command line on its host, in the run directory.
pub const SOCKET: &str = "agent.sock";

/// TLS of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// Only with certificates.
    On,
    /// Never.
    Off,
}

/// Who may come in, and with what.
#[derive(Clone, Debug, Args)]
pub struct AccessConfig {
    /// Directory with ca.crt, NODE.crt and NODE.key (and etcd-ca.crt, NODE-etcd.crt, NODE-etcd.key), made by `baton
    /// cert`.
    #[arg(long, env = "BATON_PKI_DIR", default_value = "/etc/baton/pki")]
    pub pki_dir: PathBuf,
    /// TLS of the API (default: on if there is a certificate of this node).
    #[arg(long, env = "BATON_API_TLS", value_enum)]
    pub api_tls: Option<TlsMode>,
    /// Answer the API without TLS and without authentication at any address. Everybody who reaches it commands the
    /// cluster.
    #[arg(long, env = "BATON_API_INSECURE", value_parser = FalseyValueParser::new())]
    pub api_insecure: bool,
    /// Let everybody read /metrics.
    #[arg(long, env = "BATON_METRICS_OPEN", value_parser = FalseyValueParser::new())]
    pub metrics_open: bool,
    /// Authority of etcd's certificates (default: etcd-ca.crt of the directory).
    #[arg(long, env = "BATON_ETCD_CA", requires = "etcd_cert")]
    pub etcd_ca: Option<PathBuf>,
    /// Certificate to show to etcd (default: NODE-etcd.crt).
    #[arg(long, env = "BATON_ETCD_CERT", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// Its key, mode 0600 (default: NODE-etcd.key).
    #[arg(long, env = "BATON_ETCD_KEY", requires = "etcd_ca")]
    pub etcd_key: Option<PathBuf>,
}

impl AccessConfig {
    /// The identity towards etcd, if one of its URLs needs one.
    #[must_use]
    pub fn etcd_tls(&self, urls: &[String], node: &str) -> Option<EtcdTls> {
        if !urls.iter().any(|url| url.starts_with("https:")) {
            return None;
        }
        Some(match (&self.etcd_ca, &self.etcd_cert, &self.etcd_key) {
            (Some(ca), Some(cert), Some(key)) => {
                EtcdTls { ca: ca.clone(), cert: cert.clone(), key: key.clone() }
            }
            _ => TlsFiles::of_node_for_etcd(&self.pki_dir, node),
        })
    }

    fn api(&self, node: &str) -> Result<Option<ServerTls>, TlsError> {
        let files = TlsFiles::of_node(&self.pki_dir, node);
        match self.api_tls {
            Some(TlsMode::Off) => Ok(None),
            None if self.api_insecure || !files.cert.exists() => Ok(None),
            None | Some(TlsMode::On) => ServerTls::load(files).map(Some),
        }
    }
}

/// The ways in, open.
pub(super) struct Access {
    pub incoming: Incoming,
    pub tls: Option<Arc<ServerTls>>,
    /// Where TCP is answered, for the log; none if nowhere.
    pub tcp: Option<SocketAddr>,
    /// What a person should know about it.
    pub advice: Vec<String>,
}

/// Opens them.
pub(super) async fn open(
    config: &AccessConfig,
    api: SocketAddr,
    run_dir: &Path,
    node: &str,
    cluster: &str,
) -> Result<Access, StartError> {
    let tls = config.api(node)?.map(Arc::new);
    let mut advice = Vec::new();
    if let Some(tls) = &tls {
        advice.extend(not_ours(&tls.files().cert, node, cluster));
    }
    if config.api_insecure {
        advice.push(format!(
            "anybody who reaches {api} commands this cluster: {node} runs with BATON_API_INSECURE; make certificates \
             with 'baton cert' and take it away"
        ));
    }
    let tcp = tls.is_some() || config.api_insecure || api.ip().is_loopback();
    if !tcp {
        advice.push(format!(
            "the API of {node} answers only on its Unix socket: there is no certificate in {}; make one with 'baton \
             cert node {node} --address …' and restart the agent, which moves nothing",
            config.pki_dir.display()
        ));
    }
    let failed = |doing, what: String| move |source| StartError::Sys { doing, what, source };
    let path = run_dir.join(SOCKET);
    let socket = bind_socket(&path).map_err(failed("listen on", path.display().to_string()))?;
    let mut incoming = Incoming::default().with_socket(socket);
    if tcp {
        let listener = TcpListener::bind(api).await.map_err(failed("listen on", api.to_string()))?;
        incoming = incoming.with_tcp(listener, tls.clone());
    }
    Ok(Access { incoming, tls, tcp: tcp.then_some(api), advice })
}

/// A certificate that was copied to the wrong host works half: clients refuse it, and nobody knows why.
fn not_ours(cert: &Path, node: &str, cluster: &str) -> Option<String> {
    let (identity, _) = read_certificate(cert).ok()?;
    (identity.name != node || identity.cluster != cluster).then(|| {
        format!(
            "{} is the certificate of {} in cluster {}, not of {node} in {cluster}: clients will refuse it",
            cert.display(),
            identity.name,
            identity.cluster
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::identity::Kind;
    use crate::security::pki::{Pki, Request};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        access: AccessConfig,
    }

    fn config(dir: &Path, more: &[&str]) -> AccessConfig {
        let dir = dir.display().to_string();
        let line = ["agent", "--pki-dir", &dir].into_iter().chain(more.iter().copied());
        Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).access
    }

    fn certificates(dir: &Path, node: &str) {
        let pki = Pki::new(dir);
        pki.init("demo", 100).unwrap();
        let addresses = vec!["127.0.0.1".to_owned()];
        pki.issue(&Request { kind: Kind::Node, name: node.into(), addresses, days: 9 }).unwrap();
    }

    async fn opened(dir: &Path, api: &str, more: &[&str]) -> Result<Access, StartError> {
        let run = tempfile::tempdir().unwrap();
        open(&config(dir, more), api.parse().unwrap(), run.path(), "alpha", "demo").await
    }

    #[tokio::test]
    async fn without_a_certificate_the_network_is_told_nothing_and_status_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let access = opened(dir.path(), "0.0.0.0:0", &[]).await.unwrap();
        assert_eq!((access.tcp, access.tls.is_none()), (None, true));
        assert!(access.advice[0].contains("baton cert node alpha"), "{:?}", access.advice);
        let loopback = opened(dir.path(), "127.0.0.1:0", &[]).await.unwrap();
        assert!(loopback.tcp.is_some() && loopback.advice.is_empty());
        let insecure = opened(dir.path(), "0.0.0.0:0", &["--api-insecure"]).await.unwrap();
        assert!(insecure.tcp.is_some() && insecure.advice[0].contains("anybody"), "{:?}", insecure.advice);
        let error = opened(dir.path(), "0.0.0.0:0", &["--api-tls", "on"]).await.err().unwrap().to_string();
        assert!(error.contains("ca.crt"), "asked for, but not there: {error}");
    }

    #[tokio::test]
    async fn with_a_certificate_there_is_tls_and_a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), "alpha");
        let access = opened(dir.path(), "0.0.0.0:0", &[]).await.unwrap();
        assert!(access.tcp.is_some() && access.tls.is_some() && access.advice.is_empty());
        let off = opened(dir.path(), "0.0.0.0:0", &["--api-tls", "off"]).await.unwrap();
        assert!(off.tcp.is_none(), "no plain HTTP on the network by accident");
        let key = dir.path().join("alpha.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = opened(dir.path(), "0.0.0.0:0", &[]).await.err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[tokio::test]
    async fn anothers_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), "beta");
        for end in ["crt", "key"] {
            let at = |node: &str| dir.path().join(format!("{node}.{end}"));
            std::fs::rename(at("beta"), at("alpha")).unwrap();
        }
        let access = opened(dir.path(), "127.0.0.1:0", &[]).await.unwrap();
        assert!(access.advice[0].contains("certificate of beta"), "{:?}", access.advice);
    }

    #[test]
    fn etcd_gets_the_directorys_identity_unless_told_otherwise() {
        let dir = Path::new("/pki");
        let (plain, tls) = (["http://e:2379".to_owned()], ["https://e:2379".to_owned()]);
        assert_eq!(config(dir, &[]).etcd_tls(&plain, "alpha"), None);
        let found = config(dir, &[]).etcd_tls(&tls, "alpha").unwrap();
        assert_eq!(found.cert, Path::new("/pki/alpha-etcd.crt"));
        assert_eq!(found.ca, Path::new("/pki/etcd-ca.crt"));
        let own = ["--etcd-ca", "/a", "--etcd-cert", "/c", "--etcd-key", "/k"];
        assert_eq!(config(dir, &own).etcd_tls(&tls, "alpha").unwrap().key, Path::new("/k"));
        assert!(Line::try_parse_from(["agent", "--etcd-ca", "/a"]).is_err(), "all three or none");
    }
}
