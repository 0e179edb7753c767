//! A fresh connection in the MySQL protocol and a transaction that is committed (docs/decisions/0024).
//!
//! Blocking: meant for an [`Errand`](super::Errand). Each wait for the server is bounded, so a thread that was left alone
//! ends by itself.

use super::short;
use crate::core::checks::Outcome;
use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, Error, OptsBuilder};
use std::path::PathBuf;
use std::time::Duration;

/// The table that a check without a statement of its own writes to.
const TABLE: &str = "baton_check";
/// Longest key in it.
const KEY_MAX: usize = 64;
/// Longest password that is read from a file.
const PASSWORD_MAX: u64 = 4096;

/// There is no such table.
const NO_TABLE: u16 = 1146;
/// ER_DISK_FULL, ER_RECORD_FILE_FULL ("the table is full"), EE_WRITE and ER_ERROR_ON_WRITE, the latter two with errno 28.
const FULL: [u16; 2] = [1021, 1114];
/// Refusals that say something of the check, not of the server: access denied in its forms, no such database, a
/// statement that cannot be read or names what is not there.
const MISTAKES: [u16; 9] = [1044, 1045, 1049, 1054, 1064, 1142, 1143, NO_TABLE, 1698];

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// `host:port` or `[v6]:port`.
    pub address: String,
    /// User.
    pub user: String,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Database that is used.
    pub database: String,
    /// What the transaction does; none = a row of a table of our own.
    pub statement: Option<String>,
    /// Key of that row.
    pub key: String,
}

/// Connects, commits, looks whether it is there. `token` is another one each time. `timeout` bounds each wait.
#[must_use]
pub fn sql(check: &Sql, token: u32, timeout: Duration) -> Outcome {
    let password = match check.password_file.as_ref().map(read_password).transpose() {
        Ok(password) => password,
        Err(why) => return Outcome::Incurable(why),
    };
    let Some((host, port)) = split(&check.address) else {
        return Outcome::Incurable(format!("'{}' is not HOST:PORT", check.address));
    };
    let options = OptsBuilder::new()
        .ip_or_hostname(Some(host))
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some(&check.user))
        .pass(password)
        .db_name(Some(&check.database))
        .tcp_connect_timeout(Some(timeout))
        .read_timeout(Some(timeout))
        .write_timeout(Some(timeout));
    let done = Conn::new(options).and_then(|mut conn| match &check.statement {
        Some(statement) => transaction(&mut conn, statement).map(|()| true),
        None => own_row(&mut conn, &check.key, token),
    });
    match done {
        Ok(true) => Outcome::Good,
        Ok(false) => Outcome::Bad("a committed row reads as before".into()),
        Err(error) => judge(&error),
    }
}

fn transaction(conn: &mut Conn, statement: &str) -> mysql::Result<()> {
    conn.query_drop("START TRANSACTION")?;
    conn.query_drop(statement)?;
    conn.query_drop("COMMIT")
}

fn own_row(conn: &mut Conn, key: &str, token: u32) -> mysql::Result<bool> {
    let fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ' ' | ':');
    let key: String = key.chars().filter(fine).take(KEY_MAX).collect();
    let insert = format!(
        "INSERT INTO {TABLE} (name, token) VALUES ('{key}', {token}) ON DUPLICATE KEY UPDATE token = {token}"
    );
    match transaction(conn, &insert) {
        // Asked for only then: a definition, even of a table that is there, is an entry in the server's binary log.
        Err(Error::MySqlError(error)) if error.code == NO_TABLE => {
            conn.query_drop(format!(
                "CREATE TABLE IF NOT EXISTS {TABLE} (name VARCHAR({KEY_MAX}) CHARACTER SET ascii PRIMARY KEY, \
                 token INT UNSIGNED NOT NULL) ENGINE=InnoDB COMMENT='written by the checks of Baton'"
            ))?;
            transaction(conn, &insert)?;
        }
        other => other?,
    }
    let found: Option<u32> = conn.query_first(format!("SELECT token FROM {TABLE} WHERE name = '{key}'"))?;
    Ok(found == Some(token))
}

fn judge(error: &Error) -> Outcome {
    match error {
        Error::MySqlError(e) => {
            let text = short(&format!("{} ({})", e.message, e.code));
            let full = FULL.contains(&e.code)
                || ["No space left on device", "rrcode: 28", "errno: 28"]
                    .iter()
                    .any(|t| e.message.contains(t));
            if full {
                Outcome::Incurable(format!("the disk is full: {text}"))
            } else if MISTAKES.contains(&e.code) {
                Outcome::Incurable(format!("the server refuses the check: {text}"))
            } else {
                Outcome::Bad(text)
            }
        }
        Error::DriverError(DriverError::CouldNotConnect(Some((_, why, _)))) => Outcome::Bad(short(why)),
        Error::DriverError(DriverError::ConnectTimeout) => Outcome::Bad("no connection in time".into()),
        other if in_vain(other) => Outcome::Bad("the server does not answer in time".into()),
        other => Outcome::Bad(short(&other.to_string())),
    }
}

/// A wait that came to its end.
fn in_vain(error: &Error) -> bool {
    let io = match error {
        Error::IoError(e) => Some(e),
        Error::CodecError(e) => std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>()),
        _ => None,
    };
    io.is_some_and(|e| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
}

fn read_password(file: &PathBuf) -> Result<String, String> {
    use std::io::Read;
    let read = || {
        let mut text = String::new();
        std::fs::File::open(file)?.take(PASSWORD_MAX).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read().map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests;
