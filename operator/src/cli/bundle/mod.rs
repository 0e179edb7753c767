//! `baton support-bundle`: one archive with what a bug report needs, secrets removed.
//!
//! * `collect` asks agents, replicator, engine and kernel; what does not answer is noted, not waited for.
//! * `redact` takes secrets out of every text, by what is known and by what looks like one.
//! * `archive` packs the texts with a manifest into a file that only its owner can read.

mod archive;
mod collect;
mod redact;

use super::client::ApiClient;
use super::doctor::{self, DoctorArgs, HostArgs};
use super::exit::{CliError, Exit};
use super::format::{self, Format};
use super::paint::{Paint, clock};
use super::print;
use crate::status::ClusterStatus;
use archive::Texts;
use clap::Args;
use redact::Redactor;
use std::path::PathBuf;
use std::time::SystemTime;

/// Arguments of `support-bundle`.
#[derive(Args, Clone, Debug)]
pub struct BundleArgs {
    /// The archive (default: baton-support-TIME.tar.gz here). It must not exist.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Lines of each container's log, the last ones.
    #[arg(long, default_value_t = 2000)]
    pub log_lines: usize,
    /// Leave the checks of 'baton doctor' out: they take half a minute.
    #[arg(long)]
    pub no_doctor: bool,
    /// Where things are on this host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Makes the archive.
pub(super) async fn run(client: &ApiClient, args: &BundleArgs) -> Result<Exit, CliError> {
    let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let stamp: String = clock(&at).chars().filter(char::is_ascii_digit).collect();
    let top = format!("baton-support-{stamp}");
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{top}.tar.gz")));
    if path.exists() {
        let what = format!("{} is there already", path.display());
        return Err(CliError::new(Exit::Failed, what, "Give another --output."));
    }
    let mut texts = Texts::default();
    let mut secrets = own_secrets(&args.host);
    let (status, found) = collect::agents(client, &mut texts).await;
    secrets.extend(found);
    collect::replicator(&args.host.run_dir, &mut texts).await;
    let containers = collect::containers(&args.host.docker, args.log_lines, &mut texts).await;
    secrets.extend(containers.secrets);
    let mut names = containers.names;
    names.extend(status.iter().flat_map(names_of));
    collect::host(&mut texts);
    if args.no_doctor {
        texts.add("doctor.txt", Err("not asked for".into()));
    } else {
        let doctor =
            DoctorArgs { only: vec![], skip: vec![], host: args.host.clone(), format: Format::default() };
        let report = doctor::examine(client, &doctor).await;
        texts.add("doctor.txt", Ok(doctor::render(&report, Paint { color: false })));
        texts.add("doctor.json", Ok(format::json(&report)));
    }
    texts.add("versions.txt", Ok(versions(status.as_ref())));
    let cluster = status.as_ref().map_or("unknown", |s| s.cluster.as_str());
    let head = format!(
        "Baton support bundle of cluster {cluster}, made {} UTC by baton {}.\n",
        clock(&at),
        env!("CARGO_PKG_VERSION")
    );
    let broken = |e: &dyn std::fmt::Display| {
        let what = format!("cannot write {}: {e}", path.display());
        CliError::new(Exit::Failed, what, "Check the directory and the free space.")
    };
    let redactor = Redactor::new(secrets, &names).map_err(|e| broken(&e))?;
    let parts = texts.len();
    let manifest = texts.pack(&path, &top, &head, &redactor).map_err(|e| {
        // Half an archive helps nobody; if it cannot be removed either, the error says where it is.
        let _ = std::fs::remove_file(&path);
        broken(&e)
    })?;
    let left_out = manifest.split("What was left out:\n").nth(1).unwrap_or_default();
    let left_out: Vec<&str> = left_out.lines().take_while(|l| !l.is_empty()).collect();
    print(&format!(
        "{}: {parts} texts, secrets removed. Left out:\n{}\nLook before you send it: tar -xzOf {} | less\n",
        path.display(),
        left_out.join("\n"),
        path.display()
    ))
}

/// The secrets that this host holds in files: they must not appear, so they have to be known.
fn own_secrets(host: &HostArgs) -> Vec<String> {
    let mut files = vec![host.secret_file.clone()];
    files.extend(std::env::var_os("BATON_TOKEN_FILE").map(PathBuf::from));
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}

/// What the status calls things: in every other line of the bundle, and no secret.
fn names_of(status: &ClusterStatus) -> Vec<String> {
    let mut names = vec![status.cluster.clone()];
    names.extend(status.nodes.iter().map(|n| n.name.to_string()));
    for group in &status.groups {
        names.push(group.name.to_string());
        names.extend(group.services.iter().flat_map(|s| [s.name.clone(), s.container.clone()]));
        names.extend(group.volumes.iter().map(|v| v.volume.to_string()));
    }
    names
}

fn versions(status: Option<&ClusterStatus>) -> String {
    let mut text = format!("baton {}\n", env!("CARGO_PKG_VERSION"));
    for node in status.iter().flat_map(|s| &s.nodes) {
        text.push_str(&format!("agent {} {}\n", node.name, node.version.as_deref().unwrap_or("not known")));
    }
    text
}

#[cfg(test)]
mod tests;
