//! A minimal HTTP/1.1 client: one request per connection, every step bounded by one deadline.
//!
//! It is small on purpose: the prober must not reuse a connection, retry, or follow anything behind our back.

use crate::identity::Identity;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Largest answer that is read; the status of the demo has some 10 KiB, its metrics some 50.
const MAX_ANSWER: usize = 8 << 20;

/// An answer, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded if it was chunked.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path` on a fresh connection.
///
/// # Errors
/// Any failure on the way, with kind `TimedOut` or `WouldBlock` if a limit was reached.
pub fn get(at: SocketAddr, path: &str, connect: Duration, whole: Duration) -> io::Result<Answer> {
    request(at, "GET", path, None, connect, whole)
}

/// Any request, with a JSON body if there is one.
///
/// # Errors
/// As [`get`].
pub fn request(
    at: SocketAddr,
    method: &str,
    path: &str,
    json: Option<&str>,
    connect: Duration,
    whole: Duration,
) -> io::Result<Answer> {
    let end = Instant::now() + whole;
    let stream = connected(at, connect, whole)?;
    exchange(&mut Plain(stream), at, method, path, json, &[], end)
}

/// The same over TLS, as whoever `identity` is, with more headers (`Authorization: …`).
///
/// # Errors
/// As [`get`]; a certificate that is refused on either side has kind `InvalidData`.
pub fn secure(
    identity: &Identity,
    at: SocketAddr,
    method: &str,
    path: &str,
    json: Option<&str>,
    headers: &[&str],
    limits: (Duration, Duration),
) -> io::Result<Answer> {
    let end = Instant::now() + limits.1;
    let stream = connected(at, limits.0, limits.1)?;
    let name = rustls::pki_types::ServerName::from(at.ip());
    let session = rustls::ClientConnection::new(identity.config(), name).map_err(io::Error::other)?;
    exchange(&mut rustls::StreamOwned::new(session, stream), at, method, path, json, headers, end)
}

fn connected(at: SocketAddr, connect: Duration, whole: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, connect.min(whole))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A stream whose socket can be told how long to wait.
trait Timed: Read + Write {
    fn socket(&self) -> &TcpStream;
}

struct Plain(TcpStream);

impl Read for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Timed for Plain {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
}

impl Timed for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

fn exchange(
    stream: &mut impl Timed,
    at: SocketAddr,
    method: &str,
    path: &str,
    json: Option<&str>,
    headers: &[&str],
    end: Instant,
) -> io::Result<Answer> {
    let body = json.unwrap_or("");
    let kind = if json.is_some() { "Content-Type: application/json\r\n" } else { "" };
    let length = body.len();
    let more: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{more}{kind}Content-Length: {length}\r\n\r\n"
    );
    stream.socket().set_write_timeout(Some(left(end)?))?;
    stream.socket().set_read_timeout(Some(left(end)?))?;
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut bytes = Vec::with_capacity(4096);
    let mut chunk = [0; 16 << 10];
    loop {
        stream.socket().set_read_timeout(Some(left(end)?))?;
        let read = match stream.read(&mut chunk) {
            // An agent that is killed says no goodbye; whether its answer is whole, its length tells.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        match read {
            0 => return parse(&bytes),
            n if bytes.len() + n > MAX_ANSWER => return Err(malformed("answer longer than 8 MiB")),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

pub(crate) fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| malformed("answer cut off"))?;
    let head = std::str::from_utf8(&bytes[..split]).map_err(|_| malformed("head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let headers: Vec<_> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let mut answer = Answer {
        status: status.ok_or_else(|| malformed("no status line"))?,
        headers,
        body: bytes[split + 4..].to_vec(),
    };
    if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        answer.body = unchunk(&answer.body)?;
    } else if let Some(length) = answer.header("content-length") {
        // A host that dies half-way through must not count as having answered.
        let length: usize = length.parse().map_err(|_| malformed("content-length"))?;
        if answer.body.len() < length {
            return Err(malformed("body cut off"));
        }
        answer.body.truncate(length);
    }
    Ok(answer)
}

fn unchunk(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(bytes.len());
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n").ok_or_else(|| malformed("chunk cut off"))?;
        let size = std::str::from_utf8(&bytes[..line]).ok().and_then(|s| s.split(';').next());
        let size = size.and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
        let size = size.ok_or_else(|| malformed("chunk size"))?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        if bytes.len() < size.saturating_add(2) {
            return Err(malformed("chunk cut off"));
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_whole_chunked_and_cut_off() {
        let whole = parse(b"HTTP/1.1 200 OK\r\nX-Served-By: alpha\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(
            (whole.status, whole.header("x-served-by"), whole.text().as_str()),
            (200, Some("alpha"), "hi")
        );
        let chunked = parse(
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.map(|a| (a.status, a.text())).unwrap(), (503, "abcd".into()));
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
        ] {
            assert!(parse(cut).is_err(), "{}", String::from_utf8_lossy(cut));
        }
    }

    #[test]
    fn a_silent_server_costs_no_more_than_the_limit() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let begin = Instant::now();
        let limit = Duration::from_millis(80);
        assert!(get(server.local_addr().unwrap(), "/", limit, limit).is_err());
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
