//! The decision core reads no clock, draws no random number and does no I/O: shown on its source text.

use std::path::{Path, PathBuf};

/// What would give the core a will of its own.
const FORBIDDEN: [&str; 17] = [
    "tokio",
    "std::net",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "std::env",
    "time::Instant",
    "SystemTime",
    "rand::",
    "Uuid",
    "tracing",
    "println!",
    "HashMap",
    "HashSet",
    "crate::driver",
    "unsafe",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            // The simulation's seeds may be multiplied by an environment variable.
            if path.file_name().is_some_and(|n| n != "sim") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sins(text: &str) -> Vec<String> {
    let code = text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
    let guilty = |(n, l): (usize, &str)| {
        FORBIDDEN.iter().find(|f| l.contains(*f)).map(|f| format!("line {}: {f}", n + 1))
    };
    code.filter_map(guilty).collect()
}

#[test]
fn the_core_is_pure() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core"), &mut files);
    assert!(files.len() >= 12, "the core's files are found");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let found = sins(&text);
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn what_is_told_and_when_is_decided_purely() {
    for name in ["conditions", "core", "news", "outbox", "queue", "text", "what"] {
        let path = format!("{}/src/notify/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let found = sins(&std::fs::read_to_string(&path).expect("readable"));
        assert!(found.is_empty(), "{path}: {found:?}");
    }
}

#[test]
fn the_test_would_notice() {
    assert_eq!(sins("fn f() {\n    let now = std::time::Instant::now();\n}"), ["line 2: time::Instant"]);
    assert!(sins("// tokio is not used here").is_empty());
}
