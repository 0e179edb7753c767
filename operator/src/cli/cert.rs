//! `baton cert`: certificates as files in a directory, made where the authorities' keys are. Asks no agent.

use super::exit::{CliError, Exit};
use super::format::Format;
use super::print;
use crate::security::Role;
use crate::security::guard::unix_now;
use crate::security::identity::{Identity, Kind};
use crate::security::pki::{
    AUTHORITY_DAYS, CERTIFICATE_DAYS, Pki, PkiError, RENEW_WITHIN_DAYS, Request, file_name,
};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the certificates are.
#[derive(Clone, Debug, Args)]
pub struct Dir {
    /// Directory of certificates and keys.
    #[arg(long, env = "BATON_PKI_DIR", default_value = "/etc/baton/pki")]
    pub dir: PathBuf,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make the cluster's two authorities: one for agents, people and tools, one for etcd. Keep their keys off the
    /// hosts: who has them is everybody.
    Init {
        /// Name of the cluster, as in its specification.
        #[arg(long, env = "BATON_CLUSTER")]
        cluster: String,
        /// Days of validity.
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        /// Where.
        #[command(flatten)]
        dir: Dir,
    },
    /// Make the certificates of a node: NAME.crt for its API, NAME-etcd.crt to talk to etcd (or to be a member of it).
    Node {
        /// The node, as in the specification.
        name: String,
        /// Address or host name under which it is reached; repeat it for each. Name and loopback are included.
        #[arg(long = "address", required = true)]
        addresses: Vec<String>,
        /// Where, and for how long.
        #[command(flatten)]
        life: Life,
    },
    /// Make the certificate of an etcd member on a machine that is no node (a witness).
    Etcd {
        /// The member.
        name: String,
        /// Address or host name under which it is reached; repeat it for each.
        #[arg(long = "address", required = true)]
        addresses: Vec<String>,
        /// Where, and for how long.
        #[command(flatten)]
        life: Life,
    },
    /// Make the certificate of a person or a tool.
    Client {
        /// Who it is; the audit trail will say so.
        name: String,
        /// What it may do: viewer reads, operator moves groups, admin changes the cluster.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// Where, and for how long.
        #[command(flatten)]
        life: Life,
    },
    /// Sign certificates anew, for the same holders and keys. Agents and etcd take the new file up by themselves.
    Renew {
        /// Names without .crt (default: all that expire soon).
        names: Vec<String>,
        /// What soon is, in days.
        #[arg(long, default_value_t = RENEW_WITHIN_DAYS)]
        within: i64,
        /// Where, and for how long.
        #[command(flatten)]
        life: Life,
    },
    /// Show certificates, when they expire, and what to do.
    Show {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
        /// Where.
        #[command(flatten)]
        dir: Dir,
    },
}

/// Where, and for how long.
#[derive(Clone, Debug, Args)]
pub struct Life {
    /// Days of validity; never beyond the authority's own.
    #[arg(long, default_value_t = CERTIFICATE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    #[command(flatten)]
    dir: Dir,
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Reads.
    Viewer,
    /// Moves groups, sets modes.
    Operator,
    /// Changes what the cluster is.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Runs one of them.
///
/// # Errors
/// [`CliError`] that says what to do.
pub fn run(command: CertCommand) -> Result<Exit, CliError> {
    match command {
        CertCommand::Init { cluster, days, dir } => {
            let written = Pki::new(dir.dir).init(&cluster, days).map_err(failed)?;
            print(&told(&written, "Next: 'baton cert node NAME --address ADDRESS' for every node."))
        }
        CertCommand::Node { name, addresses, life } => {
            let next = format!(
                "Next: copy ca.crt, etcd-ca.crt, {name}.* and {name}-etcd.* to the pki directory of {name}, and \
                 nothing else."
            );
            issue(Kind::Node, name, addresses, life, &next)
        }
        CertCommand::Etcd { name, addresses, life } => {
            let next = format!("Next: copy etcd-ca.crt and {name}-etcd.* to {name}, and nothing else.");
            issue(Kind::Etcd, name, addresses, life, &next)
        }
        CertCommand::Client { name, role, life } => {
            let next = format!(
                "Next: give ca.crt and {name}.* to {name}: baton --ca ca.crt --cert {name}.crt --key {name}.key status"
            );
            issue(Kind::Client(role.into()), name, Vec::new(), life, &next)
        }
        CertCommand::Renew { names, within, life } => renew(&names, within, &life),
        CertCommand::Show { format, dir } => show(&dir.dir, format),
    }
}

fn issue(kind: Kind, name: String, addresses: Vec<String>, life: Life, next: &str) -> Result<Exit, CliError> {
    let request = Request { kind, name, addresses, days: life.days };
    let written = Pki::new(life.dir.dir).issue(&request).map_err(failed)?;
    print(&told(&written, next))
}

fn told(written: &[PathBuf], next: &str) -> String {
    let lines: String = written.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    format!("{lines}{next}\n")
}

fn renew(names: &[String], within: i64, life: &Life) -> Result<Exit, CliError> {
    let pki = Pki::new(life.dir.dir.clone());
    let mut files: Vec<PathBuf> = names.iter().map(|name| pki.certificate(name)).collect();
    if names.is_empty() {
        for (path, identity) in pki.list().map_err(failed)? {
            let identity = identity.map_err(failed)?;
            let authority = matches!(identity.kind, Kind::Authority | Kind::EtcdAuthority);
            if !authority && identity.days_left(unix_now()) <= within {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        return print(&format!("Nothing expires within {within} days.\n"));
    }
    for path in files {
        let identity = pki.renew(&path, life.days).map_err(failed)?;
        print(&format!("renewed {}: {} days left\n", path.display(), identity.days_left(unix_now())))?;
    }
    print("Next: copy the .crt files to their hosts; agents and etcd read them without a restart.\n")
}

#[derive(Serialize)]
struct Shown<'a> {
    file: String,
    subject: String,
    cluster: &'a str,
    kind: &'a str,
    name: &'a str,
    addresses: &'a [String],
    not_after: i64,
    days_left: i64,
}

fn show(dir: &Path, format: Format) -> Result<Exit, CliError> {
    let found = Pki::new(dir).list().map_err(failed)?;
    let mut readable = Vec::new();
    let mut advice = Vec::new();
    for (path, identity) in &found {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match identity {
            Ok(identity) => {
                advice.extend(what_to_do(&file, identity, identity.days_left(unix_now())));
                readable.push(Shown {
                    file,
                    subject: identity.subject(),
                    cluster: &identity.cluster,
                    kind: identity.kind.word(),
                    name: &identity.name,
                    addresses: &identity.addresses,
                    not_after: identity.not_after,
                    days_left: identity.days_left(unix_now()),
                });
            }
            Err(error) => advice.push(error.to_string()),
        }
    }
    print(&format.show(&readable, |readable| table(readable, &advice)))
}

fn table(certificates: &[Shown<'_>], advice: &[String]) -> String {
    let mut text = format!("{:<24} {:<9} {:<16} {:>9}  ADDRESSES\n", "FILE", "KIND", "NAME", "DAYS LEFT");
    for c in certificates {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<24} {:<9} {:<16} {:>9}  {}",
            c.file,
            c.kind,
            c.name,
            c.days_left,
            c.addresses.join(" ")
        );
    }
    for line in advice {
        let _ = writeln!(text, "! {line}");
    }
    text
}

fn what_to_do(file: &str, identity: &Identity, days_left: i64) -> Option<String> {
    if days_left > RENEW_WITHIN_DAYS {
        return None;
    }
    let state = match days_left {
        ..0 => "has expired".to_owned(),
        _ => format!("expires in {days_left} days"),
    };
    let name = file_name(identity.kind, &identity.name);
    Some(match identity.kind {
        Kind::Authority | Kind::EtcdAuthority => {
            format!(
                "{file} {state}: every certificate it signed goes with it; see docs/security.md, 'A new authority'"
            )
        }
        _ => format!("{file} {state}: run 'baton cert renew {name}' and copy {name}.crt to where it is used"),
    })
}

fn failed(error: PkiError) -> CliError {
    let exit = match error {
        PkiError::Name(_) | PkiError::Reserved(_) | PkiError::Address(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    let next = match &error {
        PkiError::File(file) if file.is_missing() => {
            "Give the directory with --dir (BATON_PKI_DIR); 'baton cert init --cluster NAME' begins one."
        }
        _ => "",
    };
    CliError::new(exit, error.to_string(), next)
}
