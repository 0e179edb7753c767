//! The read commands `status`, `nodes`, `groups`, `node show`, `group show`, `explain`: what is asked of the agent,
//! which part of the answer is kept, and the exit code. Rendering is in `status_page` and `explain`.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::explain::{self, explain};
use super::format::Format;
use super::paint::Paint;
use super::print;
use super::status_page::{self, Detail, Parts, group_health};
use crate::api::Accepted;
use crate::status::{ClusterStatus, GroupStatus, Health, NodeStatus};
use baton_replicator::types::{GroupName, NodeName};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

/// Arguments of `status`.
#[derive(Args, Clone, Debug, Default)]
pub struct StatusArgs {
    /// Only the groups.
    #[arg(long, conflicts_with = "nodes")]
    pub groups: bool,
    /// Only etcd and the nodes.
    #[arg(long)]
    pub nodes: bool,
    /// Only this group; may be repeated, and `*` stands for any text.
    #[arg(long, short, value_name = "NAME", add = super::complete::groups())]
    pub group: Vec<String>,
    /// Only groups that this node leads.
    #[arg(long, value_name = "NODE", add = super::complete::nodes())]
    pub on: Option<String>,
    /// Only groups that do not serve or that nobody could take over.
    #[arg(long)]
    pub problems: bool,
    /// Every group in full (the default for up to six).
    #[arg(long, conflicts_with = "compact")]
    pub full: bool,
    /// One line per group (the default for more, with the troubled ones in full below).
    #[arg(long)]
    pub compact: bool,
    /// The form of the answer.
    #[command(flatten)]
    pub format: Format,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Everything about one group, and what would change it.
    Show {
        /// The group.
        #[arg(value_name = "GROUP", add = super::complete::groups())]
        name: String,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Keep a group on its node: it leaves that only when it must (the node dies, goes into standby mode, or cannot run
    /// it), and stays then where it was taken over. Stands until it is unpinned.
    Pin {
        /// Which group and why.
        #[command(flatten)]
        place: PlaceArgs,
        /// Move it to this node first.
        #[arg(long, value_name = "NODE", add = super::complete::nodes())]
        to: Option<String>,
    },
    /// Let a pinned group move by itself again.
    Unpin {
        /// The group.
        #[arg(value_name = "GROUP", add = super::complete::groups())]
        name: String,
    },
    /// Stop a group in order, and keep it stopped until it is enabled, across restarts of agents and hosts. Its volumes
    /// stay replicated.
    Disable(PlaceArgs),
    /// Let a disabled group run again.
    Enable {
        /// The group.
        #[arg(value_name = "GROUP", add = super::complete::groups())]
        name: String,
    },
}

/// A group that is pinned or disabled.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// The group.
    #[arg(value_name = "GROUP", add = super::complete::groups())]
    pub name: String,
    /// Why, for status and history.
    #[arg(long)]
    pub reason: Option<String>,
    /// Whose business it is (default: who asks, as the agent knows them).
    #[arg(long)]
    pub owner: Option<String>,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Everything about one node, and its part in each group.
    Show {
        /// The node.
        #[arg(value_name = "NODE", add = super::complete::nodes())]
        name: String,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
}

pub(super) fn exit_of(health: Health) -> Exit {
    match health {
        Health::Ok => Exit::Ok,
        Health::Degraded => Exit::Degraded,
        Health::Down => Exit::Down,
    }
}

async fn snapshot(client: &ApiClient) -> Result<ClusterStatus, CliError> {
    client.get("/v1/status").await
}

pub(super) async fn status(client: &ApiClient, args: &StatusArgs, paint: Paint) -> Result<Exit, CliError> {
    let mut status = snapshot(client).await?;
    let health = status.health;
    select(&mut status, args)?;
    let parts = Parts {
        nodes: !args.groups,
        groups: !args.nodes,
        detail: match (args.full, args.compact) {
            (true, _) => Detail::Full,
            (_, true) => Detail::Compact,
            _ => Detail::Auto,
        },
    };
    print(&args.format.show(&status, |s| status_page::render_parts(s, parts, paint)))?;
    // With a filter the code speaks of what was asked for.
    let filtered = !args.group.is_empty() || args.on.is_some();
    let worst = |a: Health, b: Health| if exit_of(a) as u8 >= exit_of(b) as u8 { a } else { b };
    let of_these = || status.groups.iter().map(group_health).fold(Health::Ok, worst);
    Ok(exit_of(if filtered { of_these() } else { health }))
}

/// Keeps what was asked for.
fn select(status: &mut ClusterStatus, args: &StatusArgs) -> Result<(), CliError> {
    for pattern in &args.group {
        if !status.groups.iter().any(|g| matches(pattern, g.name.as_str())) {
            return Err(unknown("group", pattern, status.groups.iter().map(|g| g.name.as_str())));
        }
    }
    if let Some(node) = &args.on
        && !status.nodes.iter().any(|n| n.name.as_str() == node)
    {
        return Err(unknown("node", node, status.nodes.iter().map(|n| n.name.as_str())));
    }
    status.groups.retain(|group| {
        let named = args.group.is_empty() || args.group.iter().any(|p| matches(p, group.name.as_str()));
        let placed = args.on.as_ref().is_none_or(|n| group.leader.as_ref().is_some_and(|l| l.as_str() == n));
        let wanted = !args.problems || group_health(group) != Health::Ok;
        named && placed && wanted
    });
    Ok(())
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            // The shortest match of a star first; names are short.
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| matches(rest, &tail[i..]))
        }),
    }
}

pub(super) fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> CliError {
    let known: Vec<&str> = known.collect();
    let known = if known.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    CliError::new(Exit::Failed, format!("no {kind} is called '{name}'"), format!("Check the name; {known}."))
}

pub(super) async fn nodes(client: &ApiClient, format: Format, paint: Paint) -> Result<Exit, CliError> {
    let status = snapshot(client).await?;
    print(&format.show(&status.nodes, |_| status_page::render_nodes(&status, 0, paint)))
}

pub(super) async fn node(
    client: &ApiClient,
    name: &str,
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let status = snapshot(client).await?;
    let found: Option<&NodeStatus> = status.nodes.iter().find(|n| n.name.as_str() == name);
    let node = found.ok_or_else(|| unknown("node", name, status.nodes.iter().map(|n| n.name.as_str())))?;
    print(&format.show(node, |node| status_page::render_node(&status, node, paint)))
}

pub(super) async fn groups(client: &ApiClient, format: Format, paint: Paint) -> Result<Exit, CliError> {
    let status = snapshot(client).await?;
    print(&format.show(&status.groups, |groups| status_page::render_groups(groups, 0, paint)))
}

pub(super) async fn group(
    client: &ApiClient,
    name: &str,
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let status = snapshot(client).await?;
    let group = find(&status, name)?;
    print(&format.show(group, |group| {
        let explained = explain::render(&explain(&status, group), paint);
        // Its headline repeats the page's.
        let explained = explained.split_once('\n').map_or("", |(_, rest)| rest);
        status_page::render_group(group, &status.at, paint) + explained
    }))?;
    Ok(exit_of(group_health(group)))
}

/// Everything that is done with one group.
pub(super) async fn group_command(
    client: &ApiClient,
    command: GroupCommand,
    paint: Paint,
) -> Result<Exit, CliError> {
    let (method, name, what, body) = match command {
        GroupCommand::Show { name, format } => return group(client, &name, format, paint).await,
        GroupCommand::Pin { place, to } => {
            let mut body = note(&place);
            if let Some(to) = to {
                body["to"] = json!(NodeName::new(to).map_err(super::bad_name)?);
            }
            (Method::PUT, place.name, "pin", body)
        }
        GroupCommand::Unpin { name } => (Method::DELETE, name, "pin", json!({})),
        GroupCommand::Disable(place) => (Method::PUT, place.name.clone(), "disabled", note(&place)),
        GroupCommand::Enable { name } => (Method::DELETE, name, "disabled", json!({})),
    };
    let name = GroupName::new(name).map_err(super::bad_name)?;
    let accepted: Accepted = client.command(method, &format!("/v1/groups/{name}/{what}"), &body).await?;
    print(&format!("{}\n", accepted.message))
}

fn note(place: &PlaceArgs) -> Value {
    let mut body = json!({});
    for (field, value) in [("reason", &place.reason), ("owner", &place.owner)] {
        if let Some(value) = value {
            body[field] = json!(value);
        }
    }
    body
}

fn find<'a>(status: &'a ClusterStatus, name: &str) -> Result<&'a GroupStatus, CliError> {
    let known = || status.groups.iter().map(|g| g.name.as_str());
    status.groups.iter().find(|g| g.name.as_str() == name).ok_or_else(|| unknown("group", name, known()))
}

pub(super) async fn explain_groups(
    client: &ApiClient,
    name: Option<&str>,
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let status = snapshot(client).await?;
    let groups = match name {
        Some(name) => vec![find(&status, name)?],
        None => status.groups.iter().collect(),
    };
    let all: Vec<_> = groups.into_iter().map(|group| explain(&status, group)).collect();
    print(&format.show(&all, |all| {
        let pages: Vec<String> = all.iter().map(|e| explain::render(e, paint)).collect();
        pages.join("\n")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, fits) in [
            ("web", "web", true),
            ("web", "web2", false),
            ("web*", "web", true),
            ("web*", "web-shop", true),
            ("*shop", "web-shop", true),
            ("*-*", "web-shop", true),
            ("*-*", "web", false),
            ("w*b*p", "web-shop", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn filters_keep_what_was_asked_for_and_name_what_there_is() {
        let mut two = fixture::resyncing();
        let mut mail = fixture::healthy().groups.remove(0);
        mail.name = fixture::group("mail");
        mail.leader = Some(fixture::node("beta"));
        mail.nodes[0].ready = true;
        two.groups.insert(0, mail);
        let names = |args: StatusArgs| {
            let mut status = two.clone();
            select(&mut status, &args)
                .map(|()| status.groups.iter().map(|g| g.name.to_string()).collect::<Vec<_>>().join(" "))
        };
        let group = |g: &str| StatusArgs { group: vec![g.into()], ..StatusArgs::default() };
        assert_eq!(names(StatusArgs::default()).unwrap(), "mail web");
        assert_eq!(names(group("we*")).unwrap(), "web");
        assert_eq!(names(StatusArgs { on: Some("beta".into()), ..StatusArgs::default() }).unwrap(), "mail");
        assert_eq!(names(StatusArgs { problems: true, ..StatusArgs::default() }).unwrap(), "web");
        let error = names(group("wep")).unwrap_err();
        assert!(error.next.contains("mail, web"), "{error}");
        assert!(names(StatusArgs { on: Some("gamma".into()), ..StatusArgs::default() }).is_err());
    }
}
