//! `baton fence`: external fence agents by a person's word, their devices, and a test of them.

use super::ask::ask;
use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::{Cell, Paint, Tone, cell, hanging, table};
use super::{bad_name, print};
use crate::api::Accepted;
use crate::status::{ClusterStatus, FenceStatus, NodeStatus};
use baton_replicator::core::split_brain::utc;
use baton_replicator::types::NodeName;
use clap::{Args, ValueEnum};
use reqwest::Method;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks while something is done.
const LOOK: Duration = Duration::from_millis(300);
/// Devices need seconds; their own timeouts end them, and this the waiting.
const PATIENCE: Duration = Duration::from_secs(900);

/// What is done to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FenceAction {
    /// Switch it off.
    #[default]
    Off,
    /// Switch it off and on again.
    Reboot,
    /// Switch it on.
    On,
    /// Only ask whether it is on.
    Status,
}

impl FenceAction {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
            Self::On => "on",
            Self::Status => "status",
        }
    }
}

/// Arguments of `fence`.
#[derive(Debug, Args)]
pub struct FenceArgs {
    /// The node.
    #[arg(required_unless_present_any = ["list", "test"], conflicts_with_all = ["list", "test"], add = super::complete::nodes())]
    pub node: Option<String>,
    /// What is done to it.
    #[arg(long, value_enum, default_value_t)]
    pub action: FenceAction,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// Show every node's devices, whether they answer, and what was done last.
    #[arg(long, conflicts_with = "test")]
    pub list: bool,
    /// Ask every device now, then show the same; exit code 1 if one does not answer.
    #[arg(long)]
    pub test: bool,
    /// The form of the answer of --list and --test.
    #[command(flatten)]
    pub format: Format,
}

pub(super) async fn run(client: &ApiClient, args: &FenceArgs, paint: Paint) -> Result<Exit, CliError> {
    match &args.node {
        Some(node) => fence(client, &NodeName::new(node.clone()).map_err(bad_name)?, args).await,
        None if args.test => test(client, args.format, paint).await,
        None => {
            let status: ClusterStatus = client.get("/v1/status").await?;
            print(&args.format.show(&status.nodes, |nodes| render(nodes, &status.node, paint)))
        }
    }
}

async fn fence(client: &ApiClient, node: &NodeName, args: &FenceArgs) -> Result<Exit, CliError> {
    let status: ClusterStatus = client.get("/v1/status").await?;
    // A node does not fence itself: another agent is asked.
    let other = status.nodes.iter().find(|n| n.name != *node && n.alive);
    let client = match other {
        Some(other) if status.node == *node => client.at_host(&other.address)?,
        _ => client.clone(),
    };
    let path = format!("/v1/nodes/{node}/fence");
    let body = serde_json::json!({ "action": args.action.word() });
    let would: Accepted = client.command(Method::POST, &format!("{path}?dry_run=true"), &body).await?;
    let harmless = args.action == FenceAction::Status;
    if args.dry_run || !(args.yes || harmless) {
        let lines: Vec<String> = would.consequences.iter().map(|line| format!("  - {line}\n")).collect();
        print(&format!("{}:\n{}", would.message, lines.concat()))?;
    }
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    if !args.yes && !harmless {
        ask("Go on?", "nothing was done", "it cuts the power of a host")?;
    }
    let before = of(&client, node).await?.and_then(|f| f.last).map_or(0, |r| r.id);
    let began = Instant::now();
    let _: Accepted = client.command(Method::POST, &path, &body).await?;
    while began.elapsed() < PATIENCE {
        let now = of(&client, node).await?;
        if let Some(record) = now.and_then(|f| f.last).filter(|r| r.id > before) {
            if record.ok {
                return print(&format!("{}: {}\n", record.action, record.said));
            }
            return Err(CliError::new(
                Exit::Failed,
                format!("{} of {node} failed: {}", record.action, record.said),
                "Look at the device by hand; 'baton fence --list' shows all of them.",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(CliError::new(
        Exit::Failed,
        format!("no outcome after {} s", PATIENCE.as_secs()),
        "'baton fence --list' and 'baton events' say whether it goes on, or why it was not begun.",
    ))
}

async fn of(client: &ApiClient, node: &NodeName) -> Result<Option<FenceStatus>, CliError> {
    Ok(client.get::<NodeStatus>(&format!("/v1/nodes/{node}")).await?.fence)
}

async fn test(client: &ApiClient, format: Format, paint: Paint) -> Result<Exit, CliError> {
    let before: ClusterStatus = client.get("/v1/status").await?;
    let asked = |s: &ClusterStatus| -> Vec<u64> {
        let others = s.nodes.iter().filter(|n| n.name != s.node);
        others.filter_map(|n| n.fence.as_ref()).flat_map(|f| &f.devices).map(|d| d.asked).collect()
    };
    let old = asked(&before);
    // Seconds are what is told: a round within the same second would not be seen to be a new one.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let _: Accepted = client.command(Method::POST, "/v1/fence/test", &serde_json::json!({})).await?;
    let began = Instant::now();
    loop {
        let status: ClusterStatus = client.get("/v1/status").await?;
        let now = asked(&status);
        let done = now.len() != old.len() || now.iter().zip(&old).all(|(new, old)| new > old);
        if done || began.elapsed() >= PATIENCE {
            print(&format.show(&status.nodes, |nodes| render(nodes, &status.node, paint)))?;
            let others = status.nodes.iter().filter(|n| n.name != status.node);
            let dead = others
                .filter_map(|n| n.fence.as_ref())
                .flat_map(|f| &f.devices)
                .filter(|d| d.answers != Some(true))
                .count();
            return match dead {
                0 => Ok(Exit::Ok),
                n => Err(CliError::new(
                    Exit::Failed,
                    format!("{n} fence devices do not answer"),
                    "Mend the device, its address, user or password file, and repeat this.",
                )),
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A line per device, and what was done last.
#[must_use]
pub fn render(nodes: &[NodeStatus], me: &NodeName, paint: Paint) -> String {
    let with: Vec<(&NodeStatus, &FenceStatus)> =
        nodes.iter().filter_map(|n| Some((n, n.fence.as_ref()?))).collect();
    if with.is_empty() {
        return "No node has fence devices (nodes.NODE.fence in the specification).\n".into();
    }
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (node, fence) in &with {
        for device in &fence.devices {
            let answers = match device.answers {
                Some(true) => ("yes".to_owned(), Tone::Good),
                Some(false) => ("NO".to_owned(), Tone::Bad),
                None if node.name == *me => cell("not asked by itself"),
                None => cell("not asked yet"),
            };
            let asked = if device.asked == 0 { "-".to_owned() } else { utc(device.asked) };
            rows.push(vec![
                cell(node.name.to_string()),
                cell(device.level.to_string()),
                cell(device.name.clone()),
                answers,
                cell(asked),
            ]);
        }
    }
    let mut out = table(paint, 0, &["NODE", "LEVEL", "DEVICE", "ANSWERS", "ASKED"], &rows);
    for (node, fence) in with {
        for device in fence.devices.iter().filter(|d| d.answers == Some(false)) {
            out.push_str(&hanging(&format!("{}, {}: ", node.name, device.name), &device.said));
        }
        if let Some(running) = &fence.running {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{}: {running} is under way", node.name);
        }
        if let Some(last) = &fence.last {
            let result = if last.ok { "done" } else { "FAILED" };
            let text = format!(
                "{} {result} at {} by {}, {}: {}{}",
                last.action,
                utc(last.at),
                last.by,
                last.because,
                last.said,
                if fence.off { "; not heard since" } else { "" }
            );
            out.push_str(&hanging(&format!("{}: ", node.name), &text));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::healthy;
    use crate::status::{FenceDeviceStatus, FenceRecord};

    #[test]
    fn devices_and_the_last_deed_are_listed() {
        let mut status = healthy();
        let me = status.node.clone();
        let paint = Paint { color: false };
        assert!(render(&status.nodes, &me, paint).contains("nodes.NODE.fence"));
        let device = FenceDeviceStatus {
            level: 1,
            name: "fence_ipmilan 10.9.0.12".into(),
            answers: Some(false),
            said: "exit code 1: Unable to connect".into(),
            asked: 1_795_291_500,
        };
        let last = FenceRecord {
            action: "off".into(),
            because: "before web is taken over".into(),
            at: 1_795_291_500,
            ok: true,
            said: "level 1: it is off".into(),
            ..FenceRecord::of(me.clone())
        };
        let devices = vec![device];
        let fence = FenceStatus { devices, running: None, last: Some(last), off: true, done: 1, failed: 0 };
        status.nodes[1].fence = Some(fence);
        let text = render(&status.nodes, &me, paint);
        for word in
            ["beta", "fence_ipmilan 10.9.0.12", "NO", "Unable to connect", "off done", "not heard since"]
        {
            assert!(text.contains(word), "{word} in\n{text}");
        }
    }
}
