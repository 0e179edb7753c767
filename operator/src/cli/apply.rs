//! `baton apply` and `baton spec rollback`: first the plan, then the question, then the change, then the wait.
//!
//! The plan comes from the agent as a dry run, with the version it was made for; the change is sent for that version,
//! so nothing is applied that was not shown.

use super::args::{ApplyArgs, ApplyHow};
use super::ask::ask;
use super::client::decode;
use super::{ApiClient, CliError, Exit, Steps, format, print, spec};
use crate::api::{Applied, SpecDocument};
use crate::spec::{Impact, Plan};
use crate::status::{ClusterStatus, GroupState};
use reqwest::Method;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(250);

/// What is sent to the agent.
enum Request {
    Document(String),
    Rollback(i64),
}

pub(super) async fn file(client: &ApiClient, args: ApplyArgs) -> Result<Exit, CliError> {
    let (shown, text) = spec::read(&args.file)?;
    let parsed = spec::parse(&shown, &text)?;
    let replaced = variables(&text, &parsed.text);
    if !replaced.is_empty() && !args.how.json {
        eprintln!("Variables are replaced here, the cluster keeps their values: {}", replaced.join(", "));
    }
    carry_out(client, &Request::Document(parsed.text), args.dry_run, &args.how).await
}

pub(super) async fn rollback(
    client: &ApiClient,
    version: i64,
    dry_run: bool,
    how: ApplyHow,
) -> Result<Exit, CliError> {
    carry_out(client, &Request::Rollback(version), dry_run, &how).await
}

/// Names of the variables in lines that were changed by replacing them.
fn variables(before: &str, after: &str) -> Vec<String> {
    let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b).map(|(a, _)| a);
    let mut names = BTreeSet::new();
    for line in changed {
        for (at, _) in line.match_indices('$') {
            let rest = line[at + 1..].trim_start_matches('{');
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names.into_iter().collect()
}

async fn carry_out(
    client: &ApiClient,
    request: &Request,
    dry_run: bool,
    how: &ApplyHow,
) -> Result<Exit, CliError> {
    let version = match how.expect {
        Some(version) => version,
        None => client.get::<SpecDocument>("/v1/spec").await?.version,
    };
    let planned = send(client, request, version, true, &how.message).await?;
    let plan = Plan { changes: planned.changes.clone() };
    if dry_run {
        print(&if how.json { format::json(&planned) } else { plan.render() })?;
        return Ok(if plan.refused().next().is_some() { Exit::Failed } else { Exit::Ok });
    }
    if !how.json {
        print(&plan.render())?;
    }
    if plan.refused().next().is_some() {
        return Err(CliError::new(Exit::Failed, "nothing was applied: some of this is refused", ""));
    }
    if plan.impact() > Some(Impact::Live) && !how.yes {
        ask("Apply?", "nothing was applied", "it interrupts a service")?;
    }
    let applied = send(client, request, version, false, &how.message).await?;
    let done = match applied.applied {
        true => format!("Version {} is in force, {} was.\n", applied.version, applied.previous),
        false => format!("Version {} stays in force: it is the same document.\n", applied.version),
    };
    print(&if how.json { format::json(&applied) } else { done })?;
    if how.wait { wait(client, applied.version, how.timeout).await } else { Ok(Exit::Ok) }
}

async fn send(
    client: &ApiClient,
    request: &Request,
    version: i64,
    dry_run: bool,
    message: &str,
) -> Result<Applied, CliError> {
    let answer = client.first(|http, base| {
        let request = match request {
            Request::Document(text) => http
                .request(Method::PUT, format!("{base}/v1/spec"))
                .query(&[("dry_run", dry_run.to_string()), ("message", message.to_owned())])
                .header("content-type", "application/yaml")
                .body(text.clone()),
            Request::Rollback(to) => {
                let body = serde_json::json!({ "version": to, "dry_run": dry_run, "message": message });
                http.request(Method::POST, format!("{base}/v1/spec/rollback")).json(&body)
            }
        };
        request.timeout(super::client::ANSWER_TIMEOUT).header("if-match", format!("\"{version}\""))
    });
    decode(answer.await?).await
}

/// Until every living node runs the version and every group serves with all its services.
async fn wait(client: &ApiClient, version: i64, limit: Duration) -> Result<Exit, CliError> {
    let began = Instant::now();
    let mut shown = Steps::new();
    let mut last = String::from("no agent has answered yet");
    while began.elapsed() < limit {
        match client.get::<ClusterStatus>("/v1/status").await {
            Ok(status) => match missing(&status, version) {
                None => {
                    shown.end();
                    return print(&format!(
                        "Every node runs it after {:.1} s.\n",
                        began.elapsed().as_secs_f64()
                    ));
                }
                Some(text) => last = text,
            },
            // An agent that stops answering is no end: another one may.
            Err(error) => last = error.message,
        }
        shown.show(&last, began.elapsed());
        tokio::time::sleep(LOOK).await;
    }
    shown.end();
    let text =
        format!("version {version} is written, but after {}: {last}", humantime::format_duration(limit));
    Err(CliError::new(Exit::Timeout, text, "It may still come: see 'baton watch'."))
}

/// What is not as it should be yet.
fn missing(status: &ClusterStatus, version: i64) -> Option<String> {
    // One that was silent for a moment is not away.
    let there = |n: &crate::status::NodeStatus| {
        n.alive || n.age_ms.is_some_and(|age| age < status.timers.deadtime_ms)
    };
    let behind = |n: &&crate::status::NodeStatus| there(n) && n.spec_version != Some(version);
    if let Some(node) = status.nodes.iter().find(behind) {
        return Some(format!("{} does not run version {version} yet", node.name));
    }
    let stopped = |s: &&crate::status::ServiceStatus| s.state != "running" && s.state != "exited";
    status.groups.iter().find_map(|g| {
        if g.rests() {
            return None;
        }
        if g.state != GroupState::Serving {
            return Some(format!("group {}: {}", g.name, super::words::group_state(g.state)));
        }
        let service = g.services.iter().find(stopped)?;
        Some(format!("service {} of group {} is {}", service.name, g.name, service.state))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn the_wait_names_what_is_missing() {
        let mut status = fixture::healthy();
        assert_eq!(missing(&status, 12), None);
        status.nodes[1].spec_version = Some(11);
        assert_eq!(missing(&status, 12).as_deref(), Some("beta does not run version 12 yet"));
        status.nodes[1].alive = false;
        assert!(missing(&status, 12).is_some(), "silent for a moment");
        status.nodes[1].age_ms = Some(status.timers.deadtime_ms);
        assert_eq!(missing(&status, 12), None, "one that is away gets it when it comes back");
        let mut disabled = status.clone();
        disabled.groups[0].disabled = Some(Default::default());
        (disabled.groups[0].leader, disabled.groups[0].state) = (None, GroupState::Standby);
        assert_eq!(missing(&disabled, 12), None, "nobody waits for what is not to run");
        status.groups[0].services[0].state = "restarting".into();
        assert!(missing(&status, 12).is_some_and(|m| m.contains("is restarting")));
    }

    #[test]
    fn replaced_variables_are_named() {
        let before = "a: ${NAME:-x}\nb: $$5\nc: \"$OTHER ${NAME}\"\n";
        let after = "a: x\nb: $$5\nc: \"1 x\"\n";
        assert_eq!(variables(before, after), ["NAME", "OTHER"]);
    }
}
