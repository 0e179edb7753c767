//! The web page that every agent serves at `/ui/`.
//!
//! Owns the page's files, which are part of the binary: no build step, no file on disk, no other host. The document is
//! never cached; everything it loads has the hash of all files in its path and is cached for ever. A page that was
//! loaded before an upgrade goes on with what it has loaded. If this part dies the API goes on.
//!
//! The policy lets scripts and styles come from this agent only, none of them inline, and lets the page talk to this
//! agent and ask the other agents of the cluster whether they live; nothing else.

use crate::status::ClusterStatus;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::LazyLock;
use tokio::sync::watch;

/// Where the page is.
pub const PATH: &str = "/ui/";
/// The agents' port, if the request does not say which one was asked.
const DEFAULT_PORT: u16 = 7480;
/// Most other agents the policy names: a header has room for more, a cluster has no need of them.
const AGENTS_MAX: usize = 16;

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $kind:ident),+ $(,)?) => {
        &[$(Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("assets/", $name)) }),+]
    };
}

const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: &[Asset] = assets! {
    "actions.js": JS,
    "api.js": JS,
    "app.js": JS,
    "base.css": CSS,
    "charts.css": CSS,
    "chart.js": JS,
    "charts.js": JS,
    "dom.js": JS,
    "events.js": JS,
    "format.js": JS,
    "groups.js": JS,
    "header.js": JS,
    "icon.svg": SVG,
    "icons.js": JS,
    "live.js": JS,
    "model.js": JS,
    "parts.css": CSS,
    "topology.js": JS,
    "volumes.js": JS,
};

const DOCUMENT: &str = include_str!("assets/index.html");
/// Where the document names the folder of its files.
const FOLDER_MARK: &str = "{{folder}}";

/// Hash of all files: the folder's name.
static HASH: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.name);
        hash.update(asset.bytes.len().to_le_bytes());
        hash.update(asset.bytes);
    }
    hash.update(DOCUMENT);
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
});
static PAGE: LazyLock<String> = LazyLock::new(|| DOCUMENT.replace(FOLDER_MARK, &HASH));

/// The page's routes. They need no authentication: the files are the same for everybody and hold no data.
pub fn router(status: watch::Receiver<ClusterStatus>) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary(PATH) }))
        .route("/ui", get(|| async { Redirect::permanent(PATH) }))
        .route(PATH, get(document))
        .route("/ui/{hash}/{name}", get(asset))
        .with_state(status)
}

async fn document(State(status): State<watch::Receiver<ClusterStatus>>, headers: HeaderMap) -> Response {
    let policy = policy(&status.borrow(), port(&headers));
    let caching = [(header::CACHE_CONTROL, "no-cache"), (header::CONTENT_TYPE, "text/html; charset=utf-8")];
    let policy = [(header::CONTENT_SECURITY_POLICY, policy)];
    (safe(), caching, policy, PAGE.as_str()).into_response()
}

async fn asset(Path((hash, name)): Path<(String, String)>) -> Response {
    let found = ASSETS.iter().find(|asset| asset.name == name && hash == *HASH);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let caching = [
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::CONTENT_TYPE, asset.kind),
        // An SVG that is opened by itself is a document too.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    ];
    (safe(), caching, asset.bytes).into_response()
}

/// Headers that every file has.
fn safe() -> [(HeaderName, HeaderValue); 6] {
    let value = HeaderValue::from_static;
    [
        (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
        (header::X_FRAME_OPTIONS, value("DENY")),
        (header::REFERRER_POLICY, value("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), value("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), value("same-origin")),
        (
            HeaderName::from_static("permissions-policy"),
            value("camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
        ),
    ]
}

/// The port the browser asked: the other agents are asked at the same one.
fn port(headers: &HeaderMap) -> u16 {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(DEFAULT_PORT)
}

/// The content security policy. Only IPv4 addresses can be named in one; agents on IPv6 are offered as links, without
/// a look at whether they answer.
fn policy(status: &ClusterStatus, port: u16) -> String {
    let others = status.nodes.iter().filter(|node| node.name != status.node);
    let agents: String = others
        .filter_map(|node| node.address.parse::<IpAddr>().ok())
        .filter(IpAddr::is_ipv4)
        .take(AGENTS_MAX)
        .map(|address| format!(" http://{address}:{port} https://{address}:{port}"))
        .collect();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{agents}; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

#[cfg(test)]
mod tests;
