//! From a configuration to a running owner: backing store and metadata are created if both are absent, opened,
//! checked and handed to a new owner thread.
//!
//! Nothing is guessed: a backing file without its metadata, or metadata without its file, is refused.

use super::volume::{Input, Owner, Parts};
use super::{Entry, Shared, failed_status};
use crate::api::{Backing, Problem, VolumeConfig};
use crate::clock;
use crate::control::problem;
use crate::core::engine::Setup;
use crate::store::{BackingStore, MetaFile};
use std::sync::Arc;

/// Attaches a volume; what failed stays visible in the status.
pub(super) fn attach(shared: &Arc<Shared>, config: VolumeConfig) -> Result<(), Problem> {
    let result = try_attach(shared, &config);
    if let Err(problem) = &result {
        tracing::error!(volume = %config.volume, "not attached: {}", problem.detail);
        let status = failed_status(&config, &problem.detail);
        let entry = Entry { status, config: config.clone(), owner: None, device: None };
        shared.volumes().insert(config.volume.clone(), entry);
        shared.version.send_modify(|v| *v += 1);
    }
    result
}

fn try_attach(shared: &Arc<Shared>, config: &VolumeConfig) -> Result<(), Problem> {
    let failed = |detail: String| problem(422, "attach-failed", "The volume could not be attached", detail);
    let store_failed = |e: crate::store::StoreError| failed(e.to_string());
    let setup = Setup {
        node: shared.config.node.clone(),
        config: config.clone(),
        host_boot: shared.host_boot.clone(),
        seed: rand::random(),
    };
    let meta_path = config.metadata.display();
    match (BackingStore::exists(&config.backing), config.metadata.exists(), &config.backing) {
        (true, true, _) => {}
        (false, false, _) | (true, false, Backing::Device(_)) => {
            let (length, content) = setup.create().map_err(|e| failed(e.to_string()))?;
            BackingStore::create(&config.backing, config.size_bytes).map_err(store_failed)?;
            if let Err(error) = MetaFile::create(&config.metadata, length, &content) {
                // The file was made a moment ago and is empty: left alone it would look like a replica that has lost
                // its metadata.
                if let Backing::File(path) = &config.backing {
                    let _ = std::fs::remove_file(path);
                }
                return Err(store_failed(error));
            }
            tracing::info!(volume = %config.volume, "created: {} bytes, metadata in {meta_path}", config.size_bytes);
        }
        (true, false, Backing::File(path)) => {
            return Err(failed(format!(
                "{} exists but its metadata {meta_path} does not: bring the metadata back, or move the file away to \
                 start as an empty replica that is resynced",
                path.display()
            )));
        }
        (false, true, Backing::File(path) | Backing::Device(path)) => {
            return Err(failed(format!(
                "the metadata {meta_path} exists but {} does not: bring it back, or move the metadata away to start \
                 as an empty replica that is resynced",
                path.display()
            )));
        }
    }
    let (to_self, inputs) = crossbeam_channel::unbounded();
    let to_meta = to_self.clone();
    let (meta, content) =
        MetaFile::open(&config.metadata, move |done| drop(to_meta.send(Input::Meta(done)))).map_err(store_failed)?;
    let to_store = to_self.clone();
    let store = BackingStore::open(&config.backing, config.size_bytes, move |done| {
        drop(to_store.send(Input::Store(done)));
    })
    .map_err(store_failed)?;
    let (engine, first) =
        setup.attach(&content, clock::now()).map_err(|e| failed(format!("metadata {meta_path}: {e}")))?;
    drop(content);
    let entry = Entry {
        status: engine.status(),
        config: config.clone(),
        owner: Some(to_self.clone()),
        device: None,
    };
    shared.volumes().insert(config.volume.clone(), entry);
    let parts = Parts { engine, first, store, meta, shared: Arc::clone(shared), to_self };
    std::thread::Builder::new()
        .name(format!("vol-{}", config.volume))
        .spawn(move || Owner::run(parts, &inputs))
        .map_err(|e| failed(format!("cannot start a thread: {e}")))?;
    tracing::info!(volume = %config.volume, "attached");
    Ok(())
}
