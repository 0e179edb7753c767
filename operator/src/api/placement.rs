//! Pinning and disabling a group: who said so and why.

use super::access::principal;
use super::mode::said;
use super::problem::ApiError;
use super::write::{Answer, DryRun, answer, known_group, known_node, parse};
use super::{Accepted, ApiState, How, Place, PlaceChange};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderMap};
use baton_replicator::types::{GroupName, NodeName};
use serde::Deserialize;
use utoipa::ToSchema;

const PIN: &str = r#"nothing, or {"to": "NODE", "reason": "…", "owner": "…"}, each as you like"#;
const DISABLE: &str = r#"nothing, or {"reason": "…", "owner": "…"}, each as you like"#;

/// Where a group shall stay, and why.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PinRequest {
    /// Move it there first; without it, it stays where it is.
    #[serde(default)]
    to: Option<NodeName>,
    /// Why, one line.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", examples("audit until Friday"))]
    reason: Option<String>,
    /// Whose business it is. Default: who asks.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", examples("ada"))]
    owner: Option<String>,
}

/// Why a group shall not run.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DisableRequest {
    /// Why, one line.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", examples("being replaced"))]
    reason: Option<String>,
    /// Whose business it is. Default: who asks.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", examples("ada"))]
    owner: Option<String>,
}

async fn place(
    api: &ApiState,
    group: &str,
    dry: &DryRun,
    extensions: &Extensions,
    what: Place,
    note: (Option<String>, Option<String>),
) -> Answer {
    let (owner, reason) = note;
    said(owner.as_deref(), reason.as_deref())?;
    let group = known_group(api, group)?;
    if let Place::Pin(Some(to)) = &what {
        known_node(api, to.as_str())?;
    }
    let change = PlaceChange { what, by: principal(extensions)?.name, owner, reason };
    let how = How { dry_run: dry.dry_run, expected: None };
    answer(api.commands.place_group(group, change, how).await?)
}

/// A body that may be left out, or `null`.
pub(super) fn body_of<T: Default + serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: &Bytes,
    expected: &str,
) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    Ok(parse::<Option<T>>(headers, body, expected)?.unwrap_or_default())
}

/// Pins a group: it stays on its node.
///
/// No failback, no move after gateways, and a move by command is refused. It still leaves a node that dies, that is put
/// into standby mode, or on which it cannot run; it stays then where it was taken over. With `to` it is moved to that node
/// first: refused (409) if that node could not take it now. The pin stands until it is taken away, across restarts.
#[utoipa::path(
    put,
    path = "/v1/groups/{group}/pin",
    operation_id = "pinGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    request_body(content = Option<PinRequest>, example = json!({"to": "beta", "reason": "audit until Friday"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; every agent acts on it.", body = Accepted)
    )
)]
pub(super) async fn pin(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: PinRequest = body_of(&headers, &body, PIN)?;
    place(&api, &group, &query, &extensions, Place::Pin(request.to), (request.owner, request.reason)).await
}

/// Takes a pin away: the group may move by itself again.
#[utoipa::path(
    delete,
    path = "/v1/groups/{group}/pin",
    operation_id = "unpinGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "It is not pinned any more.", body = Accepted)
    )
)]
pub(super) async fn unpin(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
) -> Answer {
    place(&api, &group, &query, &extensions, Place::Unpin, (None, None)).await
}

/// Disables a group: its leader stops it in order, and nobody starts it.
///
/// Its volumes stay replicated and its in-sync set as it is. It stays stopped across restarts of agents and hosts, until
/// it is enabled. On a node in maintenance mode nothing is stopped before that ends.
#[utoipa::path(
    put,
    path = "/v1/groups/{group}/disabled",
    operation_id = "disableGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    request_body(content = Option<DisableRequest>, example = json!({"reason": "being replaced"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the leader stops it.", body = Accepted)
    )
)]
pub(super) async fn disable(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: DisableRequest = body_of(&headers, &body, DISABLE)?;
    place(&api, &group, &query, &extensions, Place::Disable, (request.owner, request.reason)).await
}

/// Enables a group: whoever may lead it starts it, preferred nodes first.
#[utoipa::path(
    delete,
    path = "/v1/groups/{group}/disabled",
    operation_id = "enableGroup",
    tag = "groups",
    params(
        ("group" = GroupName, Path, description = "Name of the group."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "It is not disabled any more.", body = Accepted)
    )
)]
pub(super) async fn enable(
    State(api): State<ApiState>,
    Path(group): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
) -> Answer {
    place(&api, &group, &query, &extensions, Place::Enable, (None, None)).await
}
