//! Runs a target over its corpus, then over mutations of it for a moment: the same ones each time. The operator's tests
//! include this file, too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mutations of a target, and the longest time for them on a slow machine. Hours belong to the fuzzer with coverage.
const MUTATIONS: u64 = 20_000;
const LIMIT: Duration = Duration::from_millis(1500);
/// Longest mutation: enough for some hundred steps.
const LONGEST: usize = 4096;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn corpus(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect()
}

fn mutate(random: &mut Random, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    const NUMBERS: [u64; 6] = [0, 1, 4096, u32::MAX as u64, 1 << 32, u64::MAX];
    let mut input = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.insert(at, random.next() as u8),
            3 if at < input.len() => drop(input.drain(at..(at + 1 + random.below(16)).min(input.len()))),
            4 => {
                let bytes = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
            }
            5 => {
                let other = &corpus[random.below(corpus.len())].1;
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => {
                let part = input[at..(at + random.below(64)).min(input.len())].to_vec();
                input.splice(at..at, part);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

fn survives(target: fn(&[u8]), input: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{what} breaks it; put it into the corpus with what mends it: {hex}");
    }
}

/// Over what lies in `dir`, and mutations of it.
pub fn run(target: fn(&[u8]), dir: &Path) {
    let corpus = corpus(dir);
    assert!(!corpus.is_empty(), "{} is empty", dir.display());
    corpus.iter().for_each(|(path, input)| survives(target, input, &path.display().to_string()));
    let (mut random, began) = (Random(1), Instant::now());
    for number in 0..MUTATIONS {
        if began.elapsed() > LIMIT {
            break;
        }
        survives(target, &mutate(&mut random, &corpus), &format!("mutation {number}"));
    }
}
