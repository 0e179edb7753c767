//! The HTTP routes.
use super::Controller;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The routes of the control API.
pub fn router<C: Controller>(controller: Arc<C>) -> axum::Router {
    let _ = controller;
    unimplemented!("follows")
}

/// A bound control socket.
pub struct ControlServer;

impl ControlServer {
    /// Binds the socket (mode 0600, replacing a dead one). Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be made, or another process serves on it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _ = path;
        unimplemented!("follows")
    }

    /// Serves until `shutdown` resolves, then gives running requests a moment and removes the socket.
    ///
    /// # Errors
    /// Accepting failed for good.
    pub async fn serve<C: Controller>(
        self,
        controller: Arc<C>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let _ = (controller, shutdown);
        unimplemented!("follows")
    }
}
