//! The last column of docs/failure-modes.md: every test it names exists.
//!
//! A name is that of a test (`module::test`, a `*` for any end), of a module with tests, of a golden scenario, or a path of the
//! repository.

use regex::Regex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A source file with tests.
struct Source {
    /// Its path's folders and stem, then modules declared in it.
    modules: BTreeSet<String>,
    tests: BTreeSet<String>,
}

/// Everything that a row may name.
pub struct Proofs {
    root: PathBuf,
    sources: Vec<Source>,
    golden: BTreeSet<String>,
}

fn sources_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// `name` is `pattern`, whose end may be a `*`.
fn matches(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |begin| name.starts_with(begin))
}

impl Proofs {
    pub fn read(root: &Path) -> Self {
        let test = Regex::new(r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)")
            .expect("a pattern");
        let module = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))? )?mod (\w+)").expect("a pattern");
        let mut paths = Vec::new();
        for part in ["operator", "replicator", "e2e"] {
            for below in ["src", "tests"] {
                sources_below(&root.join(part).join(below), &mut paths);
            }
        }
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).expect("a source");
            let inner = path.strip_prefix(root).expect("below the root").with_extension("");
            let mut modules: BTreeSet<String> =
                inner.iter().filter_map(|part| part.to_str()).map(str::to_owned).collect();
            // `core_tests.rs` is the module `tests` of `core.rs`.
            let of = path.file_stem().and_then(|stem| stem.to_str()?.strip_suffix("_tests"));
            modules.extend(of.into_iter().flat_map(|of| [of.to_owned(), "tests".to_owned()]));
            modules.extend(module.captures_iter(&text).map(|c| c[1].to_owned()));
            let tests = test.captures_iter(&text).map(|c| c[1].to_owned()).collect();
            Source { modules, tests }
        };
        let golden = std::fs::read_dir(root.join("operator/tests/golden")).expect("the golden scenarios");
        let golden = golden.filter_map(|e| e.ok()?.path().file_stem()?.to_str().map(str::to_owned)).collect();
        Self { root: root.to_path_buf(), sources: paths.into_iter().map(read).collect(), golden }
    }

    /// Whether there is what `name` names.
    pub fn knows(&self, name: &str) -> bool {
        if name.contains('/') {
            let crates = ["", "operator", "operator/src", "replicator", "replicator/tests"];
            return crates.iter().any(|part| self.root.join(part).join(name).exists());
        }
        let parts: Vec<&str> = name.split("::").collect();
        let (last, above) = parts.split_last().expect("a part at least");
        let within = |source: &&Source| above.iter().all(|part| source.modules.contains(*part));
        let tested = |source: &&Source| !source.tests.is_empty();
        self.golden.iter().any(|golden| matches(golden, name))
            || self.sources.iter().filter(within).any(|s| s.tests.iter().any(|test| matches(test, last)))
            || self.sources.iter().filter(within).filter(tested).any(|s| s.modules.contains(*last))
    }
}

/// The rows of the table: the fault, and the names in the last column.
pub fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let cells = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let names = cells.last().expect("a cell").split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[0].to_owned(), names)
    };
    cells.map(row).filter(|(fault, _)| fault != "fault").collect()
}
