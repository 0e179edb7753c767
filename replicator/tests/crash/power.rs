//! Both hosts lose their power at the same moment. Each has its replica and the metadata in files on an ext4 of its own, as on
//! a real host, on a disk that records. What each disk may then hold is mounted, replicators start on it as after a
//! reboot, and one of them leads: both replicas must become equal by what the bookkeeping says was being written, and
//! hold every block that was confirmed.

use crate::blocks;
use crate::cut::Cuts;
use crate::disk::Disk;
use crate::image::{Filesystem, open};
use crate::log::{Log, Tick};
use crate::rig::{Mounted, Pair, Replica, run};
use crate::{REPLICAS, available, rounds, seed, work_while_workers_die};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DISK: u64 = 64 << 20;
const SIZE: u64 = 16 << 20;

fn on(dirs: &[PathBuf; 2]) -> [Replica; 2] {
    [0, 1].map(|n| Replica { size_bytes: SIZE, device: None, dir: Some(dirs[n].clone()) })
}

/// Copies the files of a replica out of what a disk holds.
fn rescue(image: &[u8], dir: &Path, to: &Path) -> Result<(), String> {
    std::fs::create_dir_all(to).unwrap();
    open(image, Filesystem::Ext4, dir, |root| {
        for name in ["webstore.img", "webstore.meta"] {
            run("cp", &["--sparse=always", root.join(name).to_str().unwrap(), to.to_str().unwrap()]);
        }
        Ok(())
    })
}

#[test]
fn both_hosts_lose_power_and_their_replicas_become_equal_again_with_every_confirmed_block() {
    if !available() {
        return;
    }
    let (seed, dir, log) = (seed(), tempfile::tempdir().unwrap(), Arc::<Log>::default());
    let disks = [0, 1].map(|n| Disk::start(dir.path(), &log, n, DISK, seed.wrapping_add(n as u64)));
    let states = [0, 1].map(|n| dir.path().join(format!("state{n}")));
    let mounted = [0, 1].map(|n| {
        Filesystem::Ext4.make(&disks[n].device);
        Mounted::new(&disks[n].device, states[n].clone())
    });
    let pair = Pair::bare(on(&states), 1);
    let (history, (first, last)) = work_while_workers_die(&pair, &log, 2500, |stop| {
        blocks::write(&pair.device, SIZE / baton_replicator::store::BLOCK, seed, &log, stop)
    });
    drop(pair);
    drop(mounted);
    drop(disks);
    let mut random = StdRng::seed_from_u64(seed);
    let mut cuts = [0, 1].map(|disk| Cuts::new(&log, disk, DISK));
    let mut ticks: Vec<Tick> = (0..4 * rounds()).map(|_| random.random_range(first..=last)).collect();
    ticks.sort_unstable();
    for tick in ticks {
        let dirs = [0, 1].map(|n| dir.path().join(format!("rescued{n}")));
        for (n, name) in REPLICAS.iter().enumerate() {
            rescue(&cuts[n].at(tick, &mut random), dir.path(), &dirs[n])
                .and_then(|()| history.check(&std::fs::read(dirs[n].join("webstore.img")).unwrap(), tick))
                .unwrap_or_else(|e| panic!("{name}, cut at {tick}: {e}"));
        }
        let [one, other] = [0, 1].map(|n| std::fs::read(dirs[n].join("webstore.img")).unwrap());
        let differ = one.chunks(4096).zip(other.chunks(4096)).filter(|(a, b)| a != b).count();
        let pair = Pair::bare(on(&dirs), 2);
        println!("cut at {tick}: {differ} blocks differed");
        pair.assert_equal();
        history.check(&std::fs::read(pair.alpha.image()).unwrap(), tick).unwrap();
    }
}
