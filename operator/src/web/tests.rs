//! What the page's files are served with, and that they need nobody else.

use super::*;
use crate::cli::fixture;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt;

async fn get_(path: &str) -> (StatusCode, HeaderMap, String) {
    let (_keep, status) = watch::channel(fixture::healthy());
    let request = Request::builder().uri(path).header(header::HOST, "10.77.0.11:7480");
    let response = router(status).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn text(asset: &Asset) -> &'static str {
    std::str::from_utf8(asset.bytes).unwrap()
}

#[tokio::test]
async fn the_document_is_never_cached_and_its_files_for_ever() {
    let (status, headers, _) = get_("/").await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::TEMPORARY_REDIRECT, &"/ui/".parse().unwrap())
    );
    let (status, headers, page) = get_(PATH).await;
    assert_eq!((status, &headers[header::CACHE_CONTROL]), (StatusCode::OK, &"no-cache".parse().unwrap()));
    let folder = format!("/ui/{}/", *HASH);
    assert!(page.contains(&format!("{folder}app.js")) && !page.contains(FOLDER_MARK), "{page}");
    for asset in ASSETS {
        let (status, headers, body) = get_(&format!("{folder}{}", asset.name)).await;
        assert_eq!(status, StatusCode::OK, "{}", asset.name);
        assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        assert_eq!(headers[header::CONTENT_TYPE], asset.kind);
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(body, text(asset));
    }
    assert_eq!(get_("/ui/0000000000000000/app.js").await.0, StatusCode::NOT_FOUND, "another version's");
    assert_eq!(get_(&format!("{folder}..%2fmod.rs")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_policy_allows_this_agent_and_questions_to_the_others_only() {
    let (_, headers, _) = get_(PATH).await;
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let agents = "connect-src 'self' http://10.77.0.12:7480 https://10.77.0.12:7480;";
    assert!(policy.contains(agents), "{policy}");
    assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY");
}

#[test]
fn an_address_that_is_none_does_not_get_into_the_policy() {
    let mut status = fixture::healthy();
    status.nodes[1].address = "x; script-src *".into();
    assert!(!policy(&status, 7480).contains("script-src *"));
    status.nodes[1].address = "fd00::12".into();
    assert!(policy(&status, 7480).contains("connect-src 'self';"), "a policy cannot name IPv6 addresses");
}

/// The browser test proves it for what runs; this one for what is written.
#[test]
fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    let page = DOCUMENT;
    for forbidden in ["<style", "style=", "onclick", "onload", "javascript:", "http://", "https://", "//cdn"]
    {
        assert!(!page.contains(forbidden), "{forbidden} in index.html");
    }
    for script in page.split("<script").skip(1) {
        let (tag, body) = script.split_once('>').unwrap();
        assert!(tag.contains("src=") && body.starts_with("</script>"), "a script is inline: {tag}");
    }
    for asset in ASSETS {
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "@import",
            "url(",
        ] {
            assert!(!text(asset).contains(forbidden), "{forbidden} in {}", asset.name);
        }
        // A URL with a host: only the name of SVG's namespace, which nobody asks for.
        let elsewhere = text(asset).matches("://").count();
        assert_eq!(
            elsewhere,
            text(asset).matches("http://www.w3.org/2000/svg").count(),
            "a URL in {}",
            asset.name
        );
    }
}

#[test]
fn every_module_that_is_imported_exists_and_every_file_is_used() {
    let mut used: Vec<String> = Vec::new();
    for asset in ASSETS.iter().filter(|a| a.kind == JS) {
        for import in text(asset).split("from './").skip(1) {
            let name = import.split('\'').next().unwrap();
            assert!(ASSETS.iter().any(|a| a.name == name), "{} imports {name}", asset.name);
            used.push(name.to_owned());
        }
    }
    for asset in ASSETS {
        let linked = DOCUMENT.contains(&format!("/{}\"", asset.name));
        assert!(linked || used.iter().any(|name| name == asset.name), "{} is not used", asset.name);
    }
}

#[test]
fn the_whole_page_is_small() {
    let total: usize = ASSETS.iter().map(|asset| asset.bytes.len()).sum::<usize>() + DOCUMENT.len();
    assert!(total < 200 << 10, "{total} bytes");
    for asset in ASSETS {
        assert!(text(asset).lines().count() <= 500, "{} is long", asset.name);
    }
}
