//! All hosts lose their power at the same moment. Each has its replica and the metadata in files on an ext4 of its own, as on
//! a real host, on a disk that records. What each disk may then hold is mounted, replicators start on it as after a
//! reboot, and one of them leads: all replicas must become equal by what the bookkeeping says was being written, and
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

fn on(dirs: &[PathBuf]) -> Vec<Replica> {
    dirs.iter().map(|dir| Replica { size_bytes: SIZE, device: None, dir: Some(dir.clone()) }).collect()
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

fn all_lose_power(hosts: usize) {
    if !available() {
        return;
    }
    let (seed, dir, log) = (seed(), tempfile::tempdir().unwrap(), Arc::<Log>::default());
    let disk = |n| Disk::start(dir.path(), &log, n, DISK, seed.wrapping_add(n as u64));
    let disks: Vec<Disk> = (0..hosts).map(disk).collect();
    let states: Vec<PathBuf> = (0..hosts).map(|n| dir.path().join(format!("state{n}"))).collect();
    let mount = |(disk, state): (&Disk, &PathBuf)| {
        Filesystem::Ext4.make(&disk.device);
        Mounted::new(&disk.device, state.clone())
    };
    let mounted: Vec<Mounted> = disks.iter().zip(&states).map(mount).collect();
    let pair = Pair::of(on(&states), 1);
    let (history, (first, last)) = work_while_workers_die(&pair, &log, 2500, |stop| {
        blocks::write(&pair.device, SIZE / baton_replicator::store::BLOCK, seed, &log, stop)
    });
    drop(pair);
    drop(mounted);
    drop(disks);
    let mut random = StdRng::seed_from_u64(seed);
    let mut cuts: Vec<Cuts> = (0..hosts).map(|disk| Cuts::new(&log, disk, DISK)).collect();
    let mut ticks: Vec<Tick> = (0..4 * rounds()).map(|_| random.random_range(first..=last)).collect();
    ticks.sort_unstable();
    for tick in ticks {
        let dirs: Vec<PathBuf> = (0..hosts).map(|n| dir.path().join(format!("rescued{n}"))).collect();
        for (cuts, (to, name)) in cuts.iter_mut().zip(dirs.iter().zip(REPLICAS)) {
            rescue(&cuts.at(tick, &mut random), dir.path(), to)
                .and_then(|()| history.check(&std::fs::read(to.join("webstore.img")).unwrap(), tick))
                .unwrap_or_else(|e| panic!("{name}, cut at {tick}: {e}"));
        }
        let images: Vec<_> =
            dirs.iter().map(|dir| std::fs::read(dir.join("webstore.img")).unwrap()).collect();
        let differ =
            |other: &Vec<u8>| images[0].chunks(4096).zip(other.chunks(4096)).filter(|(a, b)| a != b).count();
        let differed: Vec<usize> = images[1..].iter().map(differ).collect();
        let pair = Pair::of(on(&dirs), 2);
        println!("cut at {tick}: blocks that differed from the first: {differed:?}");
        pair.assert_equal();
        history.check(&std::fs::read(pair.alpha.image()).unwrap(), tick).unwrap();
    }
}

#[test]
fn both_hosts_lose_power_and_their_replicas_become_equal_again_with_every_confirmed_block() {
    all_lose_power(2);
}

#[test]
fn three_hosts_lose_power_and_their_replicas_become_equal_again_with_every_confirmed_block() {
    all_lose_power(3);
}
