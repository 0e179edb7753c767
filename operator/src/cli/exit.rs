//! How the command line ends: documented exit codes, and errors that say what to do next.

use std::fmt;

/// Exit codes. Documented in `--help` ([`EXIT_HELP`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; for `status`: all is well.
    Ok = 0,
    /// The command failed or was refused.
    Failed = 1,
    /// The command line does not make sense (clap's own code).
    Usage = 2,
    /// `status`: everything serves, but one more failure would stop a service.
    Degraded = 3,
    /// `status`: a group that should serve does not; `what-if`: one that serves now would not any more.
    Down = 4,
    /// No agent answered.
    Unreachable = 5,
    /// What was waited for did not happen in time; it may still happen.
    Timeout = 6,
    /// The agent does not know who asks, or they may not do this.
    Denied = 7,
}

/// The same for people.
pub const EXIT_HELP: &str = "Exit codes:
  0  done; for 'status': all is well
  1  failed or refused; the message says why
  2  the command line does not make sense
  3  'status': degraded, one more failure stops a service
  4  'status': down, a group that should serve does not;
     'what-if': a group that is served now would not be served any more
  5  no agent answered at the API addresses
  6  what was waited for did not happen in time (it may still happen)
  7  not allowed: the agent does not know who asks, or their role is too low
'doctor' ends with 0 if all is well, 1 with warnings, 2 if something failed.

Environment:
  BATON_API                  API addresses, comma separated; the first that answers is used
  BATON_CONTEXT              the context to use (flags win over the environment, it over
                             the context in use)
  BATON_CA                   certificate of the cluster's authority
  BATON_TOKEN_FILE           file with a token, mode 0600
  BATON_CERT, BATON_KEY      client certificate and its key
  NO_COLOR                   no colours, whatever its value";

/// Why a command ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The code to end with.
    pub exit: Exit,
    /// What happened, one sentence.
    pub message: String,
    /// What to do next, one sentence.
    pub next: String,
}

impl CliError {
    pub(super) fn new(exit: Exit, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: next.into() }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "\n  -> {}", self.next) }
    }
}

impl std::error::Error for CliError {}
