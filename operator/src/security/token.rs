//! Bearer tokens: how they look, what is kept of them, how one is recognised. Pure.
//!
//! ```text
//! baton_<id: 12 hex digits>_<secret: 64 hex digits>
//! ```
//!
//! The secret has 256 random bits. What is kept is its SHA-256: passwords need a slow, salted hash because they can be
//! guessed and repeat; a random 256-bit value can be neither guessed nor found in a table, and a fast hash keeps an
//! attacker from making the agent work.

use super::principal::Role;
use super::sensitive::Sensitive;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use subtle::ConstantTimeEq;

const PREFIX: &str = "baton";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// What is kept of a token, in etcd and in the agents' caches.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names it; part of the token, no secret.
    pub id: String,
    /// Whose it is; the audit trail says so.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the secret, hexadecimal.
    pub hash: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Who made it.
    pub created_by: String,
    /// Seconds since 1970; none = until it is revoked.
    pub expires: Option<i64>,
}

/// A token as administrators see it: without its hash, which is nobody's business either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenInfo {
    /// Names it: `baton token revoke ID`.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Who made it.
    pub created_by: String,
    /// When it ends, RFC 3339; none = when it is revoked.
    pub expires: Option<String>,
}

impl std::fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenRecord({} {} {})", self.id, self.name, self.role)
    }
}

impl TokenRecord {
    /// For people.
    #[must_use]
    pub fn info(&self) -> TokenInfo {
        let at = |seconds: i64| {
            let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
        };
        TokenInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            role: self.role,
            created: at(self.created),
            created_by: self.created_by.clone(),
            expires: self.expires.map(at),
        }
    }

    /// It has ended.
    #[must_use]
    pub fn expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// Makes a token: what is kept, and what its holder gets, once.
#[must_use]
pub fn generate(
    name: &str,
    role: Role,
    created_by: &str,
    now: i64,
    expires: Option<i64>,
) -> (TokenRecord, Sensitive) {
    let mut id = [0; ID_BYTES];
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut id);
    rand::rng().fill_bytes(&mut secret);
    let (id, secret) = (hex(&id), hex(&secret));
    let record = TokenRecord {
        hash: hash(&secret),
        id: id.clone(),
        name: name.to_owned(),
        role,
        created: now,
        created_by: created_by.to_owned(),
        expires,
    };
    (record, Sensitive::new(format!("{PREFIX}_{id}_{secret}")))
}

/// Why a token opens nothing. The answer to the client does not tell these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not look like one.
    Malformed,
    /// No token of this id, or revoked.
    Unknown,
    /// The id is right, the secret is not.
    WrongSecret,
    /// It has ended.
    Expired,
}

/// Recognises a token among `records`.
///
/// # Errors
/// [`Refused`].
pub fn recognise<'a>(
    text: &str,
    find: impl FnOnce(&str) -> Option<&'a TokenRecord>,
    now: i64,
) -> Result<&'a TokenRecord, Refused> {
    let mut parts = text.split('_');
    let (Some(PREFIX), Some(id), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refused::Malformed);
    };
    if id.len() != 2 * ID_BYTES || secret.len() != 2 * SECRET_BYTES {
        return Err(Refused::Malformed);
    }
    let record = find(id).ok_or(Refused::Unknown)?;
    if !bool::from(hash(secret).as_bytes().ct_eq(record.hash.as_bytes())) {
        return Err(Refused::WrongSecret);
    }
    if record.expired(now) { Err(Refused::Expired) } else { Ok(record) }
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, record: &TokenRecord, now: i64) -> Result<Role, Refused> {
        recognise(text, |id| (id == record.id).then_some(record), now).map(|r| r.role)
    }

    #[test]
    fn a_token_opens_what_it_was_made_for_until_it_ends() {
        let (record, token) = generate("monitor", Role::Viewer, "root", 100, Some(200));
        assert_eq!(check(token.reveal(), &record, 199), Ok(Role::Viewer));
        assert_eq!(check(token.reveal(), &record, 200), Err(Refused::Expired));
        let (forever, token) = generate("monitor", Role::Operator, "root", 100, None);
        assert_eq!(check(token.reveal(), &forever, i64::MAX), Ok(Role::Operator));
    }

    #[test]
    fn anything_else_opens_nothing() {
        let (record, token) = generate("a", Role::Admin, "root", 0, None);
        let (other, _) = generate("b", Role::Admin, "root", 0, None);
        let token = token.reveal();
        assert_eq!(check(token, &other, 1), Err(Refused::Unknown));
        let mut wrong = token.to_owned();
        let last = wrong.pop().unwrap();
        wrong.push(if last == '0' { '1' } else { '0' });
        assert_eq!(check(&wrong, &record, 1), Err(Refused::WrongSecret));
        for bad in [
            "",
            "baton",
            "baton__",
            "x",
            &token[1..],
            &token[..token.len() - 1],
            &format!("{token}_"),
            &format!("{token}0"),
        ] {
            assert_eq!(check(bad, &record, 1), Err(Refused::Malformed), "{bad}");
        }
        // The hash itself is no token.
        assert_eq!(
            check(&format!("baton_{}_{}", record.id, record.hash), &record, 1),
            Err(Refused::WrongSecret)
        );
    }

    #[test]
    fn nothing_that_is_kept_or_printed_holds_the_secret() {
        let (record, token) = generate("a", Role::Admin, "root", 0, None);
        let secret = token.reveal().rsplit('_').next().unwrap().to_owned();
        let kept = serde_json::to_string(&record).unwrap();
        assert!(!kept.contains(&secret));
        let printed = format!("{record:?} {token:?} {:?}", record.info());
        assert!(!printed.contains(&secret) && !printed.contains(&record.hash), "{printed}");
        let (_, second) = generate("a", Role::Admin, "root", 0, None);
        assert_ne!(token, second);
    }
}
