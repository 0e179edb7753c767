//! The REST API of an agent: reads answer from the status snapshot, commands go to the driver.
//!
//! Owns no state: a watch channel with the newest [`ClusterStatus`] and a [`Commands`] of the driver. Every
//! agent answers every call; none forwards. Errors are RFC 9457 problem documents which say what to do next.
//! Every request is bounded in time and size. If this part dies the group goes on; `/livez` fails.

mod commands;
mod events;
#[cfg(test)]
pub(crate) mod fake;
mod problem;
mod read;
mod role;
mod write;

pub use commands::{Accepted, CommandError, Commands, SpecDocument};

use crate::status::ClusterStatus;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post, put};
use problem::ApiError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

/// Bound of a request. Commands write one key in etcd, which may take an election (seconds at most).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request body: the commands are short JSON objects.
const BODY_MAX: usize = 64 << 10;
/// Open requests (event streams among them) may go on for so long after the shutdown began.
const DRAIN: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    status: watch::Receiver<ClusterStatus>,
    commands: Arc<dyn Commands>,
}

impl ApiState {
    /// Reads from `status`, sends commands to `commands`.
    #[must_use]
    pub fn new(status: watch::Receiver<ClusterStatus>, commands: Arc<dyn Commands>) -> Self {
        Self { status, commands }
    }

    fn snapshot(&self) -> ClusterStatus {
        self.status.borrow().clone()
    }
}

/// The API as a service, with its layers.
pub fn router(state: ApiState) -> Router {
    router_within(state, REQUEST_TIMEOUT)
}

fn router_within(state: ApiState, timeout: Duration) -> Router {
    Router::new()
        .route("/v1/status", get(read::status))
        .route("/v1/groups", get(read::groups))
        .route("/v1/groups/{group}", get(read::group))
        .route("/v1/groups/{group}/move", post(write::move_group))
        .route("/v1/groups/{group}/recover", post(write::recover))
        .route("/v1/nodes", get(read::nodes))
        .route("/v1/nodes/{node}", get(read::node))
        .route("/v1/nodes/{node}/mode", put(write::set_mode))
        .route("/v1/volumes", get(read::volumes))
        .route("/v1/volumes/{volume}", get(read::volume))
        .route("/v1/events", get(events::events))
        .route("/v1/spec", get(read::spec))
        .route("/leader", get(role::leader))
        .route("/standby", get(role::standby))
        .route("/livez", get(role::livez))
        .route("/readyz", get(role::readyz))
        .route("/metrics", get(read::metrics))
        .with_state(state)
        .layer(RequestBodyLimitLayer::new(BODY_MAX))
        .layer(middleware::from_fn_with_state(timeout, bounded))
        .layer(middleware::from_fn(problem::as_problem))
        .layer(TraceLayer::new_for_http())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

/// Serves until `shutdown` is ready, then for at most two seconds more for what is still open.
///
/// # Errors
/// If accepting connections fails for good.
pub async fn serve(
    listener: tokio::net::TcpListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (closing, mut closed) = watch::channel(false);
    let signal = async move {
        shutdown.await;
        closing.send_replace(true);
    };
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(signal);
    let drained = async {
        let _ = closed.wait_for(|closed| *closed).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server.into_future() => served,
        () = drained => Ok(()),
    }
}

/// A handler that does not end in time is dropped; whether its command took effect is then unknown, which the
/// answer says.
async fn bounded(
    State(timeout): State<Duration>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => Ok(response),
        Err(_) => Err(ApiError::unavailable(format!(
            "The agent did not finish the request within {} ms. Look at /v1/status before you repeat a command: it \
             may have taken effect.",
            timeout.as_millis()
        ))),
    }
}

#[cfg(test)]
mod tests;
