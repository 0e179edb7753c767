//! Where agents are and how to prove who asks: what the command line, a context file or the environment says.
//!
//! Nothing given means: the agent on this host by its Unix socket if there is one, else by TLS on loopback. Files that
//! are not named are looked for where `baton cert` puts them, so that the command line works inside an agent's container
//! without an option.

use super::exit::{CliError, Exit};
use crate::security::files;
use crate::security::tls::{self, PKI_DIR};
use std::path::{Path, PathBuf};

/// The agent's socket on a host.
pub const SOCKET: &str = "/run/baton/agent.sock";

/// Addresses and credentials of a cluster. Contexts fill one; [`ApiClient`](super::ApiClient) takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `https://host:7480`, `host:7480` (the same), `http://…` or `unix:/run/baton/agent.sock`; tried in order. None:
    /// the agent of this host.
    pub addresses: Vec<String>,
    /// The cluster's authority.
    pub ca: Option<PathBuf>,
    /// A file (0600) with a token.
    pub token_file: Option<PathBuf>,
    /// A client certificate.
    pub cert: Option<PathBuf>,
    /// Its key (0600).
    pub key: Option<PathBuf>,
}

/// An address, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A Unix socket.
    Socket(PathBuf),
    /// `http://…` or `https://…`, without a slash at its end.
    Url(String),
}

impl Endpoint {
    /// For people, and to be given again.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Socket(path) => format!("unix:{}", path.display()),
            Self::Url(url) => url.clone(),
        }
    }

    /// Reads an address.
    pub(super) fn parse(address: &str) -> Result<Self, CliError> {
        let wrong = || {
            CliError::new(
                Exit::Usage,
                format!("'{address}' is not an API address"),
                "Write it as https://HOST:7480, or unix:/run/baton/agent.sock.",
            )
        };
        if let Some(path) = address.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Socket(path.into())) } else { Err(wrong()) };
        }
        let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let parsed = reqwest::Url::parse(&url).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(wrong());
        }
        Ok(Self::Url(url.trim_end_matches('/').to_owned()))
    }
}

impl ClientOptions {
    /// Only addresses: credentials are looked for.
    #[must_use]
    pub fn at(addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), ..Self::default() }
    }

    /// The addresses, or this host's agent.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, CliError> {
        let given: Vec<&str> = self.addresses.iter().map(|a| a.trim()).filter(|a| !a.is_empty()).collect();
        if !given.is_empty() {
            return given.into_iter().map(Endpoint::parse).collect();
        }
        if !self.addresses.is_empty() {
            return Err(CliError::new(Exit::Usage, "no API address is given", "Set --api or BATON_API."));
        }
        Ok(vec![match Path::new(SOCKET).exists() {
            true => Endpoint::Socket(SOCKET.into()),
            false => Endpoint::Url("https://127.0.0.1:7480".into()),
        }])
    }

    /// TLS towards agents: trusts the cluster's authority only, and shows the client's certificate if there is one.
    pub(super) fn tls(&self) -> Result<rustls::ClientConfig, CliError> {
        let Some(ca) = self.ca.clone().or_else(|| found("ca.crt")) else {
            return Err(CliError::new(
                Exit::Usage,
                "the cluster's authority is not known",
                "Give its certificate with --ca FILE (BATON_CA): it is ca.crt of 'baton cert init'.",
            ));
        };
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) if self.token_file.is_none() => std::env::var("BATON_NODE")
                .ok()
                .and_then(|node| Some((found(&format!("{node}.crt"))?, found(&format!("{node}.key"))?))),
            (None, None) => None,
            _ => {
                let next = "Give --cert and --key together.";
                return Err(CliError::new(Exit::Usage, "a certificate is of no use without its key", next));
            }
        };
        let pair = identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        tls::client_config(&ca, pair).map_err(|e| CliError::new(Exit::Failed, e.to_string(), ""))
    }

    /// The token, if a file has one.
    pub(super) fn token(&self) -> Result<Option<String>, CliError> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let failed = |e: String| CliError::new(Exit::Failed, e, "");
        let bytes = files::read_private(file).map_err(|e| failed(e.to_string()))?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        match text.is_empty() {
            true => Err(failed(format!("{} holds no token", file.display()))),
            false => Ok(Some(text)),
        }
    }
}

/// A file of this host's certificates, if it can be read.
fn found(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("BATON_PKI_DIR").map_or_else(|| PathBuf::from(PKI_DIR), PathBuf::from);
    let path = dir.join(name);
    std::fs::File::open(&path).is_ok().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tls_unless_they_say_otherwise() {
        for (text, shown) in [
            ("alpha:7480", "https://alpha:7480"),
            ("https://10.77.0.12:7480/", "https://10.77.0.12:7480"),
            ("http://127.0.0.1:7480", "http://127.0.0.1:7480"),
            ("[fd00::1]:7480", "https://[fd00::1]:7480"),
            ("unix:/run/baton/agent.sock", "unix:/run/baton/agent.sock"),
            ("unix:///run/baton/agent.sock", "unix:/run/baton/agent.sock"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().shown(), shown);
        }
        for bad in ["ftp://alpha", "http://", "unix:agent.sock", "unix:", "https://"] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(error.exit == Exit::Usage && error.next.contains("https://HOST:7480"), "{bad}: {error}");
        }
        let blank = ClientOptions::at(&[" ".to_owned()]);
        assert_eq!(blank.endpoints().unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn credentials_that_make_no_sense_are_refused_before_anything_is_sent() {
        let half =
            ClientOptions { ca: Some("/ca".into()), cert: Some("/c".into()), ..ClientOptions::default() };
        assert!(half.tls().unwrap_err().next.contains("--cert and --key together"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let options = ClientOptions { token_file: Some(file.clone()), ..ClientOptions::default() };
        std::fs::write(&file, "baton_x_y\n").unwrap();
        assert!(options.token().unwrap_err().message.contains("chmod 600"), "written with the umask's mode");
        files::write_private(&file, b"baton_x_y\n").unwrap();
        assert_eq!(options.token().unwrap().as_deref(), Some("baton_x_y"));
        files::write_private(&file, b"\n").unwrap();
        assert!(options.token().unwrap_err().message.contains("no token"));
    }
}
