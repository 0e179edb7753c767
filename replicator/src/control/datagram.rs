//! Serve-until datagrams: the agent's heartbeat thread says about ten times a second until when this node may
//! serve. A thread of its own receives them, so that a busy runtime cannot delay them.

use super::socket;
use crate::api::ServeUntil;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest datagram: a group name of 63 bytes, an epoch and a number in JSON need less than 300.
const MAX_LEN: usize = 2048;
/// How often the thread looks whether it should end.
const STOP_TICK: Duration = Duration::from_millis(200);

/// Receives serve-until datagrams on a thread of its own until dropped.
pub struct ServeUntilSocket {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    garbage: AtomicU64,
}

impl ServeUntilSocket {
    /// Binds the socket (mode 0600, replacing a dead one). Each good datagram goes to `sink`.
    ///
    /// # Errors
    /// The socket cannot be made, or another process receives on it.
    pub fn bind(path: &Path, sink: impl Fn(ServeUntil) + Send + Sync + 'static) -> io::Result<Self> {
        let alive = |p: &Path| UnixDatagram::unbound().and_then(|s| s.connect(p)).is_ok();
        let socket = socket::bind_private(path, alive, |p| UnixDatagram::bind(p))?;
        socket.set_read_timeout(Some(STOP_TICK))?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("serve-until".into())
            .spawn(move || receive(&socket, &theirs, &sink))?;
        Ok(Self { shared, path: path.into(), thread: Some(thread) })
    }

    /// Datagrams that were not readable.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.shared.garbage.load(Ordering::Relaxed)
    }
}

impl Drop for ServeUntilSocket {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // at most STOP_TICK and one call of the sink
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a datagram says; none if it is not to be read.
pub(super) fn read(datagram: &[u8]) -> Option<ServeUntil> {
    serde_json::from_slice(datagram).ok()
}

fn receive(socket: &UnixDatagram, shared: &Shared, sink: &impl Fn(ServeUntil)) {
    // One byte more than allowed, so that a datagram cut off is not taken for a whole one.
    let mut buf = [0; MAX_LEN + 1];
    while !shared.stop.load(Ordering::SeqCst) {
        match socket.recv(&mut buf) {
            Ok(n) if n <= MAX_LEN => match read(&buf[..n]) {
                Some(serve_until) => sink(serve_until),
                None => drop(shared.garbage.fetch_add(1, Ordering::Relaxed)),
            },
            Ok(_) => drop(shared.garbage.fetch_add(1, Ordering::Relaxed)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot receive serve-until datagrams");
                thread::sleep(STOP_TICK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, GroupName, Instant, TermId};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::channel;
    use std::time::Instant as Clock;

    #[test]
    fn good_datagrams_arrive_and_garbage_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve-until.sock");
        std::fs::write(&path, "left over").unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(UnixDatagram::bind(&path).unwrap()); // a dead socket is replaced
        let (tx, rx) = channel();
        let socket = ServeUntilSocket::bind(&path, move |s| drop(tx.send(s))).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ServeUntilSocket::bind(&path, |_| ()).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&path).unwrap();
        sender.send(b"garbage").unwrap();
        sender.send(&vec![b' '; 5000]).unwrap();
        sender.send(b"{\"group\":\"UPPER\",\"epoch\":{\"number\":1,\"term\":\"1\"},\"until\":1}").unwrap();
        let group = GroupName::new("web").unwrap();
        let said = ServeUntil { group, epoch: Epoch { number: 3, term: TermId(9) }, until: Instant(123) };
        sender.send(&serde_json::to_vec(&said).unwrap()).unwrap();
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)).unwrap(), said);
        assert_eq!(socket.garbage(), 3);
        let began = Clock::now();
        drop(socket);
        assert!(began.elapsed() < Duration::from_secs(10) && !path.exists());
    }
}
