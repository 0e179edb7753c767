//! Reads: parts of the status snapshot, plain or live, and what etcd holds.

use super::etag::{Tag, Tagged};
use super::problem::ApiError;
use super::write::known_group;
use super::{ApiState, SpecDocument, live};
use crate::security::{Principal, Role};
use crate::status::{ClusterStatus, GroupStatus, NodeStatus};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use serde::Serialize;
use utoipa::ToSchema;

/// A client asks for server-sent events by `Accept`.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.contains("text/event-stream")
}

/// An answer tagged by what a decision rests on.
fn facts<T: Serialize>(facts: T) -> Tagged<Json<T>> {
    Tagged(Tag::of_facts(&facts), Json(facts))
}

/// Everything at once, as this agent sees it.
///
/// With `Accept: text/event-stream` the same live: an event `status` with the snapshot as JSON at once and at each change,
/// at most four a second. A slow client is sent the newest snapshot when it is ready for it; what lay between is left out.
///
/// The `ETag` covers what a decision rests on (roles, states, modes, membership), not what is measured (ages, lag,
/// counters, progress): a 304 says that nothing has happened.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "getStatus",
    tag = "status",
    responses((
        status = 200,
        description = "The snapshot, or the stream of snapshots.",
        content((ClusterStatus = "application/json"), (String = "text/event-stream")),
        links(
            ("group" = (operation_id = "getGroup", parameters(("group" = "$response.body#/groups/0/name")))),
            ("node" = (operation_id = "getNode", parameters(("node" = "$response.body#/nodes/0/name")))),
            ("mode" = (operation_id = "getNodeMode", parameters(("node" = "$response.body#/nodes/1/name")))),
            ("volume" = (operation_id = "getVolume", parameters(("volume" = "$response.body#/groups/0/volumes/0/volume"))))
        )
    ))
)]
pub(super) async fn status(State(api): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    if wants_stream(request.headers()) {
        let slot = api.gate.stream(request.extensions())?;
        let whole = |view: &super::view::View| String::from_utf8(view.json().to_vec()).ok();
        return Ok(live::stream(&api, slot, "status", whole));
    }
    let view = api.views.newest();
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Tagged(view.tag(), ([kind], view.json())).into_response())
}

/// All groups.
#[utoipa::path(
    get,
    path = "/v1/groups",
    operation_id = "getGroups",
    tag = "groups",
    responses((status = 200, description = "The groups, by name.", body = Vec<GroupStatus>))
)]
pub(super) async fn groups(State(api): State<ApiState>) -> Tagged<Json<Vec<GroupStatus>>> {
    facts(api.snapshot().groups.clone())
}

/// One group: who leads it, since which epoch, who could take it over and why not.
///
/// With `Accept: text/event-stream` live, as events `group`; the stream ends when the group leaves the specification.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}",
    operation_id = "getGroup",
    tag = "groups",
    params(("group" = GroupName, Path, description = "Name of the group.")),
    responses((
        status = 200,
        description = "The group, or its stream.",
        content((GroupStatus = "application/json"), (String = "text/event-stream")),
        links(
            ("target" = (operation_id = "getTarget", parameters(("group" = "$response.body#/name")))),
            ("move" = (operation_id = "moveGroup", parameters(("group" = "$response.body#/name"))))
        )
    ))
)]
pub(super) async fn group(
    State(api): State<ApiState>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let group = known_group(&api, &name)?;
    let find = move |status: &ClusterStatus| status.groups.iter().find(|g| g.name == group).cloned();
    if wants_stream(request.headers()) {
        let slot = api.gate.stream(request.extensions())?;
        let text = move |view: &super::view::View| serde_json::to_string(&find(&view.status)?).ok();
        return Ok(live::stream(&api, slot, "group", text));
    }
    let status = api.snapshot();
    match find(&status) {
        Some(group) => Ok(facts(group).into_response()),
        None => Err(ApiError::unknown("group", &name, status.groups.iter().map(|g| &g.name))),
    }
}

/// The node that somebody asked for as leader of a group.
#[derive(Serialize, ToSchema)]
pub(super) struct Target {
    /// The group.
    group: GroupName,
    /// The node; none if no move waits.
    target: Option<NodeName>,
    /// Version of the wish in etcd, as in the `ETag`; 0 if there is none.
    #[schema(examples(17))]
    version: i64,
}

/// A move that waits: where a group was asked to go.
///
/// Read from etcd. The `ETag` is the wish's version, for `If-Match` of a move or of its cancellation.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}/target",
    operation_id = "getTarget",
    tag = "groups",
    params(("group" = GroupName, Path, description = "Name of the group.")),
    responses((status = 200, description = "The target, if there is one.", body = Target))
)]
pub(super) async fn target(
    State(api): State<ApiState>,
    Path(group): Path<String>,
) -> Result<Tagged<Json<Target>>, ApiError> {
    let group = known_group(&api, &group)?;
    let wish = api.commands.target(group.clone()).await?;
    let target = Target { group, target: wish.value, version: wish.version };
    Ok(Tagged(Tag::of_version(wish.version), Json(target)))
}

/// All nodes.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    operation_id = "getNodes",
    tag = "nodes",
    responses((status = 200, description = "The nodes, by name.", body = Vec<NodeStatus>))
)]
pub(super) async fn nodes(State(api): State<ApiState>) -> Tagged<Json<Vec<NodeStatus>>> {
    facts(api.snapshot().nodes.clone())
}

/// One node: whether it is heard, and what it may do.
#[utoipa::path(
    get,
    path = "/v1/nodes/{node}",
    operation_id = "getNode",
    tag = "nodes",
    params(("node" = NodeName, Path, description = "Name of the node.")),
    responses((status = 200, description = "The node.", body = NodeStatus))
)]
pub(super) async fn node(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Tagged<Json<NodeStatus>>, ApiError> {
    let status = api.snapshot();
    match status.nodes.iter().find(|n| n.name.as_str() == name) {
        Some(node) => Ok(facts(node.clone())),
        None => Err(ApiError::unknown("node", &name, status.nodes.iter().map(|n| &n.name))),
    }
}

/// All volumes with a replica on the node that answers.
#[utoipa::path(
    get,
    path = "/v1/volumes",
    operation_id = "getVolumes",
    tag = "volumes",
    responses((status = 200, description = "The volumes.", body = Vec<VolumeStatus>))
)]
pub(super) async fn volumes(State(api): State<ApiState>) -> Tagged<Json<Vec<VolumeStatus>>> {
    facts(api.snapshot().groups.iter().flat_map(|g| g.volumes.clone()).collect())
}

/// One volume: role, disk state, and each peer's connection, dirty bytes and resync.
///
/// As the answering node's replicator sees it; ask another node for its view.
#[utoipa::path(
    get,
    path = "/v1/volumes/{volume}",
    operation_id = "getVolume",
    tag = "volumes",
    params(("volume" = VolumeName, Path, description = "Name of the volume.")),
    responses((status = 200, description = "The volume.", body = VolumeStatus))
)]
pub(super) async fn volume(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Tagged<Json<VolumeStatus>>, ApiError> {
    let status = api.snapshot();
    let mut volumes = status.groups.iter().flat_map(|g| &g.volumes);
    match volumes.find(|v| v.volume.as_str() == name) {
        Some(volume) => Ok(facts(volume.clone())),
        None => {
            let known = status.groups.iter().flat_map(|g| &g.volumes).map(|v| &v.volume);
            Err(ApiError::unknown("volume with a replica on this node", &name, known))
        }
    }
}

/// The specification in force.
///
/// Read from etcd. The `ETag` is its version. Only an administrator sees values that may be secret (environment,
/// passwords); for others they are hidden, and such a copy cannot be applied.
#[utoipa::path(
    get,
    path = "/v1/spec",
    operation_id = "getSpec",
    tag = "specification",
    responses(
        (status = 200, description = "The document and its version.", body = SpecDocument),
        (status = 404, description = "etcd holds no specification yet.", body = super::problem::ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn spec(
    State(api): State<ApiState>,
    Extension(who): Extension<Principal>,
) -> Result<Tagged<Json<SpecDocument>>, ApiError> {
    let mut spec = api.commands.spec().await?;
    if who.role < Role::Admin {
        spec.text = crate::spec::masked(&spec.text);
    }
    Ok(Tagged(Tag::of_version(spec.version), Json(spec)))
}
