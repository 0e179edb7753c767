//! Resident memory of replicators that do nothing: with a volume of 1 TiB (a sparse file) that has one peer.

use crate::options::Options;
use crate::replicator::{Replicated, Setup, Transport};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// After which it is idle.
const QUIET: Duration = Duration::from_secs(3);

/// Bytes: of the leader's and of the standby's processes, holder included. Each is measured while the other is away: to
/// be in sync first, they would have to read 1 TiB.
///
/// # Errors
/// It does not start; the filesystem has no sparse file of 1 TiB.
pub fn of_a_tebibyte(options: &Options, pki: &Path) -> Result<Vec<f64>> {
    let dir = options.dir.join("tebibyte");
    let program = options.program("baton-replicator")?;
    let peer = Some(Transport::Plain);
    let found = Replicated::resident(Setup { program, pki: pki.into(), dir, size: 1 << 40, peer }, QUIET)?;
    Ok(found.map(|bytes| bytes as f64).to_vec())
}
