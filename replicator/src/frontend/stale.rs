//! Cleans up after an earlier process.
use crate::types::NodeName;
use std::io;
use std::path::Path;

/// `<node>-<8 hex digits>`: drawn once and kept in `<state-dir>/device-tag`, so that it tells this node's devices
/// from those of other nodes, and other clusters, on the same kernel, and is the same after a restart.
///
/// # Errors
/// The file cannot be read or written.
pub fn node_tag(state_dir: &Path, node: &NodeName) -> io::Result<String> {
    let _ = (state_dir, node);
    unimplemented!("follows")
}

/// Frees loop devices, FUSE mounts and symlinks that an earlier process of the node with this tag left.
/// Returns what it did and what it could not do, one sentence each. To be called before the first front end
/// starts; blocks a few seconds at most.
#[must_use]
pub fn clean(tag: &str, run_dir: &Path, device_dir: &Path) -> Vec<String> {
    let _ = (tag, run_dir, device_dir);
    unimplemented!("follows")
}
