//! Files on a filesystem on the device, and what they may hold after a power cut on either replica.
//!
//! Every file has a history of states. A state that was confirmed by `fsync` (of the file, and of its directory where a name
//! changed) is the least that must be there after a cut; what was asked for later may be there, and for a file that is
//! written in place any mixture of both, block by block.

use crate::log::{Log, Tick};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Each in its own directory.
const WRITERS: u64 = 2;
const NAMES: u64 = 12;
const BLOCK: usize = 4096;
/// Blocks per file at most.
const LONGEST: usize = 24;

/// What a file is: not there, or by block the version that was written.
type State = Option<Vec<u64>>;

struct Step {
    /// Asked for.
    begin: Tick,
    /// Confirmed.
    synced: Tick,
    state: State,
}

/// Of each file, relative to the filesystem's root.
pub struct History(BTreeMap<String, Vec<Step>>);

fn fill(name: &str, at: usize, version: u64) -> Vec<u8> {
    let label = format!("{name} block {at} version {version}. ");
    label.bytes().cycle().take(BLOCK).collect()
}

/// Makes, replaces, overwrites, extends and removes files until told to stop.
pub fn write(root: &Path, seed: u64, log: &Log, stop: &AtomicBool) -> History {
    let parts = thread::scope(|scope| {
        let spawn = |n| scope.spawn(move || Writer::new(root, n, seed, log).run(stop));
        let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
        writers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>()
    });
    History(parts.into_iter().flatten().collect())
}

struct Writer<'a> {
    root: PathBuf,
    part: String,
    random: StdRng,
    log: &'a Log,
    files: BTreeMap<String, Vec<Step>>,
}

impl<'a> Writer<'a> {
    fn new(root: &Path, number: u64, seed: u64, log: &'a Log) -> Self {
        let part = format!("writer{number}");
        std::fs::create_dir_all(root.join(&part)).unwrap();
        File::open(root).unwrap().sync_all().unwrap();
        let random = StdRng::seed_from_u64(seed + number);
        Self { root: root.into(), part, random, log, files: BTreeMap::new() }
    }

    fn run(mut self, stop: &AtomicBool) -> BTreeMap<String, Vec<Step>> {
        for version in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let name = format!("{}/{}", self.part, self.random.random_range(0..NAMES));
            let now = self.files.get(&name).and_then(|steps| steps.last()?.state.clone());
            let begin = self.log.tick();
            let state = match (now, self.random.random_range(0..100)) {
                (Some(blocks), 0..35) => self.overwrite(&name, blocks, version),
                (Some(blocks), 35..60) => self.extend(&name, blocks, version),
                (Some(_), 60..75) => self.remove(&name),
                _ => self.replace(&name, version),
            };
            let state = state.expect("no I/O error");
            let synced = self.log.tick();
            self.files.entry(name).or_default().push(Step { begin, synced, state });
            self.noise(version).expect("no I/O error");
        }
        self.files
    }

    fn sync_names(&self) -> std::io::Result<()> {
        File::open(self.root.join(&self.part))?.sync_all()
    }

    /// Aside, then renamed into place: after a crash it is the old one or the new one.
    fn replace(&mut self, name: &str, version: u64) -> std::io::Result<State> {
        let blocks = vec![version; self.random.random_range(1..=LONGEST)];
        let (path, aside) = (self.root.join(name), self.root.join(format!("{name}.new")));
        let file = File::create(&aside)?;
        for at in 0..blocks.len() {
            file.write_all_at(&fill(name, at, version), (at * BLOCK) as u64)?;
        }
        file.sync_all()?;
        std::fs::rename(aside, path)?;
        self.sync_names()?;
        Ok(Some(blocks))
    }

    fn overwrite(&mut self, name: &str, mut blocks: Vec<u64>, version: u64) -> std::io::Result<State> {
        let file = OpenOptions::new().write(true).open(self.root.join(name))?;
        for (at, block) in blocks.iter_mut().enumerate() {
            if self.random.random_bool(0.6) {
                file.write_all_at(&fill(name, at, version), (at * BLOCK) as u64)?;
                *block = version;
            }
        }
        file.sync_data()?;
        Ok(Some(blocks))
    }

    fn extend(&mut self, name: &str, mut blocks: Vec<u64>, version: u64) -> std::io::Result<State> {
        let file = OpenOptions::new().write(true).open(self.root.join(name))?;
        for at in blocks.len()..(blocks.len() + self.random.random_range(1..=4)) {
            file.write_all_at(&fill(name, at, version), (at * BLOCK) as u64)?;
            blocks.push(version);
        }
        file.sync_data()?;
        Ok(Some(blocks))
    }

    fn remove(&mut self, name: &str) -> std::io::Result<State> {
        std::fs::remove_file(self.root.join(name))?;
        self.sync_names()?;
        Ok(None)
    }

    /// Never synced, promised nothing: only what it does to the rest counts.
    fn noise(&mut self, version: u64) -> std::io::Result<()> {
        let name = format!("{}/noise{}", self.part, self.random.random_range(0..4));
        if self.random.random_ratio(1, 4) {
            let _ = std::fs::remove_file(self.root.join(&name));
        }
        std::fs::write(self.root.join(&name), fill(&name, 0, version).repeat(self.random.random_range(1..16)))
    }
}

impl History {
    /// When each state was confirmed.
    pub fn confirmed(&self) -> Vec<Tick> {
        self.0.values().flatten().map(|step| step.synced).collect()
    }

    /// Whether a filesystem holds what it may after a cut.
    pub fn check(&self, root: &Path, cut: Tick) -> Result<(), String> {
        self.0.iter().try_for_each(|(name, steps)| {
            let lowest = steps.iter().rposition(|s| s.synced < cut);
            let later = steps.iter().skip(lowest.unwrap_or(0)).filter(|s| s.begin < cut).map(|s| &s.state);
            let legal: Vec<&State> = later.chain(lowest.is_none().then_some(&None)).collect();
            let found = match std::fs::read(root.join(name)) {
                Ok(found) => Some(found),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(format!("cannot read {name}: {e}")),
            };
            is_legal(name, found.as_deref(), &legal)
                .map_err(|why| format!("{name} after a cut at {cut}: {why}; legal are {legal:?}"))
        })
    }
}

fn is_legal(name: &str, found: Option<&[u8]>, legal: &[&State]) -> Result<(), String> {
    let Some(found) = found else {
        return if legal.iter().any(|s| s.is_none()) { Ok(()) } else { Err("it is not there".into()) };
    };
    let states: Vec<&Vec<u64>> = legal.iter().copied().flatten().collect();
    let lengths = states.iter().map(|s| s.len() * BLOCK);
    let (Some(least), Some(most)) = (lengths.clone().min(), lengths.max()) else {
        return Err("it is there".into());
    };
    if found.len() < least || found.len() > most {
        return Err(format!("it has {} bytes", found.len()));
    }
    for (at, block) in found.chunks(BLOCK).enumerate() {
        let versions = states.iter().filter_map(|s| s.get(at));
        let known = versions.into_iter().any(|v| fill(name, at, *v)[..block.len()] == *block);
        // The part by which a file was being extended may not be filled yet.
        let unfilled = at * BLOCK >= least && block.iter().all(|b| *b == 0);
        if !known && !unfilled {
            let start = String::from_utf8_lossy(&block[..block.len().min(60)]).into_owned();
            return Err(format!("block {at} is {start:?}"));
        }
    }
    Ok(())
}
