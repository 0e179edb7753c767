//! How fast status is answered for a large cluster: 100 groups on three nodes, in under 200 ms.
//!
//! `cargo test --release -p baton-operator --lib api::speed -- --nocapture` prints the figures that count. Unoptimised
//! code on a machine that others use is held to a bound that only finds what got out of hand.

use super::tests::Bench;
use super::*;
use crate::cli::fixture;
use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use std::time::Instant;
use tower::ServiceExt;

/// A hundred groups, each with a volume, two services, and a part of each of three nodes.
pub(super) fn large() -> ClusterStatus {
    let mut status = fixture::healthy();
    let mut third = status.nodes[1].clone();
    third.name = fixture::node("gamma");
    status.nodes.push(third);
    let mut group = status.groups.remove(0);
    let mut part = group.nodes[1].clone();
    part.node = fixture::node("gamma");
    group.nodes.push(part);
    let mut peer = group.volumes[0].peers[0].clone();
    peer.node = fixture::node("gamma");
    group.volumes[0].peers.push(peer);
    for n in 0..100 {
        let mut group = group.clone();
        group.name = fixture::group(&format!("group-{n}"));
        status.groups.push(group);
    }
    status
}

const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1500 } else { 200 });

#[tokio::test]
async fn a_hundred_groups_on_three_nodes() {
    let bench = Bench::new(large());
    for (path, publish) in
        [("/v1/status", true), ("/v1/status", false), ("/v1/groups", true), ("/v1/groups/group-99", true)]
    {
        let (mut took, mut bytes) = (Vec::new(), 0);
        for _ in 0..11 {
            if publish {
                bench.status.send_modify(|status| status.etcd.revision += 1);
            }
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let begin = Instant::now();
            let response = bench.router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let body = to_bytes(response.into_body(), 8 << 20).await.unwrap();
            took.push(begin.elapsed());
            assert!(body.len() > 1000);
            bytes = body.len();
        }
        took.sort();
        let when = if publish { "freshly published" } else { "published before" };
        println!("{path}, {when}: {bytes} bytes, median {:?}, worst {:?} of eleven", took[5], took[10]);
        assert!(took[5] < BOUND, "{path}: {took:?}");
    }
}
