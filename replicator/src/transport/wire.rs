//! One TCP connection after its handshake, plain or with TLS: bytes in, bytes out.
//!
//! With TLS what was encrypted must leave in its order, whatever comes between: it waits inside the connection until the
//! socket takes it (*held back*), and nothing else is encrypted for the socket's sake meanwhile. The lock around the
//! TLS state is held for the encryption and for handing bytes to the socket; a session uses each of its connections in
//! one direction, so that nobody waits for it.

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustls::Connection;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Ciphertext read per system call: sixteen records of TLS.
const RAW_BUFFER: usize = 256 << 10;
/// Plaintext that is encrypted before the socket is asked to take it.
const SEAL_AT_ONCE: usize = 256 << 10;

/// A connection; threads share it.
pub(super) struct Wire {
    stream: TcpStream,
    tls: Option<Mutex<Connection>>,
    peer: Option<IpAddr>,
    cipher: Option<String>,
}

/// What came of an attempt to send.
pub(super) struct Sent {
    /// Bytes taken over.
    pub taken: usize,
    /// Some of them are held back: [`Wire::push_out`] before anything else.
    pub held_back: bool,
}

impl Wire {
    pub fn new(stream: TcpStream, tls: Option<Connection>) -> Self {
        let peer = stream.peer_addr().ok().map(|a| a.ip().to_canonical());
        let cipher = tls.as_ref().and_then(|c| c.negotiated_cipher_suite());
        let cipher = cipher.map(|c| format!("{:?}", c.suite()));
        let tls = tls.map(|mut connection| {
            connection.set_buffer_limit(Some(SEAL_AT_ONCE));
            Mutex::new(connection)
        });
        Self { stream, tls, peer, cipher }
    }

    /// The peer's end.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The cipher suite, if it has one.
    pub fn cipher(&self) -> Option<&str> {
        self.cipher.as_deref()
    }

    pub fn set_timeouts(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(read))?;
        self.stream.set_write_timeout(Some(write))
    }

    /// Ends it: whoever reads or writes wakes up.
    pub fn shutdown(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether the other end has closed or reset it; looked at without reading what is there.
    pub fn hung_up(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        match recv(&self.stream, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((n, _)) => n == 0,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            Err(_) => true,
        }
    }

    /// Writes as much of the parts as is possible without waiting.
    pub fn send_now(&self, parts: &[IoSlice<'_>]) -> io::Result<Sent> {
        let Some(tls) = &self.tls else {
            let taken = AtOnce(&self.stream).write_vectored(parts);
            let taken = taken.or_else(|e| if would_block(&e) { Ok(0) } else { Err(e) })?;
            return Ok(Sent { taken, held_back: false });
        };
        let mut tls = lock(tls);
        let taken = tls.writer().write_vectored(parts)?;
        while tls.wants_write() {
            match tls.write_tls(&mut AtOnce(&self.stream)) {
                Ok(_) => {}
                Err(e) if would_block(&e) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(Sent { taken, held_back: tls.wants_write() })
    }

    /// Writes everything; waits for the socket, up to its timeout each time.
    pub fn send_all(&self, mut rest: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut stream = &self.stream;
        while !rest.is_empty() {
            let written = match &self.tls {
                None => stream.write_vectored(rest),
                Some(tls) => {
                    let mut tls = lock(tls);
                    push(&mut tls, &mut stream)?;
                    let taken = tls.writer().write_vectored(rest);
                    push(&mut tls, &mut stream)?;
                    taken
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes what was held back; waits like [`Self::send_all`].
    pub fn push_out(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => push(&mut lock(tls), &mut &self.stream),
        }
    }

    /// A reader; only one at a time makes sense.
    pub fn reader(&self) -> WireReader<'_> {
        let raw = if self.is_tls() { vec![0; RAW_BUFFER] } else { Vec::new() };
        WireReader { wire: self, raw: raw.into(), from: 0, to: 0 }
    }

    #[cfg(test)]
    pub fn refresh_keys(&self) {
        lock(self.tls.as_ref().expect("a TLS wire")).refresh_traffic_keys().expect("established");
    }
}

/// Reads a wire's bytes, decrypted.
pub(super) struct WireReader<'a> {
    wire: &'a Wire,
    /// Ciphertext that was received and not looked at.
    raw: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Read for WireReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut stream = &self.wire.stream;
        let Some(tls) = &self.wire.tls else { return stream.read(buf) };
        loop {
            {
                let mut tls = lock(tls);
                match tls.reader().read(buf) {
                    Err(e) if would_block(&e) => {}
                    done => return done,
                }
                if self.from < self.to {
                    self.from += tls.read_tls(&mut &self.raw[self.from..self.to])?;
                    tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    continue;
                }
            }
            // Not under the lock: this waits.
            let n = stream.read(&mut self.raw)?;
            if n == 0 {
                return Ok(0);
            }
            (self.from, self.to) = (0, n);
        }
    }
}

fn lock(tls: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    tls.lock().expect("no panic under this lock")
}

fn push(tls: &mut Connection, stream: &mut &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Writes to a socket without waiting, although reading from it waits.
struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(self.0, slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(n) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
