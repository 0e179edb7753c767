//! Buffers for O_DIRECT.

/// A zeroed buffer whose address is a multiple of 4096.
pub struct AlignedBuf;
