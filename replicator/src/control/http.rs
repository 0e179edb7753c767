//! The routes of the control API and the server on its Unix socket.
//!
//! Invariants: every command ends within its bound; whatever goes wrong, the answer is a problem document.

use super::{Controller, problem, socket};
use crate::api::{Desired, DiscardRequest, Format, Problem, ResyncRequest, VerifyRequest, VolumeConfig};
use crate::types::VolumeName;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// Longest body: a configuration with 8 peers needs some KiB.
const MAX_BODY: usize = 256 << 10;
/// Longest wait for a change of the status, as documented in `api.rs`.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A status that does not come this long after its wait: the owner loop hangs.
const STATUS_GRACE: Duration = Duration::from_secs(5);
/// Attaching allocates the metadata file and replays it; a promotion waits for peers and the device. The agent
/// gives up earlier and repeats; this bound keeps abandoned calls from piling up.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Making a filesystem on a large volume over a slow link.
const FORMAT_LIMIT: Duration = Duration::from_secs(600);
/// For running requests at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The routes of the control API.
pub fn router<C: Controller>(controller: Arc<C>) -> axum::Router {
    axum::Router::new()
        .route("/v1/status", get(status::<C>))
        .route("/v1/volumes/{volume}", put(configure::<C>))
        .route("/v1/volumes/{volume}/desired", put(desired::<C>))
        .route("/v1/volumes/{volume}/format", post(format::<C>))
        .route("/v1/volumes/{volume}/verify", post(verify::<C>).delete(stop_verify::<C>))
        .route("/v1/volumes/{volume}/resync", put(resync::<C>))
        .route("/v1/volumes/{volume}/discard", post(discard::<C>))
        .route("/v1/volumes/{volume}/snapshots/{name}", delete(release::<C>))
        .route("/v1/volumes/{volume}/export", post(export::<C>).delete(end_export::<C>))
        .route("/v1/volumes/{volume}/detach", post(detach::<C>))
        .fallback(|| async {
            Refused(problem(404, "not-found", "Not found", "no such resource; see the API's table"))
        })
        .method_not_allowed_fallback(|| async {
            Refused(problem(405, "method", "Method not allowed", "the resource does not take this method"))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(controller)
}

/// A bound control socket.
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Binds the socket (mode 0600, replacing a dead one). Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be made, or another process serves on it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let alive = |p: &Path| std::os::unix::net::UnixStream::connect(p).is_ok();
        let listener = socket::bind_private(path, alive, |p| UnixListener::bind(p))?;
        Ok(Self { listener, path: path.into() })
    }

    /// Serves until `shutdown` resolves, then gives running requests a moment and removes the socket.
    ///
    /// # Errors
    /// Accepting failed for good.
    pub async fn serve<C: Controller>(
        self,
        controller: Arc<C>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (stopping, mut stopped) = tokio::sync::watch::channel(false);
        let server = axum::serve(self.listener, router(controller)).with_graceful_shutdown(async move {
            shutdown.await;
            let _ = stopping.send(true);
        });
        let deadline = async {
            // An error means that the sender is gone, which is the end as well.
            let _ = stopped.wait_for(|s| *s).await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        let result = tokio::select! {
            result = server => result,
            () = deadline => Ok(()),
        };
        let _ = std::fs::remove_file(&self.path);
        result
    }
}

/// A problem as an answer.
struct Refused(Problem);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refused>;

async fn status<C: Controller>(State(controller): State<Arc<C>>, RawQuery(query): RawQuery) -> Response {
    let (after, wait) = match parse_query(query.as_deref().unwrap_or("")) {
        Ok(parsed) => parsed,
        Err(refused) => return refused.into_response(),
    };
    bounded("the status", wait + STATUS_GRACE, async { Ok(controller.status(after, wait).await) })
        .await
        .into_response()
}

async fn configure<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let parsed = volume_name(volume).and_then(|v| Ok((v, parse::<VolumeConfig>(body)?)));
    let config = match parsed {
        Ok((volume, config)) if config.volume == volume => config,
        Ok((volume, config)) => {
            let detail = format!("the URL names volume {volume}, the body {}", config.volume);
            return bad_request(detail).into_response();
        }
        Err(refused) => return refused.into_response(),
    };
    bounded("attaching", COMMAND_LIMIT, controller.configure(config)).await.into_response()
}

async fn desired<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match volume_name(volume).and_then(|v| Ok((v, parse::<Desired>(body)?))) {
        Ok((volume, desired)) => {
            bounded("the change", COMMAND_LIMIT, controller.desired(volume, desired)).await.into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn format<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match volume_name(volume).and_then(|v| Ok((v, parse::<Format>(body)?))) {
        Ok((volume, format)) => {
            bounded("making the filesystem", FORMAT_LIMIT, controller.format(volume, format))
                .await
                .into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn verify<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match volume_name(volume).and_then(|v| Ok((v, parse::<VerifyRequest>(body)?))) {
        Ok((volume, request)) => {
            bounded("beginning the verify", COMMAND_LIMIT, controller.verify(volume, Some(request)))
                .await
                .into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn stop_verify<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
) -> Response {
    match volume_name(volume) {
        Ok(volume) => bounded("stopping the verify", COMMAND_LIMIT, controller.verify(volume, None))
            .await
            .into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn resync<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match volume_name(volume).and_then(|v| Ok((v, parse::<ResyncRequest>(body)?))) {
        Ok((volume, request)) => {
            bounded("the pause", COMMAND_LIMIT, controller.resync(volume, request)).await.into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn discard<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    match volume_name(volume).and_then(|v| Ok((v, parse::<DiscardRequest>(body)?))) {
        Ok((volume, request)) => {
            bounded("keeping a copy", COMMAND_LIMIT, controller.discard(volume, request))
                .await
                .into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn export<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
) -> Response {
    match volume_name(volume) {
        Ok(volume) => {
            bounded("exporting", COMMAND_LIMIT, controller.export(volume, true)).await.into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

async fn release<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath((volume, snapshot)): UrlPath<(String, String)>,
) -> Response {
    match volume_name(volume) {
        Ok(volume) => bounded("removing the copy", COMMAND_LIMIT, controller.release(volume, snapshot))
            .await
            .into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn end_export<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
) -> Response {
    match volume_name(volume) {
        Ok(volume) => bounded("ending the export", COMMAND_LIMIT, controller.export(volume, false))
            .await
            .into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn detach<C: Controller>(
    State(controller): State<Arc<C>>,
    UrlPath(volume): UrlPath<String>,
) -> Response {
    match volume_name(volume) {
        Ok(volume) => match bounded("detaching", COMMAND_LIMIT, controller.detach(volume)).await {
            Ok(_) => StatusCode::NO_CONTENT.into_response(),
            Err(refused) => refused.into_response(),
        },
        Err(refused) => refused.into_response(),
    }
}

async fn bounded<T: Serialize>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, Problem>>,
) -> Answer<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map(Json).map_err(Refused),
        Err(_) => {
            let detail =
                format!("{what} did not end within {} s; it may still go on: ask again", limit.as_secs());
            Err(Refused(problem(504, "timeout", "Not done in time", detail)))
        }
    }
}

fn bad_request(detail: impl Into<String>) -> Refused {
    Refused(problem(400, "bad-request", "Bad request", detail))
}

fn volume_name(name: String) -> Result<VolumeName, Refused> {
    VolumeName::new(name).map_err(|e| bad_request(e.to_string()))
}

fn parse<T: DeserializeOwned>(
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<T, Refused> {
    let body = body.map_err(|e| {
        let status = e.status().as_u16();
        Refused(problem(
            status,
            "body",
            "Body refused",
            format!("{}; at most {MAX_BODY} bytes", e.body_text()),
        ))
    })?;
    serde_json::from_slice(&body).map_err(|e| bad_request(format!("the body is not what is expected: {e}")))
}

fn parse_query(query: &str) -> Result<(Option<u64>, Duration), Refused> {
    let (mut after, mut wait) = (None, Duration::ZERO);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number =
            || value.parse::<u64>().map_err(|_| bad_request(format!("{name}={value}: not a number")));
        match name {
            "after" => after = Some(number()?),
            "wait_ms" => wait = Duration::from_millis(number()?).min(MAX_WAIT),
            _ => return Err(bad_request(format!("unknown parameter {name}; known are after and wait_ms"))),
        }
    }
    Ok((after, wait))
}

#[cfg(test)]
mod tests;
