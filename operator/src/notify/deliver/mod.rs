//! One attempt to hand one message over. Bounded in time, whatever the other side does; files with secrets and CA
//! certificates are read at each attempt, so that a mended one needs no restart.

mod exec;
mod mail;
mod webhook;

use super::message::Message;
use crate::causes::one_line;
use crate::spec::{Channel, MailTls};
use baton_replicator::types::NodeName;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Bound of a whole attempt, DNS included. A mail server that greets slowly on purpose takes some ten seconds.
pub const ATTEMPT: Duration = Duration::from_secs(30);
/// A password, a token, a key; a file with more is not one of these.
const SECRET_MAX: u64 = 4096;
/// Longest part of what the other side said that is kept.
const SAID_MAX: usize = 300;

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What happened, one sentence.
    pub text: String,
    /// This message will never be taken: no other attempt.
    pub fatal: bool,
}

impl Failure {
    fn passing(text: impl Into<String>) -> Self {
        Self { text: clean(&text.into()), fatal: false }
    }

    fn fatal(text: impl Into<String>) -> Self {
        Self { text: clean(&text.into()), fatal: true }
    }
}

/// Hands a message over once.
///
/// # Errors
/// [`Failure`]; not later than [`ATTEMPT`].
pub async fn deliver(channel: &Channel, message: &Message, me: &NodeName) -> Result<(), Failure> {
    let attempt = async {
        match channel {
            Channel::Mail(mail) => mail::deliver(mail, message, me).await,
            Channel::Webhook(hook) => webhook::deliver(hook, message).await,
            Channel::Exec(exec) => exec::deliver(exec, message).await,
        }
    };
    match tokio::time::timeout(ATTEMPT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::passing(format!("no end after {} s", ATTEMPT.as_secs()))),
    }
}

/// The way to a target in words, without secrets.
#[must_use]
pub fn words(channel: &Channel) -> String {
    match channel {
        Channel::Mail(m) => {
            let scheme = if m.tls == MailTls::Wrapped { "smtps" } else { "smtp" };
            let host = if m.host.contains(':') { format!("[{}]", m.host) } else { m.host.clone() };
            format!("mail to {} via {scheme}://{host}:{}", m.to.join(", "), m.port)
        }
        Channel::Webhook(w) => {
            // Some services put a token into the path; host and scheme are enough to know which one it is.
            let url = reqwest::Url::parse(&w.url).ok();
            let host = url.as_ref().and_then(|u| Some(format!("{}://{}", u.scheme(), u.host_str()?)));
            format!("webhook {}", host.unwrap_or_default())
        }
        Channel::Exec(e) => format!("command {}", e.command.first().map_or("", String::as_str)),
    }
}

/// The content of a file with a secret, without the newline at its end.
fn secret(path: &Path) -> Result<String, Failure> {
    let fail = |what: &str| Failure::passing(format!("{}: {what}", path.display()));
    let io = |e: io::Error| fail(&e.to_string());
    let file = std::fs::File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail(&format!("others can read it (mode {:o}): chmod 600", mode & 0o777)));
    }
    let mut text = String::new();
    file.take(SECRET_MAX).read_to_string(&mut text).map_err(io)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() { Err(fail("is empty")) } else { Ok(text.to_owned()) }
}

fn ca(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::passing(format!("{}: {e}", path.display())))
}

/// What others said, as one line of bounded length.
fn clean(text: &str) -> String {
    one_line(text).chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}
