//! Hands serve-until on: to the replicator as datagrams, and to whoever else must stop at it.
//!
//! A deadline is handed on when it has grown noticeably, when it was withdrawn, and otherwise once per keepalive,
//! so that a receiver that starts late learns it soon. Sending never blocks: a receiver that does not read has
//! its deadline pass, which is what a deadline is for.

use baton_replicator::api::ServeUntil;
use baton_replicator::types::{Epoch, GroupName, Instant};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// A growth below this waits for the next keepalive: several peers' acknowledgements arrive within milliseconds.
const GROWTH: Duration = Duration::from_millis(20);

/// Takes deadlines. Must not block.
pub trait ServeUntilSink: Send {
    /// The group may serve in this epoch until then; a time that has passed means "not at all, as of now".
    fn serve_until(&mut self, until: &ServeUntil);
}

/// Sends deadlines to the replicator's socket.
#[derive(Debug)]
pub struct ReplicatorSocket {
    path: PathBuf,
    socket: UnixDatagram,
    reachable: bool,
}

impl ReplicatorSocket {
    /// For the socket at `path` (`<run-dir>/serve-until.sock`), which need not exist yet.
    ///
    /// # Errors
    /// No socket could be made.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { path: path.into(), socket, reachable: true })
    }
}

impl ServeUntilSink for ReplicatorSocket {
    fn serve_until(&mut self, until: &ServeUntil) {
        let Ok(text) = serde_json::to_vec(until) else { return };
        match self.socket.send_to(&text, &self.path) {
            Ok(_) => self.reachable = true,
            Err(error) if self.reachable => {
                self.reachable = false;
                tracing::warn!(path = %self.path.display(), %error, "the replicator does not take serve-until; its I/O freezes");
            }
            Err(_) => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    epoch: Epoch,
    until: Instant,
    at: Instant,
}

/// Decides which deadlines are handed on when.
#[derive(Debug)]
pub(super) struct Publisher {
    keepalive: Duration,
    sent: BTreeMap<GroupName, Sent>,
}

impl Publisher {
    pub fn new(keepalive: Duration) -> Self {
        Self { keepalive, sent: BTreeMap::new() }
    }

    /// What to hand on now, given all deadlines in force.
    pub fn due(&mut self, in_force: Vec<ServeUntil>, now: Instant) -> Vec<ServeUntil> {
        let mut out = Vec::new();
        let withdrawn: Vec<GroupName> =
            self.sent.keys().filter(|g| in_force.iter().all(|s| s.group != **g)).cloned().collect();
        for group in withdrawn {
            if let Some(last) = self.sent.remove(&group)
                && last.until > now
            {
                out.push(ServeUntil { group, epoch: last.epoch, until: now });
            }
        }
        for new in in_force {
            let last = self.sent.get(&new.group);
            let due = last.is_none_or(|last| {
                last.epoch != new.epoch
                    || new.until < last.until
                    || new.until >= last.until.plus(GROWTH)
                    || (now.since(last.at) >= self.keepalive && new.until > now)
            });
            if due {
                self.sent.insert(new.group.clone(), Sent { epoch: new.epoch, until: new.until, at: now });
                out.push(new);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::TermId;

    fn ms(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    fn until(n: u64, t: u64) -> ServeUntil {
        ServeUntil {
            group: GroupName::new("web").unwrap(),
            epoch: Epoch { number: n, term: TermId(1) },
            until: ms(t),
        }
    }

    #[test]
    fn growth_withdrawal_and_the_keepalive_make_it_due() {
        let mut p = Publisher::new(Duration::from_millis(100));
        assert_eq!(p.due(vec![until(1, 1000)], ms(0)), [until(1, 1000)], "first");
        assert_eq!(p.due(vec![until(1, 1019)], ms(10)), [], "grown by less than 20 ms");
        assert_eq!(p.due(vec![until(1, 1020)], ms(20)), [until(1, 1020)], "grown by 20 ms");
        assert_eq!(p.due(vec![until(1, 1020)], ms(119)), [], "not yet again");
        assert_eq!(p.due(vec![until(1, 1020)], ms(120)), [until(1, 1020)], "once per keepalive");
        assert_eq!(p.due(vec![until(1, 900)], ms(130)), [until(1, 900)], "shortened");
        assert_eq!(p.due(vec![until(2, 900)], ms(131)), [until(2, 900)], "another epoch");
        assert_eq!(p.due(vec![], ms(140)), [until(2, 140)], "withdrawn: ends now");
        assert_eq!(p.due(vec![], ms(150)), [], "said once");
        assert_eq!(p.due(vec![until(2, 200)], ms(160)), [until(2, 200)], "back");
        assert_eq!(p.due(vec![until(2, 200)], ms(400)), [], "run out: nothing to repeat");
        assert_eq!(p.due(vec![], ms(410)), [], "and nothing to withdraw");
    }

    #[test]
    fn datagrams_are_json_and_never_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve-until.sock");
        let mut sink = ReplicatorSocket::new(&path).unwrap();
        sink.serve_until(&until(1, 5)); // nobody listens yet
        let receiver = UnixDatagram::bind(&path).unwrap();
        // Far more than a socket queues: the surplus is dropped, the call returns.
        for t in 0..5000 {
            sink.serve_until(&until(1, t));
        }
        let mut buffer = [0; 512];
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(serde_json::from_slice::<ServeUntil>(&buffer[..n]).unwrap(), until(1, 0));
    }
}
