//! The command line's grammar.

use super::bundle::BundleArgs;
use super::complete;
use super::context::ContextCommand;
use super::doctor::DoctorArgs;
use super::endpoint::ClientOptions;
use super::exit::EXIT_HELP;
use super::format::Format;
use super::mode::{MaintenanceArgs, ModeArgs};
use super::read::{GroupCommand, NodeCommand, StatusArgs};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

/// Look at and steer a Baton cluster.
#[derive(Debug, Parser)]
#[command(name = "baton", version, after_help = EXIT_HELP, max_term_width = 100)]
pub struct Cli {
    /// API addresses of agents, tried in order; the first that answers is used. Default: those of the context in use,
    /// else the agent of this host, by its Unix socket.
    #[arg(long, env = "BATON_API", value_delimiter = ',', global = true)]
    pub api: Vec<String>,
    /// How to prove who asks.
    #[command(flatten)]
    pub credentials: Credentials,
    /// The cluster to talk to, by the name of its context (see 'baton context').
    #[arg(long, env = "BATON_CONTEXT", global = true, add = complete::contexts())]
    pub context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to prove who asks.
#[derive(Clone, Debug, Default, Args)]
pub struct Credentials {
    /// Certificate of the cluster's authority (default: /etc/baton/pki/ca.crt).
    #[arg(long, env = "BATON_CA", global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// File with a token, mode 0600.
    #[arg(long, env = "BATON_TOKEN_FILE", global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, env = "BATON_CERT", global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, mode 0600.
    #[arg(long, env = "BATON_KEY", global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

impl Cli {
    /// Addresses and credentials as given.
    #[must_use]
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions {
            addresses: self.api.clone(),
            ca: self.credentials.ca.clone(),
            token_file: self.credentials.token_file.clone(),
            cert: self.credentials.cert.clone(),
            key: self.credentials.key.clone(),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show nodes, groups, who serves since when, and what to do next.
    Status(StatusArgs),
    /// One line per node: heard when, longest gap, late heartbeats, version.
    Nodes(Format),
    /// One node.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Heartbeat links of the answering node: state, losses and gaps of each, who hears whom, and the timers that the
    /// measured gaps would allow.
    Links(Format),
    /// One line per group: state, leader, epoch, who could take over.
    Groups(Format),
    /// One group.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Why each group is where it is, and what would change it.
    Explain {
        /// Only this group.
        #[arg(add = complete::groups())]
        group: Option<String>,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// What would happen if a node, etcd or a link went down now: who takes over and when, or why nobody can. Runs the
    /// agents' own decision rules in simulated time; changes nothing.
    WhatIf(super::whatif_page::WhatIfArgs),
    /// The cluster live on one screen: hosts, groups, volumes, links, events; ? for help, q ends it.
    Watch {
        /// Plain pages one after the other, as without a terminal.
        #[arg(long)]
        plain: bool,
        /// Time between two looks, where the agent does not send changes by itself.
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        interval: Duration,
        /// End after so many looks (plain pages).
        #[arg(long)]
        count: Option<u64>,
    },
    /// Hand a group over to another node and wait until it serves there.
    Move(MoveArgs),
    /// Take a node out of service: its groups are handed over, it goes on replicating.
    Standby(ModeArgs),
    /// Put a node back into service.
    Online(ModeArgs),
    /// Leave a node alone: nothing is moved or restarted by itself, until it is put online again.
    Maintenance(MaintenanceArgs),
    /// Switch a node off, on, or off and on again by its external fence agents; list and test them.
    Fence(super::fence::FenceArgs),
    /// Tell every agent to trust what etcd says about a group now. For an etcd that was restored from a backup or made
    /// anew, after a look at `baton status`: what it says then decides who may lead.
    Recover {
        /// The group.
        #[arg(add = complete::groups())]
        group: String,
    },
    /// The cluster as a whole: recover it after etcd was lost.
    #[command(subcommand)]
    Cluster(super::cluster::ClusterCommand),
    /// Replicated volumes as the answering node sees them.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show the history: who, what, why.
    Events {
        /// How many, the newest.
        #[arg(short, default_value_t = 20)]
        n: usize,
        /// Go on with new ones as they happen.
        #[arg(long, short)]
        follow: bool,
        /// Instead the timeline of each group's newest takeover, handover or first start: step, when, how long.
        #[arg(long, conflicts_with = "follow")]
        last_takeover: bool,
        /// With --last-takeover: only of this group.
        #[arg(long, short, requires = "last_takeover", add = complete::groups())]
        group: Option<String>,
        /// One JSON object per line.
        #[arg(long, conflicts_with = "yaml")]
        json: bool,
        /// One YAML document per event.
        #[arg(long)]
        yaml: bool,
    },
    /// The cluster specification.
    #[command(subcommand)]
    Spec(SpecCommand),
    /// Whom the cluster tells, and a test of it.
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Check a specification file without applying it: all errors at once.
    Check {
        /// The file; - reads standard input.
        file: PathBuf,
        /// As JSON: an array of errors with line, column, field and message.
        #[arg(long)]
        json: bool,
    },
    /// Put a specification into force, after saying what changes and what follows from it.
    Apply(ApplyArgs),
    /// Make, renew and look at the cluster's certificates. Works on files: needs no agent.
    #[command(subcommand)]
    Cert(super::cert::CertCommand),
    /// Make, list and revoke tokens for the API.
    #[command(subcommand)]
    Token(super::token::TokenCommand),
    /// Ask the agent a question that is answered by the exit code: 0 yes, 1 no. For health checks and scripts.
    Is(super::token::IsArgs),
    /// Which cluster to talk to: addresses and credentials by name.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Collect what a bug report needs into one archive, secrets removed.
    SupportBundle(BundleArgs),
    /// Check whether this host is fit for Baton, before it joins and later, and say how to mend what is not.
    Doctor(DoctorArgs),
    /// Print the completions of a shell. They ask the cluster for the names of nodes, groups and volumes.
    Completions {
        /// The shell.
        shell: Shell,
        /// Without names from the cluster, for a machine that has no 'baton' in its path.
        #[arg(long = "static")]
        fixed: bool,
    },
    /// What the exit codes mean, and which environment variables are read.
    #[command(long_about = EXIT_HELP)]
    ExitCodes,
    /// Print the manual page, or write those of all commands to a directory.
    Man {
        /// The directory; made if it is not there.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// Arguments of `move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The group.
    #[arg(add = complete::groups())]
    pub group: String,
    /// The node that shall serve it (default: the best standby).
    #[arg(long, add = complete::nodes())]
    pub to: Option<String>,
    /// Wait until the group serves there (the default).
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as the command is accepted.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// One line per volume and peer.
    List {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Everything about one volume.
    Show {
        /// The volume.
        #[arg(value_name = "VOLUME", add = complete::volumes())]
        name: String,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Wait until volumes are in sync, showing each resync's progress.
    Wait(super::volume_wait::WaitArgs),
    /// Compare the replicas block by block, while they are in use.
    Verify(super::verify::VerifyArgs),
    /// Let the volume's resyncs stand still until they are resumed. Writes go on.
    PauseSync {
        /// The volume.
        #[arg(value_name = "VOLUME", add = complete::volumes())]
        name: String,
    },
    /// Let the volume's resyncs go on.
    ResumeSync {
        /// The volume.
        #[arg(value_name = "VOLUME", add = complete::volumes())]
        name: String,
    },
    /// Resolve a split brain: give one node's data up, and copy the leader's to it. A copy of what is given up is kept.
    Resolve(super::resolve::ResolveArgs),
    /// Copies that are kept of data that was given up.
    Snapshots {
        /// The volume.
        #[arg(value_name = "VOLUME", add = complete::volumes())]
        name: String,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Remove such a copy.
    Release(super::resolve::ReleaseArgs),
    /// Serve a snapshot of a replica by NBD, for backup; print its URI.
    Export(super::export::ExportArgs),
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file; - reads standard input. ${VARIABLES} in it are replaced here, from this command's environment.
    pub file: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// How to go about it.
    #[command(flatten)]
    pub how: ApplyHow,
}

/// How to go about a change.
#[derive(Debug, Args)]
pub struct ApplyHow {
    /// Do not ask before what interrupts a service.
    #[arg(long, short)]
    pub yes: bool,
    /// Why, for the history.
    #[arg(long, short, default_value = "")]
    pub message: String,
    /// Wait until every node that is alive runs it and every group serves.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "120s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Version that must still be in force (default: the one read just before).
    #[arg(long)]
    pub expect: Option<i64>,
    /// The outcome as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to do with the specification.
#[derive(Debug, Subcommand)]
pub enum SpecCommand {
    /// Print the specification in force, or an earlier one.
    Show {
        /// A version of the history (default: the one in force).
        version: Option<i64>,
        /// The form of the answer; as JSON or YAML with its version.
        #[command(flatten)]
        format: Format,
    },
    /// List the specifications that were in force: when, who, why.
    Log {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Say in words what differs between two versions.
    Diff {
        /// The older one (default: the one before the newer).
        from: Option<i64>,
        /// The newer one (default: the one in force).
        to: Option<i64>,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Put an earlier specification into force again, as a new version.
    Rollback {
        /// The version whose document shall be in force.
        version: i64,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
        /// How to go about it.
        #[command(flatten)]
        how: ApplyHow,
    },
    /// Print a JSON Schema of the specification, for editors. Needs no agent.
    Schema,
    /// Print the configuration reference, as Markdown. Needs no agent.
    Reference,
    /// Write the specification in force to a file that 'apply' takes, with its version in a comment.
    Export {
        /// The file (default: standard output).
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

/// What to do with notifications.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Show the targets and how the answering node's deliveries to them go.
    List {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Send a test message from the answering node, now, and wait for what becomes of it.
    Test {
        /// The target (default: all).
        target: Option<String>,
    },
}
