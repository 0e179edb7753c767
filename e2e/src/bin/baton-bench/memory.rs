//! Resident memory of replicators that do nothing: of a volume of 1 TiB (a sparse file) with one peer.

use crate::options::Options;
use crate::os;
use crate::replicator::{Replicated, Setup, Transport};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// After which it is idle.
const QUIET: Duration = Duration::from_secs(3);

/// Bytes: of the leader's and of the standby's processes, holder included.
///
/// # Errors
/// It does not start; the filesystem has no sparse file of 1 TiB.
pub fn of_a_tebibyte(options: &Options, pki: &Path) -> Result<Vec<f64>> {
    let dir = options.dir.join("tebibyte");
    let program = options.program("baton-replicator")?;
    let peer = Some(Transport::Plain);
    let mut volume = Replicated::start(Setup { program, pki: pki.into(), dir, size: 1 << 40, peer })?;
    os::pause(QUIET)?;
    volume.is_well()?;
    Ok(volume.resident()?.into_iter().map(|bytes| bytes as f64).collect())
}
