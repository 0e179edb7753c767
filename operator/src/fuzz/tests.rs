//! Every target over its corpus, then over mutations of it.

use super::TARGETS;
use std::path::Path;

#[path = "../../../replicator/src/fuzz/mutations.rs"]
mod mutations;

fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("a target");
    mutations::run(*target, &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name));
}

#[test]
fn heartbeats() {
    run("heartbeats");
}

#[test]
fn specification() {
    run("specification");
}

#[test]
fn every_target_has_a_test_and_a_fuzzer() {
    assert_eq!(TARGETS.map(|(name, _)| name), ["heartbeats", "specification"]);
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
}
