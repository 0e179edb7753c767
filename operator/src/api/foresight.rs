//! `GET /v1/groups/{group}/explain` and `GET /v1/what-if`: what follows from the snapshot. Nothing is changed.

use super::ApiState;
use super::problem::ApiError;
use super::write::known_group;
use crate::explain::{Explanation, explain};
use crate::whatif::{Fault, WhatIf, foresee};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use baton_replicator::types::GroupName;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

/// A forecast needs a few milliseconds of one core per group that differs from the others; so many run at once.
static FORECASTS: Semaphore = Semaphore::const_new(1);
/// The history is asked for how long starts took; a forecast without etcd goes without.
const HISTORY_LIMIT: Duration = Duration::from_millis(800);
/// Entries of the history that are looked through: all of them.
const HISTORY: usize = 1000;

/// Why a group is where it is, and what would change it.
///
/// The facts (held, lost, unknown), the rule in force with its figures, the reasons, and what would change it, as this
/// agent knows them. The leader's own agent knows more than others: until when it may serve, and on whose promises.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}/explain",
    operation_id = "explainGroup",
    tag = "groups",
    params(("group" = GroupName, Path, description = "Name of the group.")),
    responses((status = 200, description = "The explanation.", body = Explanation))
)]
pub(super) async fn explain_group(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Explanation>, ApiError> {
    let status = api.snapshot();
    let group = status.groups.iter().find(|g| g.name.as_str() == name);
    let group =
        group.ok_or_else(|| ApiError::unknown("group", &name, status.groups.iter().map(|g| &g.name)))?;
    Ok(Json(explain(&status, group)))
}

/// What goes down, and for which group the answer is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WhatIfQuery {
    /// What goes down, all at one moment, separated by commas: a node (`alpha`: its power is cut), `etcd` (all of it),
    /// `link` or `link:2` (a network between the nodes, in the order of the specification), `agent:NODE` (only its agent
    /// dies), `cable:NODE` (every cable is pulled), `etcd:NODE` (its way to etcd). At most 16. Nothing without it: how
    /// things go on as they stand.
    #[param(example = "alpha,etcd")]
    down: Option<String>,
    /// Only this group. All groups without it.
    group: Option<GroupName>,
}

/// What would happen if a node, etcd or a link went down now.
///
/// The decision cores of all nodes are run through the fault in simulated time, from the state this agent knows: who takes
/// over and when, who leaves the in-sync set, or why nobody can. Nothing is changed. How long a start takes is that of the
/// newest one recorded; unknown if there is none.
#[utoipa::path(
    get,
    path = "/v1/what-if",
    operation_id = "whatIf",
    tag = "status",
    params(WhatIfQuery),
    responses(
        (status = 200, description = "The forecast.", body = WhatIf),
        (status = 404, description = "What goes down, or the group, is not known here.", body = super::problem::ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn what_if(
    State(api): State<ApiState>,
    query: Result<Query<WhatIfQuery>, QueryRejection>,
) -> Result<Json<WhatIf>, ApiError> {
    let Query(WhatIfQuery { down, group }) = query.map_err(|error| {
        ApiError::bad_request(format!("{}. Ask with ?down=alpha or ?down=alpha,etcd.", error.body_text()))
    })?;
    let group = group.map(|g| known_group(&api, g.as_str())).transpose()?;
    let status = api.snapshot();
    let faults = down.map(|down| Fault::list(&down, &status)).transpose().map_err(ApiError::not_found)?;
    let faults = faults.unwrap_or_default();
    let history = tokio::time::timeout(HISTORY_LIMIT, api.commands.events(HISTORY)).await;
    let history = history.ok().and_then(Result::ok).unwrap_or_default();
    // Never closed.
    let _turn = FORECASTS.acquire().await;
    let look = move || foresee(&status, &faults, group.as_ref(), &history);
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen.map(Json).map_err(ApiError::not_found),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::fake::Fake;
    use crate::api::{ApiState, router};
    use crate::cli::fixture;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use std::sync::Arc;
    use tower::ServiceExt;

    async fn ask(uri: &str) -> (StatusCode, Value) {
        let (_status, receiver) = tokio::sync::watch::channel(fixture::healthy());
        let app = router(ApiState::new(receiver, Arc::new(Fake::default())));
        let answer = app.oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_forecast_names_who_takes_over_and_when() {
        let (status, seen) = ask("/v1/what-if?down=alpha").await;
        assert_eq!(status, StatusCode::OK, "{seen}");
        let web = &seen["groups"][0];
        assert_eq!((web["verdict"].as_str(), web["after"].as_str()), (Some("takeover"), Some("beta")));
        let leads = web["leads_ms"].as_u64().unwrap();
        assert!((1500..1600).contains(&leads), "{web}");
        assert_eq!(
            web["serves_ms"].as_u64().unwrap(),
            leads + 564,
            "as long as the newest start took: {web}"
        );
    }

    #[tokio::test]
    async fn without_a_fault_things_go_on_as_they_stand() {
        let (status, seen) = ask("/v1/what-if").await;
        assert_eq!((status, seen["down"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)));
        assert_eq!(seen["groups"][0]["verdict"], "goes_on", "{seen}");
    }

    #[tokio::test]
    async fn what_is_not_known_is_said() {
        for (uri, expected, word) in [
            ("/v1/what-if?down=gamma", StatusCode::NOT_FOUND, "alpha, beta"),
            ("/v1/what-if?down=link:9", StatusCode::NOT_FOUND, "there is no link 9"),
            ("/v1/what-if?down=alpha&group=nix", StatusCode::NOT_FOUND, "web"),
            ("/v1/what-if?down=,", StatusCode::NOT_FOUND, "nothing goes down"),
            ("/v1/what-if?up=alpha", StatusCode::BAD_REQUEST, "down"),
            ("/v1/groups/nix/explain", StatusCode::NOT_FOUND, "web"),
        ] {
            let (status, answer) = ask(uri).await;
            assert_eq!(status, expected, "{uri}: {answer}");
            assert!(answer["detail"].as_str().unwrap().contains(word), "{uri}: {answer}");
        }
    }

    #[tokio::test]
    async fn an_explanation_has_facts_and_the_rule() {
        let (status, seen) = ask("/v1/groups/web/explain").await;
        assert_eq!((status, seen["health"].as_str()), (StatusCode::OK, Some("ok")));
        assert!(seen["rule"][0].as_str().unwrap().contains("E = {beta}"), "{seen}");
    }
}
