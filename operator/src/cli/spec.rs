//! The specification on the command line: look at it, at its history, at what differs; check a file.

use super::args::SpecCommand;
use super::format::{self, Format};
use super::{ApiClient, CliError, Exit, apply, print};
use crate::api::{SpecDocument, SpecVersion};
use crate::spec::{Facts, Spec, SpecErrors, diff, reference};
use std::io::Read;
use std::path::Path;

/// The end of the line that `export` puts above the document.
const ABOVE: &str = " of the cluster's specification.";

pub(super) async fn run(client: &ApiClient, command: SpecCommand) -> Result<Exit, CliError> {
    match command {
        SpecCommand::Show { version: None, format } => {
            let document: SpecDocument = client.get("/v1/spec").await?;
            print(&format.show(&document, |d| d.text.clone()))
        }
        SpecCommand::Show { version: Some(version), format } => {
            let entry = entry(client, version).await?;
            print(&format.show(&entry, |e| e.text.clone()))
        }
        SpecCommand::Log { format } => {
            let all: Vec<SpecVersion> = client.get("/v1/spec/history").await?;
            print(&format.show(&all, |all| log(all)))
        }
        SpecCommand::Diff { from, to, format } => differ(client, from, to, format).await,
        SpecCommand::Rollback { version, dry_run, how } => {
            apply::rollback(client, version, dry_run, how).await
        }
        SpecCommand::Schema => print(&format::json(&reference::schema())),
        SpecCommand::Reference => print(&reference::markdown()),
        SpecCommand::Export { output } => {
            let document: SpecDocument = client.get("/v1/spec").await?;
            let text = exported(document.version, &document.text);
            let Some(path) = output else { return print(&text) };
            let shown = path.display();
            std::fs::write(&path, text)
                .map_err(|e| CliError::new(Exit::Failed, format!("cannot write {shown}: {e}"), ""))?;
            print(&format!("Version {} is in {shown}.\n", document.version))
        }
    }
}

/// With a line above it that says which version it is, instead of one from an export before.
fn exported(version: i64, text: &str) -> String {
    let above = |line: &str| line.starts_with("# Version ") && line.ends_with(ABOVE);
    let mut rest = text;
    while let Some((_, below)) = rest.split_once('\n').filter(|(first, _)| above(first)) {
        rest = below;
    }
    format!("# Version {version}{ABOVE}\n{rest}")
}

async fn entry(client: &ApiClient, version: i64) -> Result<SpecVersion, CliError> {
    client.get(&format!("/v1/spec/history/{version}")).await
}

/// Newest first: version, time to the second, who, why.
fn log(all: &[SpecVersion]) -> String {
    let mut out = format!("{:>8}  {:<19}  {:<16}  {}\n", "VERSION", "APPLIED (UTC)", "BY", "WHY");
    for v in all {
        let at: String = v.at.replace('T', " ").chars().take(19).collect();
        let line = format!("{:>8}  {at:<19}  {:<16}  {}", v.version, v.by, v.message);
        out += line.trim_end();
        out.push('\n');
    }
    out
}

async fn differ(
    client: &ApiClient,
    from: Option<i64>,
    to: Option<i64>,
    format: Format,
) -> Result<Exit, CliError> {
    let all: Vec<SpecVersion> = client.get("/v1/spec/history").await?;
    let newest = all.first().map(|v| v.version);
    let Some(to) = to.or(newest) else {
        return Err(CliError::new(Exit::Failed, "the history is empty", "'baton apply FILE' begins it."));
    };
    let before = || all.iter().map(|v| v.version).find(|v| *v < to);
    let Some(from) = from.or_else(before) else {
        return Err(CliError::new(
            Exit::Failed,
            format!("version {to} is the oldest in the history: there is none to compare it with"),
            "See 'baton spec log'.",
        ));
    };
    let parse = |v: SpecVersion| {
        let name = format!("version {}", v.version);
        Spec::parse(&v.text, |_| None).map_err(|e| {
            CliError::new(
                Exit::Failed,
                e.in_file(name).to_string(),
                "This version was written by another version of Baton; 'baton spec show' prints it.",
            )
        })
    };
    let (old, new) = (parse(entry(client, from).await?)?, parse(entry(client, to).await?)?);
    let plan = diff::plan(&old, &new, &Facts::default());
    print(&format.show(&plan, |plan| format!("From version {from} to {to}:\n{}", plan.render())))
}

/// The text of a file, or of standard input for `-`.
pub(super) fn read(file: &Path) -> Result<(String, String), CliError> {
    if file == Path::new("-") {
        let mut text = String::new();
        let got = std::io::stdin().read_to_string(&mut text);
        got.map_err(|e| CliError::new(Exit::Failed, format!("cannot read standard input: {e}"), ""))?;
        return Ok(("standard input".into(), text));
    }
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::new(Exit::Failed, format!("cannot read {shown}: {e}"), "Check the path."))?;
    Ok((shown, text))
}

/// The specification in a file, variables replaced from the environment.
pub(super) fn parse(shown: &str, text: &str) -> Result<Spec, CliError> {
    Spec::parse(text, |name| std::env::var(name).ok()).map_err(|errors| invalid(shown, errors))
}

fn invalid(shown: &str, errors: SpecErrors) -> CliError {
    let n = errors.errors.len();
    let next = format!("{n} to correct; nothing has been applied.");
    CliError::new(Exit::Failed, errors.in_file(shown).to_string(), next)
}

/// `baton check`.
pub(super) fn check(file: &Path, json: bool) -> Result<Exit, CliError> {
    let (shown, text) = read(file)?;
    if json {
        let errors =
            Spec::parse(&text, |name| std::env::var(name).ok()).err().map(|e| e.errors).unwrap_or_default();
        let list: Vec<_> = errors
            .iter()
            .map(|e| serde_json::json!({ "line": e.line, "column": e.column, "field": e.path, "message": e.message }))
            .collect();
        print(&format::json(&list))?;
        return Ok(if list.is_empty() { Exit::Ok } else { Exit::Failed });
    }
    let spec = parse(&shown, &text)?;
    let (nodes, groups) = (spec.nodes.len(), spec.groups.len());
    print(&format!("{shown}: cluster {}, {nodes} nodes, {groups} groups: no errors\n", spec.cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_exported_applied_and_exported_again_has_one_line_above_it() {
        let first = exported(12, "cluster: demo\n");
        assert_eq!(first, "# Version 12 of the cluster's specification.\ncluster: demo\n");
        let piled = format!("# Version 9 of the cluster's specification.\n{first}");
        assert_eq!(exported(13, &piled), "# Version 13 of the cluster's specification.\ncluster: demo\n");
        let own = "# Version 2 of my notes.\ncluster: demo\n";
        assert!(exported(14, own).ends_with(own), "a comment of somebody's own stays");
    }
}
