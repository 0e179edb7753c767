//! The door of the API: every request passes here, and leaves with a [`Principal`] in its extensions or is refused.
//!
//! Order: who (socket, token, certificate), then the handler, whose route knows the role it needs, then the audit trail.
//! Who is nobody comes only as far as [`rules`](super::rules) allow. A request that carries a token is judged by the token, even if its connection showed a certificate: whoever
//! sends one means it.

use super::audit::{Audit, Recorder};
use super::failures::Failures;
use super::listener::{Origin, Peer};
use super::principal::{Principal, Role, Via};
use super::rules::is_open;
use super::tokens::{Tokens, Vault};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use baton_replicator::api::Problem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the door knows.
pub struct Security {
    /// Certificates of other clusters are nobody here.
    pub cluster: String,
    /// The cluster's tokens on this node.
    pub tokens: Arc<Tokens>,
    /// Where tokens are made and revoked.
    pub vault: Arc<dyn Vault>,
    /// `/metrics` needs nothing.
    pub open_metrics: bool,
    /// Who asks over TCP is asked who he is. Off only by BATON_API_INSECURE.
    pub authentication: bool,
    failures: Failures,
    audit: Audit,
}

/// Why a request is not let in.
struct Denied {
    status: StatusCode,
    /// For the history: more than the client is told.
    why: &'static str,
    detail: String,
    wait: Option<Duration>,
}

impl Security {
    /// A door with authentication.
    #[must_use]
    pub fn new(cluster: &str, tokens: Arc<Tokens>, vault: Arc<dyn Vault>, record: Recorder) -> Self {
        Self {
            cluster: cluster.to_owned(),
            tokens,
            vault,
            open_metrics: false,
            authentication: true,
            failures: Failures::default(),
            audit: Audit::new(record),
        }
    }

    /// Who this is; none if nothing was shown.
    fn principal(&self, peer: Option<&Peer>, token: Option<&str>) -> Result<Option<Principal>, &'static str> {
        let from = peer.map_or_else(|| "unknown".to_owned(), Peer::from);
        let now = unix_now();
        if let Some(token) = token {
            let record = self.tokens.recognise(token, now).map_err(|refused| match refused {
                super::token::Refused::Malformed => "not a token of Baton's",
                super::token::Refused::Unknown => "unknown or revoked token",
                super::token::Refused::WrongSecret => "wrong token",
                super::token::Refused::Expired => "expired token",
            })?;
            return Ok(Some(Principal { name: record.name, role: record.role, via: Via::Token, from }));
        }
        if let Some(Origin::Socket { uid }) = peer.map(|p| p.origin) {
            // The file's mode says the same; a file can be handed on, an identity cannot.
            if uid != 0 && uid != rustix::process::geteuid().as_raw() {
                return Err("another user on the Unix socket");
            }
            let name = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
            return Ok(Some(Principal { name, role: Role::Admin, via: Via::Socket, from }));
        }
        if let Some(certificate) = peer.and_then(|p| p.certificate.as_ref()) {
            if certificate.cluster != self.cluster {
                return Err("certificate of another cluster");
            }
            // The handshake checked the dates; a connection may last longer than the certificate.
            if certificate.not_after <= now {
                return Err("expired certificate");
            }
            let role = certificate.kind.role().ok_or("certificate that is not for the API")?;
            return Ok(Some(Principal { name: certificate.name.clone(), role, via: Via::Certificate, from }));
        }
        if self.authentication {
            return Ok(None);
        }
        Ok(Some(Principal { name: "anyone".into(), role: Role::Admin, via: Via::Nothing, from }))
    }

    fn unauthorized(&self, from: Option<IpAddr>, why: &'static str) -> Denied {
        let wait = from.and_then(|from| self.failures.failed(from).err());
        if wait.is_some() {
            let detail = "Too many requests from this address failed to prove who they are.".to_owned();
            return Denied { status: StatusCode::TOO_MANY_REQUESTS, why, detail, wait };
        }
        let detail =
            "Say who you are: a token ('Authorization: Bearer …', made by 'baton token create'), a client \
                      certificate ('baton cert client'), or the agent's Unix socket on its host."
                .to_owned();
        Denied { status: StatusCode::UNAUTHORIZED, why, detail, wait: None }
    }
}

/// The layer. Without [`Security`] everybody is an administrator, which is for tests of what is behind it.
pub async fn guard(
    State(security): State<Option<Arc<Security>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(security) = security else { return next.run(request).await };
    // Extensions cannot come from outside: a layer before this one knows who it is.
    if request.extensions().get::<Principal>().is_some() {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let token = bearer(&request);
    let who = match security.principal(peer.as_ref(), token.as_deref()) {
        Ok(Some(who)) => who,
        // An open path stays open to somebody with a wrong token.
        _ if is_open(&method, &path, security.open_metrics) => return next.run(request).await,
        Ok(None) => return refuse(&security, peer.as_ref(), &method, &path, "nothing was shown"),
        Err(why) => return refuse(&security, peer.as_ref(), &method, &path, why),
    };
    request.extensions_mut().insert(who.clone());
    let response = next.run(request).await;
    security.audit.answered(&who, &method, &path, response).await
}

fn refuse(
    security: &Security,
    peer: Option<&Peer>,
    method: &Method,
    path: &str,
    why: &'static str,
) -> Response {
    let from = match peer.map(|p| p.origin) {
        Some(Origin::Tcp(ip)) => Some(ip),
        Some(Origin::Socket { .. }) | None => None,
    };
    let denied = security.unauthorized(from, why);
    let mut response = if denied.status == StatusCode::TOO_MANY_REQUESTS {
        problem(denied.status, "too-many-failures", "Too many failures", denied.detail)
    } else {
        let who = from.map_or_else(|| "somebody".to_owned(), |ip| ip.to_string());
        security.audit.denied(&who, method, path, denied.status, denied.why);
        problem(denied.status, "unauthorized", "Who are you?", denied.detail)
    };
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"baton\""));
    if let Some(wait) = denied.wait {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
    }
    response
}

/// The token of the Authorization header; text that is no token of ours is judged like one.
fn bearer(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim().to_owned() } else { String::new() })
}

/// An RFC 9457 problem document.
pub(crate) fn problem(status: StatusCode, kind: &str, title: &str, detail: String) -> Response {
    let problem = Problem {
        kind: format!("/problems/{kind}"),
        title: title.to_owned(),
        status: status.as_u16(),
        detail,
    };
    // Plain text fields serialise.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
