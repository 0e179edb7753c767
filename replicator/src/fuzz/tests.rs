//! Every target over its corpus, then over mutations of it.

use super::TARGETS;
use std::path::Path;

fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("a target");
    super::mutations::run(*target, &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name));
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_target_has_a_test_and_a_fuzzer() {
            let named: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(named, [$(stringify!($name)),*]);
            let manifest = include_str!("../../fuzz/Cargo.toml");
            for name in named {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
            }
        }
    };
}

targets!(frames engine handshake metadata wire requests control datagram);
