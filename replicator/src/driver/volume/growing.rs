//! A volume's part in growing that blocks: on a thread apart, whose outcome comes back as an input.

use super::{Event, Owner, chain};
use crate::driver::handle::Input;
use crate::frontend::growfs::grow_filesystem;
use crate::store::MetaFile;
use std::time::Duration;

/// Growing an ext4 filesystem by some TiB writes the tables of each new block group.
const FILESYSTEM_LIMIT: Duration = Duration::from_secs(120);

impl Owner {
    /// Makes room in the backing store and for the metadata.
    pub(super) fn grow(&mut self, size: u64, meta: u64) {
        let (store, path) = (self.store.clone(), self.engine.config().metadata.clone());
        let made = move || {
            let made = store.grow(size).and_then(|()| MetaFile::prepare(&path, meta));
            Event::Grown(made.map_err(|e| chain(&e)))
        };
        self.blocking("grow", made, Event::Grown);
    }

    pub(super) fn grow_filesystem(&mut self, name: String) {
        let Some(device) = self.handle.local_device() else {
            return self.own.push_back(Event::FilesystemGrown(Err("the device has just gone".into())));
        };
        let volume = self.engine.config().volume.clone();
        let dir = self.shared.options.run_dir.join(format!("grow-{volume}"));
        let grown = move || {
            let grown = grow_filesystem(&device, &name, &dir, FILESYSTEM_LIMIT);
            if grown.is_ok() {
                tracing::info!(%volume, "the {name} filesystem fills the device");
            }
            Event::FilesystemGrown(grown.map_err(|e| chain(&e)))
        };
        self.blocking("growfs", grown, Event::FilesystemGrown);
    }

    fn blocking(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Event + Send + 'static,
        failed: impl FnOnce(Result<(), String>) -> Event,
    ) {
        let door = self.handle.door.clone();
        let run = move || {
            // An error means that the volume was detached meanwhile.
            let _ = door.send(Input::Ended(work()));
        };
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
            self.own.push_back(failed(Err(error.to_string())));
        }
    }
}
