//! The OpenAPI 3.1 document: generated from the handlers and their types, completed by rule, served at
//! `/openapi.json`, browsable at `/docs`.
//!
//! What every operation of a kind has in common is added here rather than written at each: the role it needs, the
//! problems any request can end with, entity tags on reads. So the document cannot forget what the layers do.
//! `docs/openapi.json` holds the document; a test compares (`BATON_UPDATE_GOLDEN=1` writes it).

use super::ApiState;
use super::etag::Tag;
use super::problem::ProblemDocument;
use crate::security::Role;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, OpenApi as Document, Ref, RefOr, Required, Response as Answer,
    ResponseBuilder,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Where the document is.
pub(super) const DOCUMENT: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Baton",
        description = "Keeps a service alive on two or more hosts. Any agent answers for the whole cluster and says how \
                       old each fact is; a command is written as desired state and carried out by whichever agent it \
                       concerns.\n\nErrors are RFC 9457 problem documents whose `detail` says what to do next. Reads \
                       carry an `ETag` and answer `If-None-Match`; what is kept in etcd honours `If-Match`. Every \
                       answer names its request (`X-Request-Id`) and the node that gave it (`Baton-Node`).",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    servers((url = "/", description = "the agent that serves this document")),
    tags(
        (name = "status", description = "Everything at once, and live."),
        (name = "groups", description = "The units of failover: who leads, who could, and moving them."),
        (name = "nodes", description = "Hosts and what they may do."),
        (name = "volumes", description = "Replicas, connections, resync."),
        (name = "events", description = "What happened and why."),
        (name = "notifications", description = "Whom the cluster tells, and a test of it."),
        (name = "specification", description = "What the cluster should be."),
        (name = "health", description = "Role questions, answered by status code: for load balancers, engines and scripts. Open to everybody."),
        (name = "access", description = "Tokens and who has them."),
        (name = "monitoring", description = "Metrics and service discovery."),
        (name = "agent", description = "About the agent that answers."),
    ),
    components(schemas(ProblemDocument))
)]
struct Base;

/// The document before any operation is in it.
pub(super) fn base() -> Document {
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of the cluster, with a role."))
        .build();
    components.add_security_scheme("bearerAuth", SecurityScheme::Http(bearer));
    components.add_security_scheme(
        "mutualTLS",
        SecurityScheme::MutualTls {
            description: Some("A client certificate of the cluster's CA, with a role.".to_owned()),
            deprecated: None,
            extensions: None,
        },
    );
    for (name, description, header) in PROBLEMS {
        components.responses.insert(name.to_owned(), RefOr::T(problem(description, header)));
    }
    document
}

/// A header of an answer, with its description.
type AnswerHeader = Option<(&'static str, &'static str)>;

/// Problems that many operations share, by name in `components/responses`.
const PROBLEMS: [(&str, &str, AnswerHeader); 12] = [
    ("BadRequest", "The request does not make sense: a body or parameter is not what is expected.", None),
    (
        "Unauthorized",
        "Nobody was recognised: no token or certificate, or one that is not valid.",
        Some(("WWW-Authenticate", "How to authenticate.")),
    ),
    ("Forbidden", "The role does not allow it.", None),
    ("NotFound", "The specification has no such thing; `detail` lists what it has.", None),
    (
        "Conflict",
        "Understood and refused in the present state; or a request with this `Idempotency-Key` is still being carried out.",
        None,
    ),
    (
        "Changed",
        "`If-Match` names another version than the one in force, which is in `current`: look again, then repeat.",
        Some(("ETag", "The version in force.")),
    ),
    ("TooLarge", "The body is longer than 64 KiB.", None),
    ("MediaType", "The body is not `application/json`.", None),
    ("KeyReused", "The `Idempotency-Key` belongs to another request.", None),
    (
        "TooManyRequests",
        "This client, or all together, ask too much.",
        Some(("Retry-After", "Seconds to wait.")),
    ),
    ("Internal", "The agent failed; its log says why.", None),
    (
        "Unavailable",
        "Not possible right now: etcd is out of reach, or the agent was too slow. A command may have taken effect: look \
         before it is repeated.",
        Some(("Retry-After", "Seconds to wait.")),
    ),
];

fn text_header(description: &str) -> RefOr<utoipa::openapi::header::Header> {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    RefOr::T(HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build())
}

fn problem(description: &str, header: AnswerHeader) -> Answer {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let mut answer =
        ResponseBuilder::new().description(description).content("application/problem+json", content).build();
    if let Some((name, description)) = header {
        answer.headers.insert(name.to_owned(), text_header(description));
    }
    answer
}

/// Every operation, with its path and method.
pub(super) fn operations(
    document: &mut Document,
) -> impl Iterator<Item = (&str, &'static str, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let PathItem { get, put, post, delete, patch, .. } = item;
        [("GET", get), ("PUT", put), ("POST", post), ("DELETE", delete), ("PATCH", patch)]
            .into_iter()
            .filter_map(|(method, operation)| Some((path.as_str(), method, operation.as_mut()?)))
    })
}

/// Writes into each operation which role it needs, and what its layers add.
pub(super) fn describe_role(document: &mut Document, role: Role) {
    for (path, method, operation) in operations(document) {
        operation.extensions.get_or_insert_default().insert("x-baton-role".to_owned(), json!(role.word()));
        let text = operation.description.get_or_insert_default();
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&format!("Required role: **{role}**."));
        let no_scopes: [&str; 0] = [];
        operation.security = Some(vec![
            SecurityRequirement::new("bearerAuth", no_scopes),
            SecurityRequirement::new("mutualTLS", no_scopes),
        ]);
        complete(path, method, operation);
    }
}

/// The open operations have no role and no security; their answers are all their own.
pub(super) fn describe_open(document: &mut Document) {
    for (_, _, operation) in operations(document) {
        operation.extensions.get_or_insert_default().insert("x-baton-role".to_owned(), json!("none"));
        operation.security = Some(Vec::new());
        plain_parameters(operation);
    }
}

fn complete(path: &str, method: &str, operation: &mut Operation) {
    let has = |operation: &Operation, name: &str| {
        let named = |p: &RefOr<Parameter>| matches!(p, RefOr::T(p) if p.name == name);
        operation.parameters.iter().flatten().any(named)
    };
    let mut problems = vec![
        ("400", "BadRequest"),
        ("401", "Unauthorized"),
        ("403", "Forbidden"),
        ("429", "TooManyRequests"),
    ];
    problems.extend([("500", "Internal"), ("503", "Unavailable")]);
    if path.contains('{') {
        problems.push(("404", "NotFound"));
    }
    if operation.request_body.is_some() {
        problems.extend([("413", "TooLarge"), ("415", "MediaType")]);
    }
    if has(operation, "If-Match") {
        problems.push(("412", "Changed"));
    }
    if method != "GET" {
        problems.push(("409", "Conflict"));
    }
    if method == "POST" {
        problems.push(("422", "KeyReused"));
        operation.parameters.get_or_insert_default().push(RefOr::T(header_parameter(
            "Idempotency-Key",
            "Repeated with the same key within an hour, at the same agent, the command is answered as the first time and \
             not carried out again.",
            Some("^[!-~]{1,128}$"),
        )));
    }
    if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200")
        && method == "GET"
        && answer.content.contains_key("application/json")
    {
        answer.headers.insert("ETag".to_owned(), text_header("Version of what was read."));
        let mut unchanged = Answer::new("Nothing has changed since the version in `If-None-Match`.");
        unchanged.headers.insert("ETag".to_owned(), text_header("Version of what was read."));
        operation.responses.responses.insert("304".to_owned(), RefOr::T(unchanged));
        operation.parameters.get_or_insert_default().push(RefOr::T(header_parameter(
            "If-None-Match",
            "Answer 304 if this is still the version: an entity tag from an earlier answer.",
            // Whatever else is sent is no version that is in force.
            None,
        )));
    }
    for (status, name) in problems {
        let shared = RefOr::Ref(Ref::from_response_name(name));
        operation.responses.responses.entry(status.to_owned()).or_insert(shared);
    }
    plain_parameters(operation);
}

fn header_parameter(name: &str, description: &str, pattern: Option<&str>) -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(pattern).build();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// An optional query parameter or header may be left out; it is never `null`, which text cannot say.
fn plain_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        if let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
            && let SchemaType::Array(types) = &mut object.schema_type
        {
            types.retain(|t| *t != Type::Null);
            if let [only] = types.as_slice() {
                object.schema_type = SchemaType::Type(only.clone());
            }
        }
    }
}

/// The document and the page, open to everybody: they say nothing about this cluster.
pub(super) fn routes(document: &Document) -> Router<ApiState> {
    let text: bytes::Bytes = text(document).into();
    let tag = Tag::of_bytes(&text).header();
    let serve = move || async move {
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind), (header::ETAG, tag), revalidated()], text)
    };
    let config = Config::new([DOCUMENT])
        .validator_url("none")
        .doc_expansion("list")
        .display_request_duration(true)
        .show_extensions(true)
        .persist_authorization(false);
    let page: Router<ApiState> = SwaggerUi::new("/docs").config(config).into();
    Router::new().route(DOCUMENT, get(serve)).merge(page.layer(map_response(own_assets_only)))
}

/// The document as it is served and kept in `docs/openapi.json`.
pub(super) fn text(document: &Document) -> String {
    // Plain data with text keys: serialisation has no way to fail.
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    text
}

fn revalidated() -> (header::HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// The page's scripts and styles are in the binary; nothing may be fetched from elsewhere.
async fn own_assets_only(mut response: Response) -> Response {
    let policy =
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.extend([revalidated()]);
    response
}
