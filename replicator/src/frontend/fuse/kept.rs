//! What another process has to know to go on with a FUSE connection and its loop device.
//!
//! The kernel's first request (INIT) was answered by the first process and is not repeated: what was agreed in it
//! stands here. The format has a version, because the next process may be of another release.

use super::proto::MAX_IO;
use crate::frontend::loopdev::LoopDevice;
use crate::frontend::stale;
use crate::hold::Holder;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// A connection that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    format: u32,
    /// Of the FUSE file, which the loop device carries.
    pub name: String,
    pub size_bytes: u64,
    /// Of the loop device.
    pub number: u32,
    /// Largest write that the kernel was told it may send.
    max_write: u32,
}

impl Session {
    pub fn new(name: String, size_bytes: u64, number: u32) -> Self {
        Self { format: FORMAT, name, size_bytes, number, max_write: MAX_IO }
    }

    pub fn encode(&self) -> Vec<u8> {
        // Plain numbers and text: serialisation has no way to fail.
        serde_json::to_vec(self).expect("a session serialises")
    }

    /// What an earlier process wrote, if this one can go on with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let session: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if session.format != FORMAT {
            return Err(format!("format {} is not known, only {FORMAT}", session.format));
        }
        if session.max_write > MAX_IO {
            return Err(format!("writes of {} bytes were agreed, {MAX_IO} is the most", session.max_write));
        }
        Ok(session)
    }
}

/// Looks what earlier processes left with the holder; what is of no use is let go. Returns the names of the FUSE files
/// that can be gone on with, which [`stale::clean`] must spare.
#[must_use]
pub fn left(holder: &Holder, tag: &str) -> Vec<String> {
    let mut good = Vec::new();
    for (key, state) in holder.left() {
        let session = Session::decode(&state).and_then(|s| {
            let carries = crate::frontend::loopdev::backing_name(s.number).is_some_and(|name| name == s.name);
            if s.name.starts_with(&stale::file_prefix(tag)) && carries {
                Ok(s)
            } else {
                Err(format!("/dev/loop{} does not carry {}", s.number, s.name))
            }
        });
        match session {
            Ok(session) => good.push(session.name),
            Err(why) => {
                tracing::warn!(volume = key, why, "what an earlier process left cannot be used");
                holder.drop_kept(&key);
            }
        }
    }
    good
}

/// The loop device of a session, if it still carries the session's file.
pub(super) fn device(session: &Session, private_dir: &std::path::Path) -> Result<LoopDevice, String> {
    let device = LoopDevice::numbered(session.number, private_dir).map_err(|e| e.to_string())?;
    if device.carries(&session.name) {
        Ok(device)
    } else {
        Err(format!("{} does not carry {}", device.host_path().display(), session.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_release_writes_another_reads_or_refuses() {
        let session = Session::new("baton-alpha-01234567-web".into(), 1 << 30, 7);
        // Held by a process of this release and read by one of the next: must not change under the same format.
        let golden = r#"{"format":1,"name":"baton-alpha-01234567-web","size_bytes":1073741824,"number":7,"max_write":1048576}"#;
        assert_eq!(String::from_utf8(session.encode()).unwrap(), golden);
        assert_eq!(Session::decode(golden.as_bytes()), Ok(session));
        let refused =
            |from: &str, to: &str| Session::decode(golden.replace(from, to).as_bytes()).unwrap_err();
        assert!(refused("\"format\":1", "\"format\":2").contains("format 2"));
        assert!(refused("1048576", "2097152").contains("2097152"));
        assert!(Session::decode(b"{").is_err());
    }
}
