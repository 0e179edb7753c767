//! `core/` decides and does nothing else: its sources name no I/O, no clock, no thread and no randomness.

use std::path::{Path, PathBuf};

const FORBIDDEN: [&str; 14] = [
    "tokio",
    "std::net",
    "std::fs",
    "std::process",
    "std::thread",
    "std::io",
    "std::env",
    "std::sync",
    "SystemTime",
    "time::Instant",
    "rand::",
    "rustix",
    "libc",
    "unsafe",
];
/// Modules that do things.
const ADAPTERS: [&str; 5] =
    ["crate::store", "crate::frontend", "crate::transport", "crate::control", "crate::driver"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the source tree") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_core_is_pure() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core"), &mut found);
    assert!(found.len() > 20, "the sources were found: {found:?}");
    for path in found {
        let text = std::fs::read_to_string(&path).expect("readable");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let bad = FORBIDDEN.iter().chain(&ADAPTERS).find(|word| code.contains(*word));
            assert_eq!(bad, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}
