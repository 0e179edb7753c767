//! Frames.
use bytes::Bytes;

/// Largest head.
pub const MAX_HEAD: usize = 64 * 1024;
/// Largest body.
pub const MAX_BODY: usize = 2 * 1024 * 1024;
/// Kinds from here on belong to the transport itself.
pub const RESERVED_KINDS: u16 = 0xff00;

/// A message: a kind, a small head (fields) and a body (blocks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// What it is; below [`RESERVED_KINDS`].
    pub kind: u16,
    /// At most [`MAX_HEAD`] bytes.
    pub head: Bytes,
    /// At most [`MAX_BODY`] bytes. Received bodies are 4096-aligned in memory.
    pub body: Bytes,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol.
    #[error("not a Baton frame")]
    Magic,
}
