//! Commands: checked against the specification, then written as desired state by the driver.

use super::problem::ApiError;
use super::{Accepted, ApiState};
use crate::status::NodeMode;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use baton_replicator::types::{GroupName, NodeName};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeRequest {
    mode: NodeMode,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveRequest {
    #[serde(default)]
    to: Option<NodeName>,
}

pub(super) async fn set_mode(
    State(api): State<ApiState>,
    Path(node): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let request: ModeRequest = parse(&body, r#"{"mode": "online" | "standby" | "maintenance"}"#)?;
    let node = known_node(&api, &node)?;
    let accepted = api.commands.set_mode(node, request.mode).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

pub(super) async fn move_group(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let request: MoveRequest = match body.is_empty() {
        true => MoveRequest::default(),
        false => parse(&body, r#"{} or {"to": "NODE"}"#)?,
    };
    let group = known_group(&api, &group)?;
    if let Some(to) = &request.to {
        known_node(&api, to.as_str())?;
    }
    let accepted = api.commands.move_group(group, request.to).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

pub(super) async fn recover(
    State(api): State<ApiState>,
    Path(group): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let group = known_group(&api, &group)?;
    let accepted = api.commands.recover(group).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

fn parse<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("The body is not what is expected here: {error}. Send {expected}."))
    })
}

fn known_node(api: &ApiState, name: &str) -> Result<NodeName, ApiError> {
    let status = api.status.borrow();
    let found = status.nodes.iter().find(|n| n.name.as_str() == name).map(|n| n.name.clone());
    found.ok_or_else(|| ApiError::unknown("node", name, status.nodes.iter().map(|n| &n.name)))
}

fn known_group(api: &ApiState, name: &str) -> Result<GroupName, ApiError> {
    let status = api.status.borrow();
    let found = status.groups.iter().find(|g| g.name.as_str() == name).map(|g| g.name.clone());
    found.ok_or_else(|| ApiError::unknown("group", name, status.groups.iter().map(|g| &g.name)))
}
