//! From files to a running volume: creates both if both are absent, refuses anything in between.

use super::Shared;
use super::door::Door;
use super::handle::{Input, Volume};
use super::volume::{self, Parts};
use crate::api::{Backing, Problem, VolumeConfig};
use crate::clock;
use crate::control::problem;
use crate::core::engine::{LOG_IDLE, Setup, VERIFY_CHUNK};
use crate::core::meta::image;
use crate::frontend::probe::{PROBE_LEN, Signature, probe};
use crate::memory;
use crate::store::{BackingStore, MetaFile, keep};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Opens, or creates and opens, a volume.
pub(super) fn open(shared: &Arc<Shared>, config: VolumeConfig) -> Result<Volume, Problem> {
    let node = shared.options.node.clone();
    let setup = Setup {
        node,
        config: config.clone(),
        host_boot: shared.options.host_boot.clone(),
        seed: rand::random(),
        log_idle: LOG_IDLE,
        verify_chunk: VERIFY_CHUNK,
        held: shared.options.holder.has(config.volume.as_str()),
    };
    let failed = |e: &dyn std::fmt::Display| problem(500, "storage", "Storage failed", e.to_string());
    let meta_failed = |e: &dyn std::fmt::Display| {
        let detail = format!("{}: {e}", config.metadata.display());
        problem(500, "metadata", "Metadata cannot be used", detail)
    };
    create_if_absent(&setup, &config)?;
    keep::clean(&config.backing);
    let (door, receiver) = Door::new();
    let sink = door.clone();
    let (meta, content) = MetaFile::open(&config.metadata, move |done| {
        // An error means that the volume's thread has ended; nobody waits any more.
        let _ = sink.send(Input::Meta(done));
    })
    .map_err(|e| meta_failed(&e))?;
    // A volume that is to grow is as large as its metadata say until it has grown.
    let size = image::size(&content).map_err(|e| meta_failed(&e))?;
    let sink = door.clone();
    let store = BackingStore::open_growing(&config.backing, size, config.size_bytes.max(size), move |done| {
        let _ = sink.send_all(&mut done.map(Input::Store));
    })
    .map_err(|e| failed(&e))?;
    let (engine, actions) = setup.attach(&content, clock::now()).map_err(|e| meta_failed(&e))?;
    // The whole metadata file was in memory, and bitmaps are made of many small pieces.
    drop(content);
    memory::trim();
    let store = Arc::new(store);
    let parts = Parts { engine, actions, store, meta, door, receiver };
    volume::start(shared, parts).map_err(|e| failed(&e))
}

fn create_if_absent(setup: &Setup, config: &VolumeConfig) -> Result<(), Problem> {
    let has_meta = config.metadata.symlink_metadata().is_ok();
    let has_data = BackingStore::exists(&config.backing);
    let (path, is_file) = match &config.backing {
        Backing::File(path) => (path, true),
        Backing::Device(path) => (path, false),
    };
    let torn = |present: &Path, absent: &Path| {
        let detail = format!(
            "{} is there and {} is not; restore the missing one, or remove the other to begin anew",
            present.display(),
            absent.display()
        );
        Err(problem(409, "half-a-replica", "Half of the replica is missing", detail))
    };
    match (has_meta, has_data) {
        (true, true) => return Ok(()),
        (true, false) => return torn(&config.metadata, path),
        (false, true) if is_file => return torn(path, &config.metadata),
        (false, true) => check_blank(path)?,
        (false, false) => {}
    }
    let (len, writes) =
        setup.create().map_err(|e| problem(400, "configuration", "Not a possible volume", e.to_string()))?;
    let failed = |e: crate::store::StoreError| problem(500, "storage", "Storage failed", e.to_string());
    // The backing file last: with the metadata alone the next attempt says so instead of guessing.
    MetaFile::create(&config.metadata, len, &writes).map_err(failed)?;
    BackingStore::create(&config.backing, config.size_bytes).map_err(|e| {
        // Ours, a moment old, and without a replica to describe.
        let _ = std::fs::remove_file(&config.metadata);
        failed(e)
    })
}

/// A device that holds something is not taken for a new replica.
fn check_blank(device: &Path) -> Result<(), Problem> {
    let mut head = vec![0; PROBE_LEN];
    let fail = |e: std::io::Error| {
        problem(500, "storage", "Storage failed", format!("cannot read {}: {e}", device.display()))
    };
    let mut file = std::fs::File::open(device).map_err(fail)?;
    file.read_exact(&mut head).map_err(fail)?;
    let found = match probe(&head) {
        Signature::Blank => return Ok(()),
        Signature::Known(name) => name,
        Signature::Unknown => "unknown data",
    };
    let detail = format!("{} holds {found} and has no metadata; wipe it if it may be used", device.display());
    Err(problem(409, "not-blank", "Device is not blank", detail))
}
