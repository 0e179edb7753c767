//! `baton volume resolve`, `snapshots` and `release`: a split brain, decided by a person; and what was given up for it.

use super::ask::ask;
use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::{Cell, Paint, bytes, cell, table};
use super::{bad_name, print};
use crate::api::Accepted;
use baton_replicator::api::{Snapshot, VolumeStatus};
use baton_replicator::core::split_brain::utc;
use baton_replicator::types::{NodeName, VolumeName};
use clap::Args;
use reqwest::Method;
use serde_json::json;

/// Arguments of `volume resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// The volume.
    #[arg(value_name = "VOLUME")]
    pub name: String,
    /// The node whose data is given up. It must not lead the group.
    #[arg(long, value_name = "NODE")]
    pub discard: String,
    /// Keep no copy of what is given up: the only way where the backing store is a block device.
    #[arg(long)]
    pub no_snapshot: bool,
    /// How to go about it.
    #[command(flatten)]
    pub how: Sure,
}

/// Arguments of `volume release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The volume.
    #[arg(value_name = "VOLUME")]
    pub name: String,
    /// The copy, as 'volume snapshots' lists it.
    pub snapshot: String,
    /// The node that holds it, if several hold one of that name.
    #[arg(long)]
    pub node: Option<String>,
    /// How to go about it.
    #[command(flatten)]
    pub how: Sure,
}

/// How to go about what cannot be undone.
#[derive(Debug, Args)]
pub struct Sure {
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) async fn resolve(client: &ApiClient, args: &ResolveArgs) -> Result<Exit, CliError> {
    let name = VolumeName::new(args.name.clone()).map_err(bad_name)?;
    let node = NodeName::new(args.discard.clone()).map_err(bad_name)?;
    let body = json!({ "discard": node, "snapshot": !args.no_snapshot });
    carry_out(client, Method::POST, &format!("/v1/volumes/{name}/resolve?"), &body, &args.how).await
}

pub(super) async fn release(client: &ApiClient, args: &ReleaseArgs) -> Result<Exit, CliError> {
    let name = VolumeName::new(args.name.clone()).map_err(bad_name)?;
    let node = args.node.clone().map(NodeName::new).transpose().map_err(bad_name)?;
    let of = node.map(|n| format!("node={n}&")).unwrap_or_default();
    let snapshot = segment(&args.snapshot)?;
    let path = format!("/v1/volumes/{name}/snapshots/{snapshot}?{of}");
    carry_out(client, Method::DELETE, &path, &json!({}), &args.how).await
}

/// A copy's name as a part of a path: no other sign occurs in one.
fn segment(name: &str) -> Result<&str, CliError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(name);
    }
    Err(CliError::new(
        Exit::Usage,
        format!("'{name}' is no copy's name"),
        "see 'baton volume snapshots VOLUME'",
    ))
}

/// Says what would happen, asks, and does it. `path` ends where `dry_run` can be added.
async fn carry_out(
    client: &ApiClient,
    method: Method,
    path: &str,
    body: &serde_json::Value,
    how: &Sure,
) -> Result<Exit, CliError> {
    let would: Accepted = client.command(method.clone(), &format!("{path}dry_run=true"), body).await?;
    if how.dry_run || !how.yes {
        print(&said(&would))?;
    }
    if how.dry_run {
        return Ok(Exit::Ok);
    }
    if !how.yes {
        ask("Go on?", "nothing was done", "it cannot be undone")?;
    }
    let accepted: Accepted = client.command(method, &format!("{path}dry_run=false"), body).await?;
    print(&format!("{}\n", accepted.message))
}

fn said(accepted: &Accepted) -> String {
    let lines: Vec<String> = accepted.consequences.iter().map(|line| format!("  - {line}\n")).collect();
    format!("{}:\n{}", accepted.message, lines.concat())
}

/// `baton volume snapshots`.
pub(super) async fn snapshots(
    client: &ApiClient,
    name: &str,
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let name = VolumeName::new(name).map_err(bad_name)?;
    let volume: VolumeStatus = client.get(&format!("/v1/volumes/{name}")).await?;
    print(&format.show(&volume.snapshots, |copies| render(copies, paint)))
}

fn render(copies: &[Snapshot], paint: Paint) -> String {
    if copies.is_empty() {
        return "No copies are kept.\n".into();
    }
    let row = |c: &Snapshot| {
        vec![cell(c.node.to_string()), cell(utc(c.made_at_s)), cell(bytes(c.bytes)), cell(c.name.clone())]
    };
    let rows: Vec<Vec<Cell>> = copies.iter().map(row).collect();
    table(paint, 0, &["NODE", "MADE", "ON DISK", "SNAPSHOT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::Generation;

    #[test]
    fn copies_are_listed_with_node_date_and_size() {
        let copy = Snapshot {
            node: NodeName::new("alpha").unwrap(),
            name: "webstore.img.discarded-1795291500-00000000000000ab".into(),
            made_at_s: 1_795_291_500,
            generation: Generation(0xab),
            bytes: 3 << 20,
        };
        let text = render(&[copy], Paint { color: false });
        let words = ["webstore.img.discarded-1795291500", "alpha", "2026-11-21 20:05:00 UTC", "3.00 MiB"];
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
        assert_eq!(render(&Vec::new(), Paint { color: false }), "No copies are kept.\n");
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for bad in ["", "../x", "a/b", "a?dry_run=false", "a%2f"] {
            assert!(segment(bad).is_err(), "{bad}");
        }
        assert!(segment("webstore.img.discarded-1795291500-00000000000000ab").is_ok());
    }
}
