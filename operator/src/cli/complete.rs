//! Completion of names: nodes, groups and volumes come from the cluster, contexts from their file. Asked while somebody
//! presses Tab: silent, and bounded to a second.

use super::client::ApiClient;
use super::context;
use crate::status::ClusterStatus;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use std::ffi::OsStr;
use std::time::Duration;

/// Whoever presses Tab does not wait longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nodes.
pub(super) fn nodes() -> ArgValueCompleter {
    completer(|s| s.nodes.iter().map(|n| n.name.to_string()).collect())
}

/// Groups.
pub(super) fn groups() -> ArgValueCompleter {
    completer(|s| s.groups.iter().map(|g| g.name.to_string()).collect())
}

/// What may go down.
pub(super) fn faults() -> ArgValueCompleter {
    completer(|s| {
        let nodes = || s.nodes.iter().map(|n| n.name.as_str());
        let of = |what: &str| nodes().map(|n| format!("{what}:{n}")).collect::<Vec<_>>();
        let plain = nodes().chain(["etcd", "link"]).map(str::to_owned).collect();
        [plain, of("agent"), of("cable"), of("etcd")].concat()
    })
}

/// Volumes of the answering node.
pub(super) fn volumes() -> ArgValueCompleter {
    completer(|s| s.groups.iter().flat_map(|g| &g.volumes).map(|v| v.volume.to_string()).collect())
}

/// Contexts.
pub(super) fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        candidates(context::names(|name| std::env::var(name).ok()), current)
    })
}

fn completer(names: fn(&ClusterStatus) -> Vec<String>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| match snapshot() {
        Some(status) => candidates(names(&status), current),
        None => Vec::new(),
    })
}

fn candidates(names: Vec<String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_str().unwrap_or_default();
    names.into_iter().filter(|name| name.starts_with(typed)).map(CompletionCandidate::new).collect()
}

/// From the environment alone: what stands on the unfinished line is not known here.
fn snapshot() -> Option<ClusterStatus> {
    let list = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    let api: Vec<String> =
        list("BATON_API").map(|v| v.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let asked = list("BATON_CONTEXT");
    let file = |name| list(name).map(std::path::PathBuf::from);
    let options = super::ClientOptions {
        addresses: api,
        ca: file("BATON_CA"),
        token_file: file("BATON_TOKEN_FILE"),
        cert: file("BATON_CERT"),
        key: file("BATON_KEY"),
    };
    // A thread with a runtime of its own: the engine that asks may run inside one.
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let client: ApiClient = super::connect(asked.as_deref(), &options).ok()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, client.get("/v1/status")).await.ok()?.ok() })
    };
    std::thread::spawn(work).join().ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_a_prefix() {
        let names = || vec!["web".to_owned(), "web-shop".to_owned(), "mail".to_owned()];
        let found = candidates(names(), OsStr::new("web"));
        let values: Vec<_> = found.iter().map(|c| c.get_value().to_str().unwrap()).collect();
        assert_eq!(values, ["web", "web-shop"]);
        assert!(candidates(names(), OsStr::new("x")).is_empty());
    }
}
