//! Making a Unix socket that nobody else can use, not even for a moment.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Binds a socket beside `path`, makes it private and renames it to `path`: it appears with its final mode, and a
/// dead socket of an earlier process is replaced. `alive` says whether somebody answers at a path.
///
/// # Errors
/// Somebody answers there already, or the file cannot be made.
pub fn bind_private<S>(
    path: &Path,
    alive: impl Fn(&Path) -> bool,
    bind: impl Fn(&Path) -> io::Result<S>,
) -> io::Result<S> {
    let explain =
        |e: io::Error| io::Error::new(e.kind(), format!("cannot make socket {}: {e}", path.display()));
    if alive(path) {
        let text = format!("another process serves on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(explain)?;
    }
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    let _ = std::fs::remove_file(&temp);
    let socket = bind(&temp).map_err(explain)?;
    std::fs::set_permissions(&temp, Permissions::from_mode(0o600)).map_err(explain)?;
    std::fs::rename(&temp, path).map_err(explain)?;
    Ok(socket)
}
