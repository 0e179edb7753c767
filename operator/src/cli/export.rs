//! `baton volume export`: has a snapshot of a replica served for backup, and ends that.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::bytes;
use super::{bad_name, print};
use crate::status::ClusterStatus;
use baton_replicator::api::ExportStatus;
use baton_replicator::types::VolumeName;
use clap::Args;
use reqwest::Method;

/// Arguments of `volume export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The volume.
    #[arg(value_name = "VOLUME")]
    pub name: String,
    /// The node whose replica is exported, on a socket there (default: the one whose agent answers).
    #[arg(long)]
    pub node: Option<String>,
    /// End it, and give its space back.
    #[arg(long)]
    pub end: bool,
    /// The form of the answer.
    #[command(flatten)]
    pub format: Format,
}

pub(super) async fn run(client: &ApiClient, args: &ExportArgs) -> Result<Exit, CliError> {
    let name = VolumeName::new(args.name.clone()).map_err(bad_name)?;
    let there = match &args.node {
        Some(node) => agent_of(client, node).await?,
        None => client.clone(),
    };
    let path = format!("/v1/volumes/{name}/export");
    if args.end {
        there.done(Method::DELETE, &path).await?;
        return print(&format!("The export of {name} has ended.\n"));
    }
    let export: ExportStatus = there.command(Method::POST, &path, &serde_json::json!({})).await?;
    print(&args.format.show(&export, |export| render(&name, export)))
}

async fn agent_of(client: &ApiClient, node: &str) -> Result<ApiClient, CliError> {
    let status: ClusterStatus = client.get("/v1/status").await?;
    let known = status.nodes.iter().find(|n| n.name.as_str() == node);
    match known {
        Some(n) if n.name == status.node => Ok(client.clone()),
        Some(n) => client.at_host(&n.address),
        None => {
            let names: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).collect();
            let next = format!("The nodes are {}.", names.join(", "));
            Err(CliError::new(Exit::Usage, format!("there is no node {node}"), next))
        }
    }
}

/// The URI alone on the first line, for scripts.
fn render(name: &VolumeName, export: &ExportStatus) -> String {
    let broken = export.broken.as_ref().map(|why| {
        format!(
            "It cannot be read any more: {why}. End it with 'baton volume export {name} --end' and take another.\n"
        )
    });
    format!(
        "{}\n{} of data as of {}, {} clients, {} copied because they changed since.\n{}",
        export.uri,
        bytes(export.data_bytes),
        humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(export.taken_at_s)
        ),
        export.clients,
        bytes(export.copied_bytes),
        broken.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_for_scripts_and_a_broken_one_says_what_to_do() {
        let name = VolumeName::new("webstore").unwrap();
        let uri = "nbd+unix:///webstore?socket=/run/baton/webstore.snapshot.nbd";
        let export =
            ExportStatus { uri: uri.into(), data_bytes: 1 << 20, clients: 2, ..ExportStatus::default() };
        let text = render(&name, &export);
        assert_eq!(text.lines().next(), Some(uri));
        assert!(text.contains("1.00 MiB of data as of 1970-01-01T00:00:00Z, 2 clients"), "{text}");
        let broken = ExportStatus { broken: Some("the disk is full".into()), ..export };
        assert!(
            render(&name, &broken)
                .contains("the disk is full. End it with 'baton volume export webstore --end'")
        );
    }
}
