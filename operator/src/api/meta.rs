//! About the agent, and where Prometheus finds the others.

use super::ApiState;
use crate::metrics;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use baton_replicator::types::NodeName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// What answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    /// Version of the agent.
    #[schema(examples("0.1.0"))]
    version: &'static str,
    /// Version of the API, as in its paths.
    #[schema(examples("v1"))]
    api: &'static str,
    /// The node it runs on.
    node: NodeName,
    /// The cluster it belongs to.
    #[schema(examples("demo"))]
    cluster: String,
}

/// Which agent answers, and its version.
#[utoipa::path(
    get,
    path = "/v1/version",
    operation_id = "getVersion",
    tag = "agent",
    responses((status = 200, description = "The agent's version.", body = Version))
)]
pub(super) async fn version(State(api): State<ApiState>) -> Json<Version> {
    let status = api.snapshot();
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
        node: status.node.clone(),
        cluster: status.cluster.clone(),
    })
}

/// A group of targets in Prometheus' HTTP service discovery.
#[derive(Serialize, ToSchema)]
pub(super) struct TargetGroup {
    /// Addresses of agents.
    #[schema(examples(json!(["10.77.0.11:7480"])))]
    targets: Vec<String>,
    /// Labels of every series scraped there.
    #[schema(examples(json!({"cluster": "demo", "node": "alpha"})))]
    labels: BTreeMap<&'static str, String>,
}

/// Where Prometheus finds every agent's metrics.
///
/// For `http_sd_configs`: asked at one agent, it lists all nodes of the specification, each with the labels `cluster` and
/// `node`. Nodes that do not answer are listed too, so that their silence is seen.
#[utoipa::path(
    get,
    path = "/v1/prometheus/targets",
    operation_id = "getPrometheusTargets",
    tag = "monitoring",
    responses((status = 200, description = "One group of targets per node.", body = Vec<TargetGroup>))
)]
pub(super) async fn prometheus_targets(State(api): State<ApiState>) -> Json<Vec<TargetGroup>> {
    let status = api.snapshot();
    let target = |address: &str| match address.parse() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{}", api.port),
        _ => format!("{address}:{}", api.port),
    };
    let groups = status.nodes.iter().map(|node| TargetGroup {
        targets: vec![target(&node.address)],
        labels: BTreeMap::from([("cluster", status.cluster.clone()), ("node", node.name.to_string())]),
    });
    Json(groups.collect())
}

/// Metrics of this agent in the text format of Prometheus.
///
/// `docs/metrics.md` lists them.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "monitoring",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(api): State<ApiState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&api.snapshot()))
}
