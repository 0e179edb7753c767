//! Commands: checked against the specification, then written as desired state by the driver.
//!
//! Each may be asked with `?dry_run=true`: the same checks, the same refusals, nothing changed, answered by 200 instead
//! of 202. `If-Match` is compared here, for an answer that names the version in force, and again by etcd.

use super::etag::{self, Tag};
use super::problem::ApiError;
use super::{Accepted, ApiState, How, Restore, Wish};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use baton_replicator::types::{GroupName, NodeName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

/// Where a group should go.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveRequest {
    /// The node; without it the first that is ready.
    #[serde(default)]
    to: Option<NodeName>,
}

#[derive(Deserialize)]
pub(super) struct DryRun {
    #[serde(default)]
    pub(super) dry_run: bool,
}

pub(super) type Answer = Result<(StatusCode, Json<Accepted>), ApiError>;

pub(super) fn answer(accepted: Accepted) -> Answer {
    let status = if accepted.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(accepted)))
}

/// Moves a group to another node, in good order.
///
/// The leader checks that the successor is in sync and ready, stops the group, flushes its volumes and hands over. Refused
/// (409) if nobody, or not the node asked for, could take it now.
///
/// With `to` it may be repeated without effect. Without, it goes to the first node that is ready, and once it is there a
/// repetition moves it on: send an `Idempotency-Key`.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/move",
    operation_id = "moveGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing."),
        ("If-Match" = Option<String>, Header, description = "Only if the target is still at this version (`ETag` of `GET …/target`).", pattern = r#"^(\*|"[!#-~]*"( *, *"[!#-~]*")*)$"#)
    ),
    request_body(content = Option<MoveRequest>, example = json!({"to": "beta"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the leader hands over.", body = Accepted)
    )
)]
pub(super) async fn move_group(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: MoveRequest = match body.is_empty() {
        true => MoveRequest::default(),
        false => parse::<Option<_>>(&headers, &body, r#"{} or {"to": "NODE"}"#)?.unwrap_or_default(),
    };
    let group = known_group(&api, &group)?;
    if let Some(to) = &request.to {
        known_node(&api, to.as_str())?;
    }
    let how = How { dry_run: query.dry_run, expected: target_held(&api, &group, &headers).await? };
    answer(api.commands.move_group(group, request.to, how).await?)
}

/// Takes back a move that waits.
///
/// The group stays where it is. Refused (409) once the handover has begun; without effect if no move waits.
#[utoipa::path(
    delete,
    path = "/v1/groups/{group}/target",
    operation_id = "cancelMove",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing."),
        ("If-Match" = Option<String>, Header, description = "Only if the target is still at this version (`ETag` of `GET` here).", pattern = r#"^(\*|"[!#-~]*"( *, *"[!#-~]*")*)$"#)
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "No move waits any more.", body = Accepted)
    )
)]
pub(super) async fn cancel_move(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    headers: HeaderMap,
) -> Answer {
    let group = known_group(&api, &group)?;
    let how = How { dry_run: query.dry_run, expected: target_held(&api, &group, &headers).await? };
    answer(api.commands.cancel_move(group, how).await?)
}

/// A person vouches for what etcd says about a group.
///
/// After etcd was restored from a backup, wiped or replaced, agents stop automatic takeovers of groups whose history it
/// does not know. This ends that at the agent that answers: ask every agent. Look at the group's record first; if it names
/// a node whose data is old, newer writes are lost.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/recover",
    operation_id = "recoverGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "This agent trusts etcd about the group.", body = Accepted)
    )
)]
pub(super) async fn recover(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
) -> Answer {
    let group = known_group(&api, &group)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.recover(group, how).await?)
}

/// Starts a group again from what the answering node holds, after etcd lost its record.
///
/// The record is written anew: only the answering node is in sync. Refused (409) while etcd's record is trusted, while
/// anybody leads the group, while a node that may hold more is not heard, or if the answering node did not serve the last
/// epoch known; the last two unless a person says which nodes are off, and that data may be lost. Afterwards every
/// agent is asked to trust the record (`recoverGroup`). `baton cluster recover` does both.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/restore",
    operation_id = "restoreGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    request_body(content = Option<Restore>, example = json!({"off": ["beta"], "accept_data_loss": true})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "The record is written.", body = Accepted)
    )
)]
pub(super) async fn restore(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: Restore = super::placement::body_of(&headers, &body, r#"{"off": ["NODE"]}"#)?;
    let group = known_group(&api, &group)?;
    for node in &request.off {
        known_node(&api, node.as_str())?;
    }
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.restore(group, request, how).await?)
}

/// Writes back what etcd lacks of the cluster and the answering agent remembers.
///
/// That is the specification, and with it the tokens. Nothing that etcd holds is changed.
#[utoipa::path(
    post,
    path = "/v1/recover",
    operation_id = "recoverCluster",
    tag = "specification",
    params(
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written, or nothing was lacking.", body = Accepted)
    )
)]
pub(super) async fn write_back(
    State(api): State<ApiState>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
) -> Answer {
    let by = super::access::principal(&extensions)?.name;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.write_back(by, how).await?)
}

async fn target_held(
    api: &ApiState,
    group: &GroupName,
    headers: &HeaderMap,
) -> Result<Option<i64>, ApiError> {
    if !etag::is_conditional(headers) {
        return Ok(None);
    }
    let wish = api.commands.target(group.clone()).await?;
    held(headers, &wish, &format!("The target of {group}")).map(Some)
}

/// The version in force if `If-Match` allows it.
pub(super) fn held<T>(headers: &HeaderMap, wish: &Wish<T>, what: &str) -> Result<i64, ApiError> {
    etag::if_match(headers, &Tag::of_version(wish.version), what)?;
    Ok(wish.version)
}

/// Reads a JSON body.
///
/// # Errors
/// 415 if it says that it is something else, 400 if it is not what is `expected`.
pub(super) fn parse<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
    expected: &str,
) -> Result<T, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("?"));
    if let Some(kind) = kind {
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" {
            return Err(ApiError::media_type(format!(
                "The body is '{kind}'. Send {expected} with 'Content-Type: application/json'."
            )));
        }
    }
    let wrong = |error: String| {
        ApiError::bad_request(format!("The body is not what is expected here: {error}. Send {expected}."))
    };
    let mut value: Value = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    // serde would take a list for the fields in their order.
    if value.is_array() {
        return Err(wrong("it is a list".to_owned()));
    }
    whole_numbers(&mut value);
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

/// JSON has one kind of number, and JSON Schema calls `12.0` an integer; serde does not.
fn whole_numbers(body: &mut Value) {
    for field in body.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
        let whole = field.as_f64().filter(|n| field.is_f64() && n.fract() == 0.0);
        if let Some(whole) = whole.and_then(|n| format!("{n:.0}").parse::<i64>().ok()) {
            *field = whole.into();
        }
    }
}

pub(super) fn known_node(api: &ApiState, name: &str) -> Result<NodeName, ApiError> {
    let status = api.snapshot();
    let found = status.nodes.iter().find(|n| n.name.as_str() == name).map(|n| n.name.clone());
    found.ok_or_else(|| ApiError::unknown("node", name, status.nodes.iter().map(|n| &n.name)))
}

pub(super) fn known_group(api: &ApiState, name: &str) -> Result<GroupName, ApiError> {
    let status = api.snapshot();
    let found = status.groups.iter().find(|g| g.name.as_str() == name).map(|g| g.name.clone());
    found.ok_or_else(|| ApiError::unknown("group", name, status.groups.iter().map(|g| &g.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_may_be_written_as_json_schema_allows() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Body {
            n: i64,
        }
        let read =
            |text: &str| parse::<Body>(&HeaderMap::new(), text.as_bytes(), "{}").map(|body| body.n).ok();
        let cases = [("12", Some(12)), ("12.0", Some(12)), ("-1.2e1", Some(-12)), ("1e3", Some(1000))];
        let refused = [("12.5", None), ("1e300", None), ("\"12\"", None), ("null", None)];
        for (number, expected) in cases.into_iter().chain(refused) {
            assert_eq!(read(&format!("{{\"n\": {number}}}")), expected, "{number}");
        }
    }
}
