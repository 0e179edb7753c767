//! What was fenced, as a file per node: certainty that survives this agent while etcd is out of reach.

use crate::status::FenceRecord;
use baton_replicator::types::NodeName;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What is remembered; what cannot be read is left out.
pub(super) fn load(dir: &Path) -> BTreeMap<NodeName, FenceRecord> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let node = NodeName::new(name.strip_suffix(".json")?).ok()?;
        Some((node, serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?))
    };
    entries.flatten().filter_map(read).collect()
}

/// Durable when this returns.
pub(super) fn save(dir: &Path, node: &NodeName, record: &FenceRecord) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{node}.json"));
    let aside = path.with_extension("json.new");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_what_is_damaged_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("fence");
        assert!(load(&dir).is_empty());
        let (alpha, beta) = (NodeName::new("alpha").unwrap(), NodeName::new("beta").unwrap());
        let record = FenceRecord { id: 7, ok: true, action: "off".into(), ..FenceRecord::of(alpha.clone()) };
        save(&dir, &beta, &record).unwrap();
        fs::write(dir.join("alpha.json"), "{").unwrap();
        assert_eq!(load(&dir), BTreeMap::from([(beta, record)]));
    }
}
