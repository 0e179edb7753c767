//! `/v1/tokens`: tokens are made, listed and revoked by administrators. The token itself is answered once, when it is made.

use super::ApiState;
use super::problem::ApiError;
use crate::security::guard::unix_now;
use crate::security::token::{TokenInfo, generate};
use crate::security::tokens::MAX_TOKENS;
use crate::security::{Principal, Role, Security, Sensitive};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Ten years: whoever needs more makes one that does not end.
const EXPIRES_MAX_S: i64 = 10 * 365 * 24 * 3600;

/// What `POST /v1/tokens` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is; lower-case letters, digits, '-', '_' and '.'.
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,62}$", examples("monitor"))]
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Seconds until it ends; none = when it is revoked.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315_360_000, examples(7_776_000))]
    pub expires_in_s: Option<i64>,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// One sentence.
    pub message: String,
    /// What is kept of it.
    pub info: TokenInfo,
    /// The token. It cannot be asked for again: only its hash is kept.
    #[schema(value_type = String)]
    pub token: Sensitive,
}

fn security(api: &ApiState) -> Result<&Arc<Security>, ApiError> {
    api.security.as_ref().ok_or_else(|| ApiError::unavailable("This agent has no tokens.".to_owned()))
}

fn away(error: String) -> ApiError {
    ApiError::unavailable(format!(
        "Tokens are made and revoked in etcd, which does not answer: {error}. Try again."
    ))
}

/// All tokens, without their secrets.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    operation_id = "listTokens",
    tag = "access",
    responses((status = 200, description = "By name.", body = Vec<TokenInfo>))
)]
pub(super) async fn list(State(api): State<ApiState>) -> Result<Json<Vec<TokenInfo>>, ApiError> {
    let mut all = security(&api)?.vault.all().await.map_err(away)?;
    all.sort_by(|a, b| (&a.name, a.created, &a.id).cmp(&(&b.name, b.created, &b.id)));
    Ok(Json(all.iter().map(crate::security::token::TokenRecord::info).collect()))
}

/// Make a token.
///
/// The answer holds it, this once.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    operation_id = "createToken",
    tag = "access",
    request_body(content = NewToken, example = json!({"name": "monitor", "role": "viewer", "expires_in_s": 7_776_000})),
    responses((status = 201, description = "Made; good at this agent at once, at the others within a second.", body = TokenMade))
)]
pub(super) async fn create(
    State(api): State<ApiState>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<TokenMade>), ApiError> {
    let expected = r#"{"name": "…", "role": "viewer" | "operator" | "admin", "expires_in_s": SECONDS}"#;
    let request: NewToken = super::write::parse(&headers, &body, expected)?;
    let name = NodeName::new(request.name.as_str()).map_err(|_| {
        ApiError::bad_request(
            "The name may have lower-case letters, digits, '-', '_' and '.', at most 63; it begins with a letter or \
             digit."
                .to_owned(),
        )
    })?;
    if let Some(seconds) = request.expires_in_s
        && !(1..=EXPIRES_MAX_S).contains(&seconds)
    {
        return Err(ApiError::bad_request("A token ends in 1 second to 10 years, or never.".to_owned()));
    }
    let security = security(&api)?;
    let all = security.vault.all().await.map_err(away)?;
    if all.len() >= MAX_TOKENS {
        return Err(ApiError::refused(format!(
            "There are {MAX_TOKENS} tokens. Revoke some: 'baton token list'."
        )));
    }
    let now = unix_now();
    let expires = request.expires_in_s.map(|s| now + s);
    let (record, token) = generate(name.as_str(), request.role, &who.name, now, expires);
    security.vault.add(record.clone()).await.map_err(away)?;
    // Good at this agent at once; the others follow within a second. Those known here stay: an etcd that was emptied has
    // revoked none of them.
    security.tokens.add(record.clone());
    let message = format!("token {} of {name} with the role {} made", record.id, request.role);
    Ok((StatusCode::CREATED, Json(TokenMade { message, info: record.info(), token })))
}

/// Revoke a token.
///
/// At this agent at once, at the others within a second, at one that does not reach etcd when it does again.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    operation_id = "revokeToken",
    tag = "access",
    params(("id" = String, Path, description = "The part between the token's two underscores.", example = "0123456789ab")),
    responses((status = 200, description = "Revoked.", body = super::Accepted))
)]
pub(super) async fn revoke(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<super::Accepted>, ApiError> {
    let security = security(&api)?;
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(ApiError::not_found(format!("'{id}' is no token's id. See 'baton token list'.")));
    }
    let held = security.vault.remove(id.clone()).await.map_err(away)?;
    if !security.tokens.remove(&id) && !held {
        return Err(ApiError::not_found(format!("There is no token {id}. See 'baton token list'.")));
    }
    let message = if held {
        format!("token {id} revoked")
    } else {
        format!(
            "token {id} revoked at this agent; etcd did not hold it: if etcd was emptied, revoke it at every agent before \
             'baton cluster recover'"
        )
    };
    Ok(Json(super::Accepted { message, ..super::Accepted::default() }))
}
