//! `baton standby`, `online`, `maintenance`: what a node may do, and the sentence about who said so. The sentence is pure.

use super::paint::{age, clock};
use super::{ApiClient, CliError, Exit, bad_name, complete, print};
use crate::api::Accepted;
use crate::status::{ModeNote, NodeMode, NodeStatus};
use baton_replicator::types::NodeName;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Arguments of `standby` and `online`.
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// The node.
    #[arg(add = complete::nodes())]
    pub node: String,
    /// Why, for status and history.
    #[arg(long)]
    pub reason: Option<String>,
    /// Whose business it is (default: who asks, as the agent knows them).
    #[arg(long)]
    pub owner: Option<String>,
}

/// Arguments of `maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// Which node and why.
    #[command(flatten)]
    pub common: ModeArgs,
    /// How long it is to last. Nothing moves by itself when that is over: status, an event and an alert remind of it. In
    /// maintenance already: prolongs it, from now.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub length: Option<Duration>,
    /// When it is to be over, instead, like 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "WHEN", conflicts_with = "length")]
    pub until: Option<String>,
}

/// Puts a node into standby or online.
pub(super) async fn run(client: &ApiClient, mode: NodeMode, args: &ModeArgs) -> Result<Exit, CliError> {
    set(client, &args.node, body(mode, args)).await
}

/// Puts a node into maintenance.
pub(super) async fn maintenance(client: &ApiClient, args: &MaintenanceArgs) -> Result<Exit, CliError> {
    let mut body = body(NodeMode::Maintenance, &args.common);
    if let Some(length) = args.length {
        // A fraction of a second is none.
        body["for"] = json!(format!("{}s", length.as_secs()));
    }
    if let Some(until) = &args.until {
        body["until"] = json!(until);
    }
    set(client, &args.common.node, body).await
}

/// Only what was given: agents of before know nothing but the mode.
fn body(mode: NodeMode, args: &ModeArgs) -> Value {
    let mut body = json!({ "mode": mode });
    for (field, value) in [("reason", &args.reason), ("owner", &args.owner)] {
        if let Some(value) = value {
            body[field] = json!(value);
        }
    }
    body
}

async fn set(client: &ApiClient, node: &str, body: Value) -> Result<Exit, CliError> {
    let node = NodeName::new(node).map_err(bad_name)?;
    let accepted: Accepted = client.command(Method::PUT, &format!("/v1/nodes/{node}/mode"), &body).await?;
    print(&format!("{}\n", accepted.message))
}

/// `maintenance for 20 min, by ada, until 2026-11-21 04:50:00: new disk`; none if the node is online, or nothing is known.
#[must_use]
pub fn sentence(node: &NodeStatus, now: &str) -> Option<String> {
    let note = node.mode_note.as_ref().filter(|_| node.mode != NodeMode::Online)?;
    let ModeNote { owner, reason, since, until, expired } = note;
    let mut text = super::words::mode(node.mode).to_owned();
    if let Some(age) = age(since, now) {
        text += &format!(" for {age}");
    }
    text += &format!(", by {owner}");
    if let Some(until) = until {
        text += &match expired {
            true => format!(", OVERDUE since {}", clock(until)),
            false => format!(", until {}", clock(until)),
        };
    }
    if !reason.is_empty() {
        text += &format!(": {reason}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn the_sentence_says_who_why_and_until_when() {
        let mut status = fixture::maintained();
        let now = status.at.clone();
        let said = |node: &NodeStatus| sentence(node, &now).expect("a sentence");
        let beta = &mut status.nodes[1];
        assert_eq!(said(beta), "maintenance for 20 min, by ada, until 2026-11-21 04:50:00: new disk");
        let note = beta.mode_note.as_mut().expect("a note");
        (note.expired, note.reason) = (true, String::new());
        assert_eq!(said(beta), "maintenance for 20 min, by ada, OVERDUE since 2026-11-21 04:50:00");
        beta.mode = NodeMode::Standby;
        beta.mode_note.as_mut().expect("a note").until = None;
        assert_eq!(said(beta), "standby for 20 min, by ada");
        beta.mode = NodeMode::Online;
        assert_eq!(sentence(beta, &now), None);
    }
}
