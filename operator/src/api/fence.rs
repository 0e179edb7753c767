//! Fencing from outside by a person's word, and a test of the devices.

use super::access::principal;
use super::write::{Answer, DryRun, answer, known_node, parse};
use super::{Accepted, ApiState, How};
use crate::fence::Action;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderMap};
use baton_replicator::types::NodeName;
use serde::Deserialize;
use utoipa::ToSchema;

/// What shall be done to a node.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FenceAction {
    /// Switch it off.
    Off,
    /// Switch it off and on again.
    Reboot,
    /// Switch it on.
    On,
    /// Only ask whether it is on.
    Status,
}

/// A person's word about a node's power.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FenceRequest {
    action: FenceAction,
}

/// Switches a node off, on, or off and on again by its external fence agents.
///
/// The answering agent does it, so it must not be the node's own. It ends in the background; `fence` of the node says how.
/// Refused (409) if the node has no fence devices.
#[utoipa::path(
    post,
    path = "/v1/nodes/{node}/fence",
    operation_id = "fenceNode",
    tag = "nodes",
    params(
        ("node" = NodeName, Path, description = "Name of the node."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    request_body(content = FenceRequest, example = json!({"action": "off"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Begun.", body = Accepted)
    )
)]
pub(super) async fn fence(
    State(api): State<ApiState>,
    Path(node): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: FenceRequest = parse(&headers, &body, r#"{"action": "off"}, or reboot, on, status"#)?;
    let node = known_node(&api, &node)?;
    let action = match request.action {
        FenceAction::Off => Action::Off,
        FenceAction::Reboot => Action::Reboot,
        FenceAction::On => Action::On,
        FenceAction::Status => Action::Status,
    };
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.fence(node, action, principal(&extensions)?.name, how).await?)
}

/// Asks every fence device at once whether it answers.
///
/// The answering agent asks those of the other nodes, in the background; `fence` of each node says what they answered.
#[utoipa::path(
    post,
    path = "/v1/fence/test",
    operation_id = "testFenceDevices",
    tag = "nodes",
    responses((status = 202, description = "Begun.", body = Accepted))
)]
pub(super) async fn test(State(api): State<ApiState>) -> Answer {
    answer(api.commands.fence_test().await?)
}
