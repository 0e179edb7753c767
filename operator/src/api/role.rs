//! Role questions: answered by status code for load balancers and scripts, with one line of text for people.
//!
//! 200 = yes, 503 = no, 400 = the question is unclear, 404 = no such group.

use super::ApiState;
use crate::status::{ClusterStatus, GroupNode, GroupState, GroupStatus};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use baton_replicator::types::GroupName;
use serde::Deserialize;

/// Questions answered by one line of text, also when the answer is no.
pub(super) const PATHS: [&str; 5] = ["/leader", "/standby", "/livez", "/readyz", "/healthz"];

type Answer = (StatusCode, String);

#[derive(Deserialize)]
pub(super) struct Which {
    group: Option<String>,
}

/// Does this node lead the group and serve it?
///
/// For load balancers that should send traffic to the leader only.
#[utoipa::path(
    get,
    path = "/leader",
    operation_id = "isLeader",
    tag = "health",
    params(("group" = Option<GroupName>, Query, description = "Name of the group; may be left out if there is only one.")),
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 400, description = "There are several groups: say which.", body = String, content_type = "text/plain"),
        (status = 404, description = "No such group.", body = String, content_type = "text/plain"),
        (status = 503, description = "No; the text says why.", body = String, content_type = "text/plain")
    )
)]
pub(super) async fn leader(State(api): State<ApiState>, Query(which): Query<Which>) -> Answer {
    answer(&api.snapshot(), &which, |node, group, own| {
        let leads = group.leader.as_ref().is_some_and(|leader| leader.as_str() == node);
        match own {
            Some(own) if leads && own.state == GroupState::Serving => {
                Ok(format!("{node} serves {}", group.name))
            }
            _ => Err(format!("{node} does not serve {}: {}", group.name, why(own))),
        }
    })
}

/// Could this node take the group over now?
#[utoipa::path(
    get,
    path = "/standby",
    operation_id = "isStandby",
    tag = "health",
    params(("group" = Option<GroupName>, Query, description = "Name of the group; may be left out if there is only one.")),
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 400, description = "There are several groups: say which.", body = String, content_type = "text/plain"),
        (status = 404, description = "No such group.", body = String, content_type = "text/plain"),
        (status = 503, description = "No; the text says why.", body = String, content_type = "text/plain")
    )
)]
pub(super) async fn standby(State(api): State<ApiState>, Query(which): Query<Which>) -> Answer {
    answer(&api.snapshot(), &which, |node, group, own| match own {
        Some(own) if own.state == GroupState::Standby && own.ready => {
            Ok(format!("{node} is a ready standby of {}", group.name))
        }
        _ => Err(format!("{node} is no ready standby of {}: {}", group.name, why(own))),
    })
}

/// Does the agent live?
///
/// Whether its decision core has run in the last five seconds. Not whether the cluster is well: a restart would not help.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "isAlive",
    tag = "health",
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 503, description = "The decision core hangs: restart the agent.", body = String, content_type = "text/plain")
    )
)]
pub(super) async fn livez(State(api): State<ApiState>) -> Answer {
    if api.commands.core_alive() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the decision core has not run lately: see the agent's log\n".to_owned(),
        )
    }
}

/// Does the agent live and know the state of all its groups?
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "isReady",
    tag = "health",
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 503, description = "Not yet; the text says what is missing.", body = String, content_type = "text/plain")
    )
)]
pub(super) async fn readyz(State(api): State<ApiState>) -> Answer {
    let status = api.snapshot();
    let no = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    if !api.commands.core_alive() {
        return no("the decision core has not run lately: see the agent's log".to_owned());
    }
    let unknown = status
        .groups
        .iter()
        .find(|group| own_part(&status, group).is_none_or(|own| own.state == GroupState::Unknown));
    match unknown {
        Some(group) => no(format!("the state of group {} is not known yet: {}", group.name, group.reason)),
        None if status.nodes.is_empty() => no("the agent has no specification yet".to_owned()),
        None => (StatusCode::OK, "ok\n".to_owned()),
    }
}

/// The same question as `/livez`, under the name that many tools ask first.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "isHealthy",
    tag = "health",
    responses(
        (status = 200, description = "Yes.", body = String, content_type = "text/plain"),
        (status = 503, description = "The decision core hangs: restart the agent.", body = String, content_type = "text/plain")
    )
)]
pub(super) async fn healthz(state: State<ApiState>) -> Answer {
    livez(state).await
}

fn answer(
    status: &ClusterStatus,
    which: &Which,
    judge: impl Fn(&str, &GroupStatus, Option<&GroupNode>) -> Result<String, String>,
) -> Answer {
    let names = || status.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
    let group = match (&which.group, status.groups.as_slice()) {
        (Some(name), groups) => match groups.iter().find(|g| g.name.as_str() == name) {
            Some(group) => group,
            None => {
                return (StatusCode::NOT_FOUND, format!("there is no group '{name}'; known: {}\n", names()));
            }
        },
        (None, [only]) => only,
        (None, _) => {
            return (StatusCode::BAD_REQUEST, format!("say which group: ?group=NAME; known: {}\n", names()));
        }
    };
    match judge(status.node.as_str(), group, own_part(status, group)) {
        Ok(yes) => (StatusCode::OK, format!("{yes}\n")),
        Err(no) => (StatusCode::SERVICE_UNAVAILABLE, format!("{no}\n")),
    }
}

fn own_part<'a>(status: &ClusterStatus, group: &'a GroupStatus) -> Option<&'a GroupNode> {
    group.nodes.iter().find(|part| part.node == status.node)
}

fn why(own: Option<&GroupNode>) -> String {
    match own {
        None => "it is no candidate".to_owned(),
        Some(own) if own.reason.is_empty() => format!("it is {}", crate::cli::words::group_state(own.state)),
        Some(own) => format!("it is {}: {}", crate::cli::words::group_state(own.state), own.reason),
    }
}
