//! Makes filesystems.
use super::FrontEndError;
use std::path::Path;
use std::time::Duration;

/// Makes `filesystem` (`ext4` or `xfs`) on `device` with a child process; blocks at most `limit`.
///
/// # Errors
/// Unknown filesystem, the program is missing, fails or does not end in time.
pub fn make_filesystem(device: &Path, filesystem: &str, limit: Duration) -> Result<(), FrontEndError> {
    let _ = (device, filesystem, limit);
    unimplemented!("follows")
}
