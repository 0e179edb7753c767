//! The command line's grammar.

use super::exit::EXIT_HELP;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

/// Look at and steer a Baton cluster.
#[derive(Debug, Parser)]
#[command(name = "baton", version, after_help = EXIT_HELP, max_term_width = 100)]
pub struct Cli {
    /// API addresses of agents, tried in order; the first that answers is used.
    #[arg(
        long,
        env = "BATON_API",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7480",
        global = true
    )]
    pub api: Vec<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show nodes, groups, who serves since when, and what to do next.
    Status {
        /// The whole snapshot as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the status again and again; q ends it.
    Watch {
        /// Time between two looks.
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        interval: Duration,
        /// End after so many looks.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Hand a group over to another node and wait until it serves there.
    Move(MoveArgs),
    /// Take a node out of service: its groups are handed over, it goes on replicating.
    Standby {
        /// The node.
        node: String,
    },
    /// Put a node back into service.
    Online {
        /// The node.
        node: String,
    },
    /// Leave a node alone: nothing is moved or restarted by itself.
    Maintenance {
        /// The node.
        node: String,
    },
    /// Tell every agent to trust what etcd says about a group now. For an etcd that was restored from a backup or made
    /// anew, after a look at `baton status`: what it says then decides who may lead.
    Recover {
        /// The group.
        group: String,
    },
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
        /// One JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// The cluster specification.
    #[command(subcommand)]
    Spec(SpecCommand),
    /// Check a specification file without applying it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
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
    pub group: String,
    /// The node that shall serve it (default: the best standby).
    #[arg(long)]
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
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Everything about one volume.
    Show {
        /// The volume.
        name: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with the specification.
#[derive(Debug, Subcommand)]
pub enum SpecCommand {
    /// Print the specification in force.
    Show {
        /// With its version, as JSON.
        #[arg(long)]
        json: bool,
    },
}
