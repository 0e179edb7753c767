//! Where requests come in: TCP with TLS, plain TCP on loopback, and the Unix socket; one stream of connections, each
//! with what is known about its other end.
//!
//! Connections are counted: TCP may hold `MAX_TCP`, so that whoever fills them does not shut out the local command
//! line, whose socket has a count of its own. A TLS handshake gets `HANDSHAKE` and holds up nobody else. If this part
//! dies, requests wait in the kernel's queue and fail; the group goes on.

use super::identity::Identity;
use super::tls::ServerTls;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections over TCP: event streams of some dozen pages and a scrape a second need a tenth of it. Beyond, new ones
/// wait for old ones to close.
const MAX_TCP: usize = 512;
/// Connections on the Unix socket.
const MAX_LOCAL: usize = 64;
/// A handshake takes two round trips; who needs longer is closed.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Connections accepted and not yet taken over by the server.
const QUEUE: usize = 16;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// How it came.
    pub origin: Origin,
    /// The valid client certificate it showed, if any.
    pub certificate: Option<Arc<Identity>>,
}

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By the Unix socket, from a process of this user.
    Socket {
        /// The user's number.
        uid: u32,
    },
    /// By TCP.
    Tcp(IpAddr),
}

impl Peer {
    /// Where it comes from: an address without port, or `local`.
    #[must_use]
    pub fn from(&self) -> String {
        match self.origin {
            Origin::Tcp(ip) => ip.to_string(),
            Origin::Socket { .. } => "local".to_owned(),
        }
    }

    fn tcp(address: SocketAddr) -> Self {
        // An IPv4 client of a dual-stack socket has one address, not two.
        Self { origin: Origin::Tcp(address.ip().to_canonical()), certificate: None }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::tcp(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, Incoming>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        stream.remote_addr().clone()
    }
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Plain(TcpStream),
    Local(UnixStream),
}

/// An accepted connection. Gives its place back when it is closed.
pub struct Connection {
    stream: Stream,
    _place: OwnedSemaphorePermit,
}

/// All connections, whatever way they come.
pub struct Incoming {
    queue: mpsc::Receiver<(Connection, Peer)>,
    sender: mpsc::Sender<(Connection, Peer)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Default for Incoming {
    fn default() -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self { queue, sender, tasks: Vec::new() }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Incoming {
    /// Takes TCP connections, with TLS if there is one.
    #[must_use]
    pub fn with_tcp(mut self, listener: TcpListener, tls: Option<Arc<ServerTls>>) -> Self {
        let sender = self.sender.clone();
        self.tasks.push(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MAX_TCP));
            loop {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let (stream, peer) = match listener.accept().await {
                    Ok((stream, address)) => (stream, Peer::tcp(address)),
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                };
                // Answers are small and waited for.
                let _ = stream.set_nodelay(true);
                match &tls {
                    None => {
                        let connection = Connection { stream: Stream::Plain(stream), _place: place };
                        if sender.send((connection, peer)).await.is_err() {
                            return;
                        }
                    }
                    Some(tls) => {
                        let acceptor = TlsAcceptor::from(tls.current());
                        let sender = sender.clone();
                        tokio::spawn(handshake(acceptor, stream, peer, place, sender));
                    }
                }
            }
        }));
        self
    }

    /// Takes connections on a Unix socket.
    #[must_use]
    pub fn with_socket(mut self, listener: UnixListener) -> Self {
        let sender = self.sender.clone();
        self.tasks.push(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MAX_LOCAL));
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                };
                // The kernel says who; without that, it is nobody.
                let Ok(credentials) = stream.peer_cred() else { continue };
                let peer = Peer { origin: Origin::Socket { uid: credentials.uid() }, certificate: None };
                let connection = Connection { stream: Stream::Local(stream), _place: place };
                if sender.send((connection, peer)).await.is_err() {
                    return;
                }
            }
        }));
        self
    }
}

/// Binds the agent's Unix socket, mode 0600 from its first moment on.
///
/// # Errors
/// Another process serves there, or the file cannot be made.
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let alive = |path: &Path| std::os::unix::net::UnixStream::connect(path).is_ok();
    baton_replicator::control::bind_private(path, alive, |path| UnixListener::bind(path))
}

async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(%error, "the API cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    mut peer: Peer,
    place: OwnedSemaphorePermit,
    sender: mpsc::Sender<(Connection, Peer)>,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "TLS handshake refused");
            return;
        }
        Err(_) => return,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if let Some(certificate) = shown {
        match Identity::of_der(certificate) {
            Ok(identity) => peer.certificate = Some(Arc::new(identity)),
            // Signed by the cluster's authority, but not by `baton cert`: nobody we know. A token may still be sent.
            Err(error) => tracing::debug!(?peer, %error, "client certificate without a role"),
        }
    }
    let connection = Connection { stream: Stream::Tls(Box::new(stream)), _place: place };
    let _ = sender.send((connection, peer)).await;
}

impl Listener for Incoming {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        match self.queue.recv().await {
            Some(accepted) => accepted,
            // `self.sender` keeps the queue open.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { origin: Origin::Socket { uid: rustix::process::geteuid().as_raw() }, certificate: None })
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Tls(s) => {
                let $stream = Pin::new(s.as_mut());
                $call
            }
            Stream::Plain(s) => {
                let $stream = Pin::new(s);
                $call
            }
            Stream::Local(s) => {
                let $stream = Pin::new(s);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
