//! A whole bundle against a fake agent and a fake engine with secrets planted everywhere: none may be in the archive.

use super::*;
use crate::api::fake::Fake;
use crate::api::{ApiState, serve};
use crate::cli::fixture;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use clap::Parser;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const PLANTED: &str = "Zebra-Quartz-77";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bundle: BundleArgs,
}

async fn agent() -> String {
    let mut status = fixture::resyncing();
    status.groups[0].reason = format!("mysql does not start: mysql://root:{PLANTED}@db refused");
    status.groups[0].services[0].error = Some(format!("exec: mysqladmin -u root -p{PLANTED} status"));
    status.advice.push(format!("try again with --token {PLANTED}"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::watch::channel(status);
    // Kept for ever: the test ends with the process.
    std::mem::forget(sender);
    let fake = Fake::default();
    tokio::spawn(serve(listener, ApiState::new(receiver, Arc::new(fake)), std::future::pending()));
    url
}

/// As much of the engine's API as is asked.
async fn engine(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let json = |text: String| ([("content-type", "application/json")], text).into_response();
    if path.ends_with("/containers/json") {
        json(r#"[{"Id":"c1","Names":["/demo-alpha-web-mysql"],"Image":"mariadb","Status":"Up","Labels":{"baton.cluster":"demo"}},
                 {"Id":"c2","Names":["/foreign"],"Image":"nginx","Status":"Up","Labels":{}}]"#.into())
    } else if path.ends_with("/containers/c1/json") {
        json(format!(
            r#"{{"Id":"c1","Config":{{"Env":["MARIADB_ROOT_PASSWORD={PLANTED}","ODD_PIN=fox-in-the-box","ETCD_INITIAL_CLUSTER_TOKEN=demo-alpha"]}}}}"#
        ))
    } else if path.ends_with("/containers/c1/logs") {
        let line = format!("2026 root logs in with {PLANTED}, pin fox-in-the-box\n");
        let mut body = vec![1, 0, 0, 0];
        body.extend(u32::try_from(line.len()).unwrap().to_be_bytes());
        body.extend(line.as_bytes());
        Response::new(Body::from(body))
    } else if path.ends_with("/logs") {
        panic!("foreign containers are none of ours: {path}")
    } else {
        json(r#"{"Version":"28.0","ApiVersion":"1.48","MinAPIVersion":"1.24"}"#.into())
    }
}

fn unpack(path: &Path) -> Vec<(String, String)> {
    let file = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name.split_once('/').unwrap().1.to_owned(), text)
    });
    entries.collect()
}

#[tokio::test]
async fn no_planted_secret_is_in_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("secret"), format!("{PLANTED}{PLANTED}{PLANTED}\n")).unwrap();
    let socket = tokio::net::UnixListener::bind(at("docker.sock")).unwrap();
    tokio::spawn(async move { axum::serve(socket, Router::new().fallback(engine)).await });
    let line = [
        "bundle",
        "--no-doctor",
        "-o",
        &at("out.tar.gz"),
        "--secret-file",
        &at("secret"),
        "--run-dir",
        &at("run"),
        "--docker",
        &format!("unix://{}", at("docker.sock")),
    ]
    .map(str::to_owned);
    let args = Line::parse_from(line).bundle;
    let client = ApiClient::new(&[agent().await]).unwrap();
    assert_eq!(run(&client, &args).await, Ok(Exit::Ok));

    let out = dir.path().join("out.tar.gz");
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let all = unpack(&out);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    for wanted in [
        "MANIFEST.txt",
        "agents/alpha/status.json",
        "agents/alpha/metrics.txt",
        "events.json",
        "spec.yaml",
        "containers/list.txt",
        "containers/demo-alpha-web-mysql.log",
        "host/mounts.txt",
        "versions.txt",
    ] {
        assert!(names.contains(&wanted), "{wanted} is not in {names:?}");
    }
    for (name, text) in &all {
        for secret in [PLANTED, "fox-in-the-box"] {
            assert!(!text.contains(secret) && !name.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    let text = |name: &str| &all.iter().find(|(n, _)| n == name).unwrap().1;
    assert!(
        text("containers/list.txt").contains("demo-alpha-web-mysql"),
        "a token that is a name takes no name away"
    );
    assert!(text("containers/demo-alpha-web-mysql.log").contains("logs in with (removed)"));
    assert!(text("agents/alpha/status.json").contains("mysql://(removed)@db refused"));
    let manifest = text("MANIFEST.txt");
    assert!(manifest.contains("agents/beta  ") && manifest.contains("host/replicator.json  "), "{manifest}");
    assert!(
        !manifest.contains("foreign") && text("containers/list.txt").contains("1 containers that are none")
    );

    let again = run(&client, &args).await.unwrap_err();
    assert!(again.message.contains("there already"), "{again}");
}

#[tokio::test]
async fn without_anybody_there_it_still_holds_what_the_host_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let line =
        ["bundle", "--no-doctor", "-o", &at("x.tgz"), "--run-dir", &at("run"), "--docker", "unix:///no/such"];
    let client = ApiClient::new(&["http://127.0.0.1:1".to_owned()]).unwrap();
    assert_eq!(run(&client, &Line::parse_from(line).bundle).await, Ok(Exit::Ok));
    let all = unpack(&dir.path().join("x.tgz"));
    assert!(all.iter().any(|(name, _)| name == "host/kernel.txt"));
    assert!(
        all[0].1.contains("agents  no agent answered") && all[0].1.contains("containers  the Docker engine"),
        "{}",
        all[0].1
    );
}
