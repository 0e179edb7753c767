//! Who a request comes from, and what that allows.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What somebody may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads: status, events, the specification.
    Viewer,
    /// Steers: move, standby, online, maintenance, verify.
    Operator,
    /// Changes what the cluster is: specification, recovery, tokens.
    Admin,
}

impl Role {
    /// The role's name, as in tokens, certificates and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The agent's Unix socket, which only root of the host can open.
    Socket,
    /// A bearer token.
    Token,
    /// A client certificate of the cluster's CA.
    Certificate,
    /// Nothing: the agent runs with authentication switched off.
    Nothing,
}

/// Somebody whose request was authenticated. In the request's extensions after the security layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Principal {
    /// Name of the token or subject of the certificate; `root` on the Unix socket.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they proved it.
    pub via: Via,
    /// Where the request came from: an address without port, or `local`.
    pub from: String,
}
