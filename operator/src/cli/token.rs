//! `baton token`: tokens of the API; `baton is`: questions answered by the exit code.

use super::cert::RoleArg;
use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::print;
use crate::api::Accepted;
use crate::api::tokens::{NewToken, TokenMade};
use crate::security::files;
use crate::security::token::TokenInfo;
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once, or write it to a file.
    Create {
        /// Whose it is; the audit trail says so.
        name: String,
        /// What it allows: viewer reads, operator moves groups, admin changes the cluster.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// It ends after this time, e.g. 90d (default: when it is revoked).
        #[arg(long, value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// Write it to this file, mode 0600, instead.
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// List tokens, without their secrets.
    List {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Revoke a token, at every agent that reaches etcd at once.
    Revoke {
        /// Its id: the part between the two underscores, shown by `baton token list`.
        id: String,
    },
}

/// Arguments of `is`.
#[derive(Debug, Args)]
pub struct IsArgs {
    /// What it is asked.
    #[arg(value_enum)]
    pub question: Question,
    /// The group, if there is more than one.
    #[arg(long)]
    pub group: Option<String>,
}

/// A question to one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Does the agent's core run?
    Live,
    /// Does it know the state of all its groups?
    Ready,
    /// Does this node serve the group?
    Leader,
    /// Could this node take the group over?
    Standby,
}

/// Runs one of them.
///
/// # Errors
/// [`CliError`] that says what to do.
pub async fn run(client: &ApiClient, command: TokenCommand) -> Result<Exit, CliError> {
    match command {
        TokenCommand::Create { name, role, expires, output } => {
            let expires_in_s = expires.map(|e| i64::try_from(e.as_secs()).unwrap_or(i64::MAX));
            let request = NewToken { name, role: role.into(), expires_in_s };
            let made: TokenMade = client.command(Method::POST, "/v1/tokens", &request).await?;
            match output {
                None => print(&format!("{}\n", made.token.reveal())),
                Some(path) => {
                    let text = format!("{}\n", made.token.reveal());
                    files::write_private(&path, text.as_bytes()).map_err(|e| {
                        let next = format!(
                            "The token is lost: 'baton token revoke {}' and try again.",
                            made.info.id
                        );
                        CliError::new(Exit::Failed, e.to_string(), next)
                    })?;
                    print(&format!("{} (in {})\n", made.message, path.display()))
                }
            }
        }
        TokenCommand::List { format } => {
            let all: Vec<TokenInfo> = client.get("/v1/tokens").await?;
            print(&format.show(&all, |all| table(all)))
        }
        TokenCommand::Revoke { id } => {
            // A whole token is taken for its id: who has just leaked one should not have to look.
            let id = id.strip_prefix("baton_").and_then(|rest| rest.split('_').next()).unwrap_or(&id);
            let done: Accepted =
                client.command(Method::DELETE, &format!("/v1/tokens/{id}"), &serde_json::json!({})).await?;
            print(&format!("{}\n", done.message))
        }
    }
}

fn table(all: &[TokenInfo]) -> String {
    let mut text = format!("{:<13} {:<20} {:<9} {:<21} {:<12}\n", "ID", "NAME", "ROLE", "ENDS", "MADE BY");
    for token in all {
        let ends = token.expires.as_deref().unwrap_or("when revoked");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<13} {:<20} {:<9} {ends:<21} {:<12}",
            token.id,
            token.name,
            token.role.word(),
            token.created_by
        );
    }
    text
}

/// Asks one question.
///
/// # Errors
/// Nobody answered, or the question is unclear.
pub async fn is(client: &ApiClient, args: &IsArgs) -> Result<Exit, CliError> {
    let path = match args.question {
        Question::Live => "/livez",
        Question::Ready => "/readyz",
        Question::Leader => "/leader",
        Question::Standby => "/standby",
    };
    let path = match &args.group {
        Some(group) => {
            let group = baton_replicator::types::GroupName::new(group).map_err(super::bad_name)?;
            format!("{path}?group={group}")
        }
        None => path.to_owned(),
    };
    let (yes, text) = client.question(&path).await?;
    print(&text)?;
    Ok(if yes { Exit::Ok } else { Exit::Failed })
}
