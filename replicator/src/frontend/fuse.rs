//! The `fuse` front end.
use super::{EventSink, FrontEnd, FrontEndConfig};
use std::sync::Arc;

/// Starts a FUSE file on a loop device. Returns at once; [`super::FrontEndEvent::Ready`] or `Failed` follows.
#[must_use]
pub fn start(config: FrontEndConfig, sink: EventSink) -> Arc<dyn FrontEnd> {
    let _ = (config, sink);
    unimplemented!("follows")
}
