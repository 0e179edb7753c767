//! The specification as a resource: read, replaced under `If-Match`, its history, and going back.
//!
//! `PUT` takes the document as YAML. Variables have been replaced by whoever sends it: an agent has no environment of
//! the operator's to ask. Problem documents carry `current`, `errors` or `changes` where they help.

use super::etag::{Tag, Tagged};
use super::problem::{ApiError, ProblemDocument};
use super::{ApiState, CommandError};
use crate::security::Principal;
use crate::spec::{Change, SpecErrors};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A specification to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apply {
    /// The document, variables replaced.
    pub text: String,
    /// The version it was made from; none for "whatever is there".
    pub expected: Option<i64>,
    /// Only say what would change.
    pub dry_run: bool,
    /// Why, for the history.
    pub message: String,
    /// Who, for the history.
    pub by: String,
    /// From where.
    pub from: String,
}

/// What applying did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Version in force after this call.
    pub version: i64,
    /// Version before.
    pub previous: i64,
    /// Whether it was written: not by a dry run, and not if the document is the one in force.
    pub applied: bool,
    /// What changes, and what follows from it.
    pub changes: Vec<Change>,
}

/// A specification that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecVersion {
    /// Its version.
    pub version: i64,
    /// When it was applied, RFC 3339.
    pub at: String,
    /// Who applied it.
    pub by: String,
    /// From where.
    pub from: String,
    /// Why, in their words.
    pub message: String,
    /// The document; left out in lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// Why a specification was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is not valid.
    #[error("{0}")]
    Invalid(SpecErrors),
    /// Another version is in force than the one it was made from.
    #[error("version {current} is in force, not {expected}")]
    Changed {
        /// What was expected.
        expected: i64,
        /// What is there.
        current: i64,
    },
    /// Something in it cannot be applied to the running cluster.
    #[error("some of the changes are refused")]
    Refused {
        /// Version in force.
        current: i64,
        /// All changes, the refused ones among them.
        changes: Vec<Change>,
    },
    /// Anything else.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// One thing that is wrong with a specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// Line, from 1; 0 if it concerns the document as a whole.
    line: usize,
    /// Column, from 1; 0 if it is not known.
    column: usize,
    /// The field, e.g. `groups.web.volumes.webstore.size`.
    field: String,
    /// What is wrong and what to do about it.
    message: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    message: String,
}

/// An earlier specification that shall be in force again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackRequest {
    /// Its version.
    version: i64,
    /// Why, for the history.
    #[serde(default)]
    message: String,
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

type Caller = Option<Extension<Principal>>;
type Answer = Result<(StatusCode, Tagged<Json<Applied>>), ApiError>;

/// Puts a specification into force.
///
/// The body is the document as YAML, variables already replaced. It is checked as a whole, compared with the one in force,
/// and written if nothing in it is refused; agents take it over while everything runs. The answer says what changes and what
/// follows from each change. The same document again changes nothing.
#[utoipa::path(
    put,
    path = "/v1/spec",
    operation_id = "applySpec",
    tag = "specification",
    params(
        ("dry_run" = Option<bool>, Query, description = "Only say what would change."),
        ("message" = Option<String>, Query, description = "Why, for the history; at most 500 characters are kept."),
        ("If-Match" = String, Header, description = "The version that the document was made from (`ETag` of `GET` here), or `*`.")
    ),
    request_body(content = String, content_type = "application/yaml", description = "The specification."),
    responses(
        (status = 200, description = "Nothing was written: a dry run, or the document that is in force.", body = Applied),
        (status = 202, description = "Written; the agents take it over. What changes, and what follows from it.", body = Applied),
        (status = 409, description = "Something in it is refused; `changes` says what, and what to do instead.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 412, description = "Another version is in force; `current` names it.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "It is not valid; `errors` has everything that is wrong.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 428, description = "`If-Match` is missing.", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn replace(
    State(api): State<ApiState>,
    Query(query): Query<ApplyQuery>,
    headers: HeaderMap,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let not_text = |_| ApiError::bad_request("The body is not UTF-8. Send the specification as YAML.".into());
    let text = String::from_utf8(body.to_vec()).map_err(not_text)?;
    let apply = Apply { text, dry_run: query.dry_run, message: query.message, ..Apply::default() };
    carry_out(&api, &headers, caller, apply).await
}

/// Puts an earlier specification into force again, as a new version.
#[utoipa::path(
    post,
    path = "/v1/spec/rollback",
    operation_id = "rollbackSpec",
    tag = "specification",
    params(("If-Match" = String, Header, description = "The version in force (`ETag` of `GET /v1/spec`), or `*`.")),
    request_body(content = RollbackRequest, example = json!({"version": 12})),
    responses(
        (status = 200, description = "Nothing was written: a dry run, or the document that is in force.", body = Applied),
        (status = 202, description = "Written; the agents take it over. What changes, and what follows from it.", body = Applied),
        (status = 404, description = "The history does not have that version.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Something in it is refused.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 412, description = "Another version is in force.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "It is not valid for this version of Baton.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 428, description = "`If-Match` is missing.", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn rollback(
    State(api): State<ApiState>,
    headers: HeaderMap,
    caller: Caller,
    body: Bytes,
) -> Answer {
    let request: RollbackRequest = super::write::parse(&headers, &body, r#"{"version": N}"#)?;
    let entry = entry(&api, request.version).await?;
    let message = match request.message.as_str() {
        "" => format!("back to version {}", entry.version),
        why => format!("back to version {}: {why}", entry.version),
    };
    let apply = Apply { text: entry.text, dry_run: request.dry_run, message, ..Apply::default() };
    carry_out(&api, &headers, caller, apply).await
}

/// The specifications that were in force, newest first, without their documents.
#[utoipa::path(
    get,
    path = "/v1/spec/history",
    operation_id = "getSpecHistory",
    tag = "specification",
    responses((status = 200, description = "The newest 50.", body = Vec<SpecVersion>))
)]
pub(super) async fn history(State(api): State<ApiState>) -> Result<Json<Vec<SpecVersion>>, ApiError> {
    let mut all = api.commands.spec_history().await?;
    all.reverse();
    Ok(Json(all.into_iter().map(|v| SpecVersion { text: String::new(), ..v }).collect()))
}

/// A specification that was in force, with its document.
#[utoipa::path(
    get,
    path = "/v1/spec/history/{version}",
    operation_id = "getSpecVersion",
    tag = "specification",
    params(("version" = i64, Path, description = "Its version.")),
    responses(
        (status = 200, description = "The specification.", body = SpecVersion),
        (status = 404, description = "The history does not have it.", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn version(
    State(api): State<ApiState>,
    Path(version): Path<String>,
) -> Result<Json<SpecVersion>, ApiError> {
    let no_number =
        |_| ApiError::bad_request(format!("'{version}' is not a version: they are whole numbers."));
    let number = version.parse::<i64>().map_err(no_number)?;
    Ok(Json(entry(&api, number).await?))
}

async fn entry(api: &ApiState, version: i64) -> Result<SpecVersion, ApiError> {
    let all = api.commands.spec_history().await?;
    let known: Vec<String> = all.iter().rev().take(10).map(|v| v.version.to_string()).collect();
    all.into_iter().find(|v| v.version == version).ok_or_else(|| {
        ApiError::not_found(format!(
            "There is no version {version} in the history, which keeps the newest {}. The last ones are {}.",
            crate::etcd::SPECS_KEPT,
            known.join(", ")
        ))
    })
}

async fn carry_out(api: &ApiState, headers: &HeaderMap, caller: Caller, mut apply: Apply) -> Answer {
    apply.expected = if_match(headers)?;
    match caller {
        Some(Extension(principal)) => (apply.by, apply.from) = (principal.name, principal.from),
        None => apply.by = "anybody".into(),
    }
    match api.commands.apply_spec(apply).await {
        Ok(applied) => {
            let status = if applied.applied { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok((status, Tagged(Tag::of_version(applied.version), Json(applied))))
        }
        Err(error) => Err(refusal(error)),
    }
}

/// The version asked for: `"12"`, `12`, or none for `*`. Without one the change would be made blindly.
fn if_match(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let missing = || {
        ApiError::unconditional(
            "Send If-Match with the version that the document was made from (the ETag of GET /v1/spec), or * to replace \
             whatever is there."
                .into(),
        )
    };
    let value = headers.get(header::IF_MATCH).ok_or_else(missing)?;
    let text = value.to_str().unwrap_or_default().trim();
    match (text, text.trim_matches('"').parse::<i64>()) {
        ("*", _) => Ok(None),
        (_, Ok(version)) => Ok(Some(version)),
        // A tag of another kind is that of no version.
        (_, Err(_)) => Ok(Some(-1)),
    }
}

fn refusal(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Command(error) => error.into(),
        ApplyError::Changed { expected, current } => {
            let detail = format!(
                "Version {current} is in force, not {expected}: somebody else was faster. Look at what changed ('baton \
                 spec diff'), and apply yours again if it is still right."
            );
            ApiError::changed(detail, Some(Tag::of_version(current).to_string()))
        }
        ApplyError::Refused { current, changes } => {
            let of = |c: &Change| format!("{}: {}", c.what, c.consequence);
            let refused: Vec<String> = changes.iter().filter(|c| c.refused).map(of).collect();
            let detail = format!("Nothing was applied. {}.", refused.join(". "));
            ApiError::refused_spec(detail, Tag::of_version(current).to_string(), changes)
        }
        ApplyError::Invalid(errors) => {
            let of = |e: &crate::spec::SpecError| FieldError {
                line: e.line,
                column: e.column,
                field: e.path.clone(),
                message: e.message.clone(),
            };
            let detail = format!("{} to correct; nothing was applied:\n{errors}", errors.errors.len());
            ApiError::invalid_spec(detail, errors.errors.iter().map(of).collect())
        }
    }
}
