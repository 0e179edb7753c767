//! The OpenAPI document: current, complete, and true about roles.

use super::fake::Fake;
use super::*;
use crate::cli::fixture;
use crate::security::{Principal, Via};
use axum::body::{Body, to_bytes};
use axum::http::{Method, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

fn document() -> Value {
    serde_json::from_str(&openapi::text(&described(&Arc::new(Gate::new(Limits::default()))).1)).unwrap()
}

/// Every operation: path, method, and what the document says.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((path.clone(), method.to_uppercase(), operation));
        }
    }
    all
}

#[test]
fn the_document_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let text = openapi::text(&described(&Arc::new(Gate::new(Limits::default()))).1);
    if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    // The order of keys is a matter of how the library was built.
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert!(
        json(&text) == json(&kept),
        "docs/openapi.json is not current: run the test with BATON_UPDATE_GOLDEN=1"
    );
}

#[test]
fn every_operation_is_described() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = std::collections::BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let text = |name: &str| operation[name].as_str().unwrap_or_default();
        assert!(ids.insert(text("operationId").to_owned()), "{at}: another operation has this id");
        assert!(text("summary").len() > 8 && text("summary").len() < 90, "{at}: {}", text("summary"));
        assert!(!text("description").contains("[`"), "{at}: a link of the source is no use to a reader");
        assert!(["viewer", "operator", "admin", "none"].contains(&text("x-baton-role")), "{at}");
        let open = text("x-baton-role") == "none";
        assert_eq!(operation["security"].as_array().unwrap().is_empty(), open, "{at}");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{at}");
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let described = answer["description"].is_string() || answer["$ref"].is_string();
            assert!(described, "{at}: {status}");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{at}: {parameter}");
        }
        if method == "PUT" || method == "POST" || method == "DELETE" {
            let done = ["200", "201", "202", "204"].iter().any(|s| operation["responses"][s].is_object());
            assert!(done, "{at}");
        }
    }
    assert!(ids.len() >= 20, "{ids:?}");
}

#[test]
fn what_it_refers_to_is_there() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(at)) = fields.get("$ref") {
                    found.push(at.clone());
                }
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let at = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(at).is_some(), "{reference} leads nowhere");
    }
}

/// Sends each operation as each role: the document's role is the one that is enforced.
#[tokio::test]
async fn roles_are_enforced_as_documented() {
    let (_status, receiver) = watch::channel(fixture::healthy());
    let unlimited = Limits { commands_per_s: std::num::NonZeroU32::MAX, ..Limits::default() };
    let router = router(
        ApiState::new(receiver, Arc::new(Fake::default()))
            .within(unlimited)
            .with_security(crate::security::fake::security()),
    );
    let document = document();
    let mut refused = 0;
    for (path, method, operation) in operations(&document) {
        let real = path.replace("{group}", "web").replace("{node}", "beta").replace("{volume}", "webstore");
        let real = real.replace("{id}", crate::security::fake::TOKEN_ID).replace("{version}", "12");
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let needed = operation["x-baton-role"].as_str().unwrap();
            let allowed = needed == "none"
                || [Role::Viewer, Role::Operator, Role::Admin]
                    .into_iter()
                    .find(|r| r.word() == needed)
                    .is_some_and(|needed| role >= needed);
            let body = operation["requestBody"]["content"]["application/json"]["example"].clone();
            let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
            let method: Method = method.parse().unwrap();
            let mut request = Request::builder()
                .method(method.clone())
                .uri(&real)
                .header("if-match", "*")
                .body(body)
                .unwrap();
            let (name, from) = ("tester".to_owned(), "192.0.2.1".to_owned());
            request.extensions_mut().insert(Principal { name, role, via: Via::Token, from });
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            assert_eq!(status != StatusCode::FORBIDDEN, allowed, "{method} {real} as {role}: {status}");
            if allowed {
                assert!(status.is_success() || path == "/standby", "{method} {real} as {role}: {status}");
                assert!(operation["responses"][status.as_str()].is_object(), "{method} {real}: {status}");
            } else {
                refused += 1;
                let text = to_bytes(response.into_body(), 1 << 16).await.unwrap();
                let problem: Value = serde_json::from_slice(&text).unwrap();
                let detail = problem["detail"].as_str().unwrap();
                assert!(detail.contains(needed) && detail.contains("'tester'"), "{detail}");
            }
        }
    }
    assert!(refused >= 5, "roles differ");
}

/// The page needs nothing from elsewhere, and what it names is in the binary (also in debug builds).
#[tokio::test]
async fn the_page_works_without_internet() {
    let (_status, receiver) = watch::channel(fixture::healthy());
    let router = router(ApiState::new(receiver, Arc::new(Fake::default())));
    let get = async |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 8 << 20).await.unwrap();
        (parts, String::from_utf8_lossy(&body).into_owned())
    };
    let (page, html) = get("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let mut assets = 0;
    for part in html.split(['"', '\'']) {
        assert!(!part.starts_with("http"), "{part}");
        if part.starts_with("./") && part.contains('.') {
            let (asset, text) = get(&format!("/docs/{}", part.trim_start_matches("./"))).await;
            assert_eq!(asset.status, StatusCode::OK, "{part}");
            assert!(!text.is_empty(), "{part}");
            assets += 1;
        }
    }
    assert!(assets >= 4, "scripts and styles: {html}");
    let (_, script) = get("/docs/swagger-initializer.js").await;
    assert!(script.contains("/openapi.json") && script.contains("none"), "{script}");
    let (served, text) = get("/openapi.json").await;
    assert_eq!(served.headers["content-type"], "application/json");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document());
}

/// The manual speaks of paths that exist.
#[test]
fn the_manual_names_real_paths() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md")).unwrap();
    let document = document();
    let known: Vec<Vec<String>> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(|path| path.split('/').map(str::to_owned).collect())
        .collect();
    let exists = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        known.iter().any(|known| {
            known.len() == parts.len()
                && known.iter().zip(&parts).all(|(known, part)| known == part || known.starts_with('{'))
        })
    };
    let mut named = std::collections::BTreeSet::new();
    for word in manual.split([' ', '`', '"', '\'', '\n', '(', ')', ',', '|']) {
        let path = word.trim_start_matches("https://").trim_start_matches("http://");
        let path = path.find('/').map_or("", |at| &path[at..]);
        let path = path.split(['?', '#']).next().unwrap().trim_end_matches(['.', ':', ';']);
        let of_the_api =
            path.starts_with("/v1/") || ["/leader", "/standby", "/livez", "/readyz"].contains(&path);
        if of_the_api {
            assert!(exists(path), "docs/api.md speaks of {path}");
            named.insert(path.to_owned());
        }
    }
    for known in document["paths"].as_object().unwrap().keys() {
        assert!(manual.contains(known.as_str()), "docs/api.md does not mention {known}");
    }
    assert!(named.len() > 15, "{named:?}");
}
