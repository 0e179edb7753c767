//! A connection in its handshake: everything has one deadline, with and without TLS.

use super::auth::Binding;
use super::failure::AuthError;
use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Longest time for a TCP connection to come about, and for the whole handshake on it.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A refusal gets this long to arrive before the connection is reset by what the other side still says.
const LINGER: Duration = Duration::from_millis(200);
/// What TLS binds to its connection, see `auth`.
const EXPORTER: &[u8] = b"EXPORTER-baton-replication";

/// Small frames must not wait for more (NODELAY), and a peer that vanished must not be waited for by TCP for
/// longer than by us (USER_TIMEOUT).
pub(super) fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(timeout))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(1)))
}

/// Closes a connection that was refused, so that the other side can read why.
pub(super) fn close_gently(stream: &TcpStream) {
    let until = Instant::now() + LINGER;
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = [0; 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match (&mut &*stream).read(&mut rest) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}

/// A stream of which not each read, but all of the handshake has a deadline.
pub(super) struct Hurried<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Hurried<'a> {
    pub fn new(stream: &'a TcpStream) -> Self {
        Self { stream, deadline: Instant::now() + HANDSHAKE_TIMEOUT }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
        } else {
            Ok(left)
        }
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        (&mut &*self.stream).read(buf)
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        (&mut &*self.stream).write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The rest of the handshake, inside of TLS.
pub(super) struct Secured<'a, 'b> {
    connection: &'a mut Connection,
    below: &'a mut Hurried<'b>,
}

impl<'a, 'b> Secured<'a, 'b> {
    /// Completes TLS's own handshake.
    pub fn new(connection: &'a mut Connection, below: &'a mut Hurried<'b>) -> Result<Self, AuthError> {
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(below)?;
        }
        Ok(Self { connection, below })
    }

    /// What only the two ends of this connection know.
    pub fn binding(&self) -> Result<Binding, AuthError> {
        let exported = match &*self.connection {
            Connection::Client(c) => c.export_keying_material(Binding::default(), EXPORTER, None),
            Connection::Server(c) => c.export_keying_material(Binding::default(), EXPORTER, None),
        };
        exported.map_err(|e| AuthError::Certificate(format!("TLS failed: {e}")))
    }

    /// The certificates that the other side showed.
    pub fn connection(&self) -> &Connection {
        self.connection
    }
}

impl Read for Secured<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.connection.read_tls(self.below)? == 0 {
                return Ok(0);
            }
            let processed = self.connection.process_new_packets();
            // An alert, if there is one, tells the other side why.
            let flushed = self.flush();
            processed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            flushed?;
        }
    }
}

impl Write for Secured<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(self.below)?;
        }
        Ok(())
    }
}
