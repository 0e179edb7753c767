//! Who may call what: the role that a route needs, held against the role of whoever asks.
//!
//! The security layer authenticates a request and puts a [`Principal`] in its extensions, or answers 401 itself. This
//! layer only compares roles, so that a route is as protected as the group it stands in, and nothing else has to be
//! remembered when one is added.

use super::ApiState;
use super::openapi;
use super::problem::ApiError;
use crate::security::{Principal, Role, Via};
use axum::extract::{Request, State};
use axum::http::Extensions;
use axum::middleware::{self, Next};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;

/// The routes of `router` need `role`: enforced, and written into their description.
pub(super) fn needs(mut router: OpenApiRouter<ApiState>, role: Role) -> OpenApiRouter<ApiState> {
    openapi::describe_role(router.get_openapi_mut(), role);
    router.route_layer(middleware::from_fn_with_state(role, allow))
}

/// Who asks. A request without a principal means that authentication is switched off: everybody is admin.
pub(super) fn principal(extensions: &Extensions) -> Result<Principal, ApiError> {
    match extensions.get::<Principal>() {
        Some(principal) => Ok(principal.clone()),
        None => Ok(Principal {
            name: "anybody".to_owned(),
            role: Role::Admin,
            via: Via::Nothing,
            from: "unknown".to_owned(),
        }),
    }
}

async fn allow(State(role): State<Role>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let principal = principal(request.extensions())?;
    if principal.role < role {
        return Err(ApiError::forbidden(format!(
            "{} {} needs the role {role}; '{}' is {}. Use a token or certificate with that role.",
            request.method(),
            request.uri().path(),
            principal.name,
            principal.role
        )));
    }
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}
