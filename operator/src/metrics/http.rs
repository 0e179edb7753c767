//! Counts the API's requests: a layer around all of it.

use super::live;
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;

/// Answers as the inner service does, and counts it. Paths are counted by the route that matched, methods by the few
/// that are used: what a client may choose freely makes no series.
pub async fn measure(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let method = known(request.method());
    let response = next.run(request).await;
    let route = route.as_deref().unwrap_or("none");
    let live = live();
    live.add("baton_http_requests_total", &[method, route, response.status().as_str()], 1.0);
    live.histogram("baton_http_request_duration_seconds", &[route]).observe(begin.elapsed().as_secs_f64());
    response
}

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_request_is_counted_by_its_route() {
        let app = Router::new()
            .route("/measured/{name}", get(|| async { "ok" }))
            .layer(axum::middleware::from_fn(measure));
        for (method, path) in [("GET", "/measured/a"), ("GET", "/measured/b"), ("BREW", "/elsewhere/1")] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            app.clone().oneshot(request).await.unwrap();
        }
        let count = |labels: &[&str]| live().counter("baton_http_requests_total", labels).get();
        assert!((count(&["GET", "/measured/{name}", "200"]) - 2.0).abs() < f64::EPSILON);
        assert!(count(&["other", "none", "404"]) >= 1.0);
        let took = live().histogram("baton_http_request_duration_seconds", &["/measured/{name}"]);
        assert_eq!(took.get_sample_count(), 2);
    }
}
