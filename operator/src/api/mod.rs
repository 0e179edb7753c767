//! The REST API of an agent: reads answer from the status snapshot, commands go to the driver.
//!
//! Owns no state: a watch channel with the newest [`ClusterStatus`] and a [`Commands`] of the driver. Every
//! agent answers every call; none forwards. Errors are RFC 9457 problem documents which say what to do next.
//! Every request is bounded in time and size. If this part dies the group goes on; `/livez` fails.

mod access;
mod commands;
mod etag;
mod events;
mod export;
#[cfg(test)]
pub(crate) mod fake;
mod fence;
mod foresight;
mod history;
mod idempotency;
mod limits;
mod live;
mod meta;
mod mode;
mod notify;
mod openapi;
mod placement;
mod problem;
mod read;
mod resolve;
mod role;
mod spec;
pub mod tokens;
mod verify;
mod view;
mod write;

pub use commands::{
    Accepted, CommandError, Commands, How, ModeChange, Place, PlaceChange, Resolve, Restore, SpecDocument,
    Wish,
};
pub use limits::Limits;
pub use spec::{Applied, Apply, ApplyError, SpecVersion};

use crate::security::guard::guard;
use crate::security::listener::Peer;
use crate::security::{Role, Security};
use crate::series::Series;
use crate::status::ClusterStatus;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use limits::Gate;
use problem::ApiError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use view::Views;

/// Bound of a request. Commands write one key in etcd, which may take an election (seconds at most).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request body: a specification of a hundred groups has some 100 KiB.
const BODY_MAX: usize = 512 << 10;
/// Open requests (event streams among them) may go on for so long after the shutdown began.
const DRAIN: Duration = Duration::from_secs(2);
/// Port of the API by convention.
const PORT: u16 = 7480;

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    views: Arc<Views>,
    commands: Arc<dyn Commands>,
    security: Option<Arc<Security>>,
    gate: Arc<Gate>,
    port: u16,
    series: Series,
}

impl ApiState {
    /// Reads from `status`, sends commands to `commands`.
    #[must_use]
    pub fn new(status: watch::Receiver<ClusterStatus>, commands: Arc<dyn Commands>) -> Self {
        let (views, gate) = (Arc::new(Views::new(status)), Arc::new(Gate::new(Limits::default())));
        Self { views, commands, security: None, gate, port: PORT, series: Series::default() }
    }

    /// Asks who sends a request. Without this everybody may do everything.
    #[must_use]
    pub fn with_security(mut self, security: Arc<Security>) -> Self {
        self.security = Some(security);
        self
    }

    /// Answers `/v1/series` from this memory.
    #[must_use]
    pub fn with_series(self, series: Series) -> Self {
        Self { series, ..self }
    }

    /// The port at which agents are reached, for service discovery.
    #[must_use]
    pub fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Other limits than the defaults.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { gate: Arc::new(Gate::new(limits)), ..self }
    }

    fn snapshot(&self) -> Arc<ClusterStatus> {
        Arc::clone(&self.views.newest().status)
    }
}

/// The API as a service, with its layers.
pub fn router(state: ApiState) -> Router {
    router_within(state, REQUEST_TIMEOUT)
}

/// Routes that any authenticated client may read.
fn viewer() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(read::status))
        .routes(routes!(read::groups))
        .routes(routes!(read::group))
        .routes(routes!(read::target))
        .routes(routes!(foresight::explain_group))
        .routes(routes!(foresight::what_if))
        .routes(routes!(read::nodes))
        .routes(routes!(read::node))
        .routes(routes!(mode::mode))
        .routes(routes!(read::volumes))
        .routes(routes!(read::volume))
        .routes(routes!(events::events))
        .routes(routes!(read::spec))
        .routes(routes!(spec::history))
        .routes(routes!(spec::version))
        .routes(routes!(notify::targets))
        .routes(routes!(meta::version))
        .routes(routes!(meta::prometheus_targets))
        .routes(routes!(meta::metrics))
        .routes(routes!(history::series))
        .routes(routes!(history::whoami))
}

/// Routes that steer.
fn operator() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(write::move_group))
        .routes(routes!(write::cancel_move))
        .routes(routes!(placement::pin, placement::unpin))
        .routes(routes!(placement::disable, placement::enable))
        .routes(routes!(mode::set_mode))
        .routes(routes!(notify::test))
        .routes(routes!(verify::verify, verify::stop_verify))
        .routes(routes!(verify::pause))
        .routes(routes!(verify::resume))
        .routes(routes!(export::export, export::end_export))
}

/// Routes that change what the cluster is.
fn admin() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(write::recover))
        .routes(routes!(write::restore))
        .routes(routes!(write::write_back))
        .routes(routes!(fence::fence))
        .routes(routes!(fence::test))
        .routes(routes!(resolve::resolve))
        .routes(routes!(resolve::release))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(spec::replace))
        .routes(routes!(spec::rollback))
}

/// Role questions: open to everybody and outside all limits.
fn open() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(role::leader))
        .routes(routes!(role::standby))
        .routes(routes!(role::livez))
        .routes(routes!(role::readyz))
        .routes(routes!(role::healthz))
}

/// All routes with their roles and limits, and the document that describes them.
fn described(gate: &Arc<Gate>) -> (Router<ApiState>, utoipa::openapi::OpenApi) {
    let memory = Arc::new(idempotency::Memory::default());
    let once = || middleware::from_fn_with_state(Arc::clone(&memory), idempotency::once);
    let mut questions = open();
    openapi::describe_open(questions.get_openapi_mut());
    // The last layer is the outermost: limits, tags, role, and what a POST is remembered by. Viewers' routes come last:
    // where they share a path with commands, a method that is not there is 405 for viewers too.
    let limited = OpenApiRouter::new()
        .merge(access::needs(admin().route_layer(once()), Role::Admin))
        .merge(access::needs(operator().route_layer(once()), Role::Operator))
        .merge(access::needs(viewer(), Role::Viewer))
        .layer(middleware::from_fn(etag::tag))
        .layer(middleware::from_fn_with_state(Arc::clone(gate), limits::limited));
    let (router, document) =
        OpenApiRouter::with_openapi(openapi::base()).merge(limited).merge(questions).split_for_parts();
    (router, document)
}

fn router_within(state: ApiState, timeout: Duration) -> Router {
    let page = crate::web::router(state.views.follow());
    let security = state.security.clone();
    let (routes, document) = described(&state.gate);
    // Names are letters, digits and a few signs, all allowed in a header.
    let node = HeaderValue::from_str(state.snapshot().node.as_str()).ok();
    routes
        .merge(openapi::routes(&document))
        .with_state(state)
        .merge(page)
        .layer(RequestBodyLimitLayer::new(BODY_MAX))
        .layer(middleware::from_fn_with_state(timeout, bounded))
        .layer(middleware::from_fn_with_state(security, guard))
        .layer(middleware::from_fn(problem::as_problem))
        .layer(middleware::map_response(move |mut response: Response| {
            if let Some(node) = &node {
                response.headers_mut().insert("baton-node", node.clone());
            }
            std::future::ready(response)
        }))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(middleware::from_fn(crate::metrics::measure))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

/// What log lines of a request carry. No query and no header but the id: they may hold secrets.
fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let from = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.from());
    tracing::info_span!("request", id, method = %request.method(), path = request.uri().path(), from)
}

/// Serves until `shutdown` is ready, then for at most two seconds more for what is still open.
///
/// # Errors
/// If accepting connections fails for good.
pub async fn serve<L>(
    listener: L,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
    for<'a> Peer: Connected<IncomingStream<'a, L>>,
{
    let (closing, mut closed) = watch::channel(false);
    let signal = async move {
        shutdown.await;
        closing.send_replace(true);
    };
    let server = axum::serve(listener, router(state).into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(signal);
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
mod contract;
#[cfg(test)]
mod document_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod speed_tests;
#[cfg(test)]
mod tests;
