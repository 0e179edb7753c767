//! Checks from outside a container: an HTTP request or a TCP connection, each with its own bound.
//!
//! They are made from the agent's network namespace, which the services share. Every check opens a fresh
//! connection: a pooled one would still answer after the listener is gone.

use std::time::Duration;
use tokio::net::TcpStream;

/// Longest text of a reason that is shown.
const REASON_MAX: usize = 200;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `GET url` must answer one of the statuses.
    Http {
        /// Plain HTTP.
        url: String,
        /// Statuses that are good; 200 to 399 if empty.
        status: Vec<u16>,
        /// Bound of the whole check.
        timeout: Duration,
    },
    /// A connection to `host:port` must be accepted.
    Tcp {
        /// `host:port` or `[v6]:port`.
        address: String,
        /// Bound of the whole check.
        timeout: Duration,
    },
}

impl Check {
    /// The check with `{address}` replaced (IPv6 in brackets).
    #[must_use]
    pub fn at(&self, address: std::net::IpAddr) -> Self {
        let mut check = self.clone();
        let (Self::Http { url: field, .. } | Self::Tcp { address: field, .. }) = &mut check;
        *field = at(field, address);
        check
    }
}

/// The text with `{address}` replaced (IPv6 in brackets).
#[must_use]
pub fn at(text: &str, address: std::net::IpAddr) -> String {
    let address = match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    };
    text.replace("{address}", &address)
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target}: {reason}")]
pub struct CheckError {
    /// What was asked.
    pub target: String,
    /// What came.
    pub reason: String,
}

/// Runs one check, within its bound.
///
/// # Errors
/// [`CheckError`] with the reason, one line.
pub async fn run_check(check: &Check) -> Result<(), CheckError> {
    let (target, timeout) = match check {
        Check::Http { url, timeout, .. } => (url, *timeout),
        Check::Tcp { address, timeout } => (address, *timeout),
    };
    let run = async {
        match check {
            Check::Http { url, status, .. } => http(url, status).await,
            Check::Tcp { address, .. } => {
                TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string())
            }
        }
    };
    let result = match tokio::time::timeout(timeout, run).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    };
    result.map_err(|reason| CheckError {
        target: target.clone(),
        reason: reason.chars().take(REASON_MAX).collect(),
    })
}

async fn http(url: &str, good: &[u16]) -> Result<(), String> {
    crate::security::use_ring();
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|e| e.to_string())?;
    let response = client.get(url).send().await.map_err(|error| {
        // reqwest's own text repeats the URL; the innermost cause says what happened.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    })?;
    let status = response.status();
    let is_good = match good {
        [] => status.is_success() || status.is_redirection(),
        list => list.contains(&status.as_u16()),
    };
    if is_good { Ok(()) } else { Err(format!("HTTP {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use axum::{Router, routing::get};

    const BOUND: Duration = Duration::from_secs(5);

    async fn serve() -> std::net::SocketAddr {
        let router = Router::new()
            .route("/ok", get(|| async { "ok" }))
            .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/ok")], "") }))
            .route("/broken", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    #[tokio::test]
    async fn http_checks_judge_the_status() {
        let address = serve().await;
        let check = |path: &str| Check::Http {
            url: format!("http://{address}{path}"),
            status: vec![],
            timeout: BOUND,
        };
        assert_eq!(run_check(&check("/ok")).await, Ok(()));
        assert_eq!(run_check(&check("/moved")).await, Ok(()));
        let broken = run_check(&check("/broken")).await.unwrap_err();
        assert!(broken.reason.contains("500"), "{broken}");
        let only = |status: u16| Check::Http {
            url: format!("http://{address}/broken"),
            status: vec![status],
            timeout: BOUND,
        };
        assert_eq!(run_check(&only(500)).await, Ok(()));
        assert!(run_check(&only(200)).await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_and_a_silent_one_fail_within_the_bound() {
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let tcp = run_check(&Check::Tcp { address: closed.clone(), timeout: BOUND }).await.unwrap_err();
        assert!(tcp.reason.contains("refused"), "{tcp}");
        let http = Check::Http { url: format!("http://{closed}/"), status: vec![], timeout: BOUND };
        assert!(run_check(&http).await.unwrap_err().reason.contains("refused"));

        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let timeout = Duration::from_millis(80);
        assert_eq!(run_check(&Check::Tcp { address: address.to_string(), timeout }).await, Ok(()));
        let error = run_check(&Check::Http { url: format!("http://{address}/"), status: vec![], timeout })
            .await
            .unwrap_err();
        assert_eq!(error.reason, "no answer within 80 ms");
    }

    #[test]
    fn the_address_is_filled_in() {
        let check = Check::Http { url: "http://{address}/".into(), status: vec![], timeout: BOUND };
        let v6 = check.at("fd00::1".parse().unwrap());
        assert_eq!(v6, Check::Http { url: "http://[fd00::1]/".into(), status: vec![], timeout: BOUND });
    }
}
