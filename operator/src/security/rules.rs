//! Which requests need somebody who is known. Pure, and closed by default. What role a route needs stands with the route.
//!
//! Facts and commands live under `/v1`, and at `/metrics`. Everything else that can be read is open: the role questions of
//! load balancers and health checks, and static files (the page, the API's description), which hold no fact about the
//! cluster. The router knows no path that is the same as another one in disguise (`//v1`, `/%761`): those lead nowhere.

use axum::http::Method;

/// Whether `method` on `path` is answered to anybody.
#[must_use]
pub fn is_open(method: &Method, path: &str, open_metrics: bool) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let fact = path == "/v1" || path.starts_with("/v1/") || (path == "/metrics" && !open_metrics);
    reads && !fact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_and_commands_are_closed_and_the_rest_can_be_read() {
        for (method, path, open) in [
            ("GET", "/livez", true),
            ("GET", "/readyz", true),
            ("GET", "/leader", true),
            ("HEAD", "/standby", true),
            ("GET", "/", true),
            ("GET", "/docs/index.html", true),
            ("GET", "/openapi.json", true),
            ("GET", "/metrics", false),
            ("GET", "/v1", false),
            ("GET", "/v1/status", false),
            ("HEAD", "/v1/status", false),
            ("OPTIONS", "/v1/status", false),
            ("GET", "/v1/anything/new", false),
            ("POST", "/v1/groups/web/move", false),
            ("POST", "/livez", false),
            ("PATCH", "/", false),
            ("BREW", "/", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(is_open(&method, path, false), open, "{method} {path}");
        }
        assert!(is_open(&Method::GET, "/metrics", true));
        assert!(!is_open(&Method::POST, "/metrics", true));
    }
}
