//! The documentation keeps its word: every link and anchor of every page leads somewhere, every `baton` command shown is
//! one that the command line understands, every `make` target and every path of the repository named exists.

mod commands;
mod page;
mod proofs;

use baton_operator::spec::Spec;
use commands::Makefile;
use page::Page;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders that hold no documentation of ours.
const SKIPPED: [&str; 4] = ["target", ".git", ".build", "node_modules"];

fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().expect("the workspace").to_path_buf()
}

fn pages_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() && !SKIPPED.contains(&name) {
            pages_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

fn pages() -> BTreeMap<PathBuf, Page> {
    let mut found = Vec::new();
    pages_below(&root(), &mut found);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a page");
        (path, Page::parse(&text))
    };
    found.into_iter().map(read).collect()
}

/// What is wrong with a link of the page at `from`, if anything.
fn broken(from: &Path, link: &str, pages: &BTreeMap<PathBuf, Page>) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => from.to_path_buf(),
        path => from.parent().expect("a folder").join(path),
    };
    let Ok(target) = target.canonicalize() else { return Some(format!("there is no {path}")) };
    let anchor = anchor?;
    match pages.get(&target) {
        Some(page) if page.anchors.contains(anchor) => None,
        Some(_) => Some(format!("{path} has no heading #{anchor}")),
        None => Some(format!("{path} is no page, so it has no heading #{anchor}")),
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() > 5, "the pages were not found below {}", root().display());
    let mut wrong = Vec::new();
    for (path, page) in &pages {
        for link in &page.links {
            if let Some(why) = broken(path, link, &pages) {
                wrong.push(format!("{}: {link}: {why}", path.strip_prefix(root()).unwrap_or(path).display()));
            }
        }
    }
    assert!(wrong.is_empty(), "broken links:\n{}", wrong.join("\n"));
}

#[test]
fn commands_are_understood() {
    let makefile = Makefile::read(&root().join("Makefile"));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, page) in &pages() {
        for code in &page.code {
            for line in commands::lines(code) {
                seen += 1;
                if let Err(why) = commands::check(&line, &makefile, &root()) {
                    wrong.push(format!(
                        "{}: {line}: {why}",
                        path.strip_prefix(root()).unwrap_or(path).display()
                    ));
                }
            }
        }
    }
    assert!(seen > 10, "only {seen} commands were found: the search is broken");
    assert!(wrong.is_empty(), "commands that do not work:\n{}", wrong.join("\n"));
}

#[test]
fn every_failure_mode_names_tests_that_exist() {
    let proofs = proofs::Proofs::read(&root());
    let page = std::fs::read_to_string(root().join("docs/failure-modes.md")).expect("the page");
    let rows = proofs::rows(&page);
    assert!(rows.len() > 90, "only {} rows were found: the search is broken", rows.len());
    let mut wrong = Vec::new();
    for (fault, names) in rows {
        if names.is_empty() {
            wrong.push(format!("'{fault}' names no test"));
        }
        let unknown = names.iter().filter(|name| !proofs.knows(name));
        wrong.extend(unknown.map(|name| format!("'{fault}' names {name}, which does not exist")));
    }
    assert!(wrong.is_empty(), "docs/failure-modes.md:\n{}", wrong.join("\n"));
    for name in ["power::leader_eleven_times", "cable::leader_ten_times", "golden_nothing", "no/such/file.rs"]
    {
        assert!(!proofs.knows(name), "{name} is taken for a test");
    }
}

#[test]
fn a_translation_shows_the_same_commands_and_files() {
    let blocks = |page: &str| -> Vec<String> {
        let text = std::fs::read_to_string(root().join(page)).expect("a page");
        Page::parse(&text).code.into_iter().filter(|code| !code.inline).map(|code| code.text).collect()
    };
    let (english, french) = (blocks("docs/getting-started.md"), blocks("docs/getting-started.fr.md"));
    assert!(english.len() > 5, "only {} blocks", english.len());
    assert_eq!(english, french, "docs/getting-started.fr.md lags behind");
}

#[test]
fn whole_specifications_shown_are_accepted() {
    let mut seen = 0;
    for (path, page) in &pages() {
        for code in page.code.iter().filter(|code| code.text.starts_with("cluster: ")) {
            seen += 1;
            let read = Spec::parse(&code.text, |name| Some(format!("value of {name}")));
            assert!(read.is_ok(), "{}: {}", path.display(), read.unwrap_err());
        }
    }
    assert!(seen >= 2, "only {seen} specifications were found: the search is broken");
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let makefile = Makefile::read(&root().join("Makefile"));
    let wrong = |line: &str| commands::check(line, &makefile, &root()).is_err();
    for line in [
        "baton moove web",
        "baton status --jsn",
        "docker exec baton-alpha-agent baton frobnicate",
        "make demos",
        "compose/scripts/hosts.sh off alpha",
    ] {
        assert!(wrong(line), "{line}");
    }
    for line in
        ["baton move web --to beta", "baton status --json", "make demo", "compose/scripts/host.sh off alpha"]
    {
        assert!(!wrong(line), "{line}");
    }
    let pages = pages();
    let readme = root().join("README.md");
    assert!(broken(&readme, "docs/nothing.md", &pages).is_some());
    assert!(broken(&readme, "#no-such-heading", &pages).is_some());
    assert!(broken(&readme, "docs/architecture.md#a-write", &pages).is_none());
}
