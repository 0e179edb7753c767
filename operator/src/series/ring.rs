//! Bounded memory of many values over time. Pure: time comes in as an argument.
//!
//! All tracks share one time axis. A step in which a track had no value, or in which nothing was recorded (the host
//! was suspended), holds NaN, so that a chart shows the hole.

use super::STEP;
use baton_replicator::types::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::SystemTime;

/// An hour of fine steps.
pub const FINE: usize = 720;
/// A day of minutes.
pub const COARSE: usize = 1440;
/// Fine steps that make a minute.
const PER_MINUTE: u64 = 12;
/// Bytes of a full track's values.
pub const TRACK_BYTES: usize = (FINE + COARSE) * size_of::<f32>();
/// Most tracks: a hundred groups with two volumes and two standbys each have about 900. Those beyond are counted in
/// `left_out`, not remembered.
pub const MAX_TRACKS: usize = 1024;

/// What a track holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Name with its unit, as the metric of the same meaning without `baton_`.
    pub name: &'static str,
    /// Labels in a fixed order.
    pub labels: Vec<(&'static str, String)>,
}

/// How twelve fine values become one of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Their mean.
    Mean,
    /// The largest: for what is bad when it is large, even for a moment.
    Max,
}

/// One value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Whose.
    pub key: Key,
    /// How minutes are made of it.
    pub fold: Fold,
    /// The value in base units.
    pub value: f32,
}

/// Values of one key.
#[derive(Clone, Debug)]
pub struct Track {
    fold: Fold,
    fine: VecDeque<f32>,
    coarse: VecDeque<f32>,
    minute: Minute,
    /// Step in which it last had a value.
    seen: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    sum: f64,
    max: f64,
    n: u32,
}

/// All tracks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    tracks: BTreeMap<Key, Track>,
    /// Instant of step 0; none before the first sample.
    origin: Option<Instant>,
    /// The newest step.
    step: u64,
    /// Wall clock of the newest step, for people.
    wall: Option<SystemTime>,
    left_out: usize,
}

impl Track {
    /// The fold and the newest values, oldest first, of the fine or the coarse memory.
    #[must_use]
    pub fn values(&self, coarse: bool) -> (Fold, &VecDeque<f32>) {
        (self.fold, if coarse { &self.coarse } else { &self.fine })
    }

    fn push(&mut self, value: f32, ends_minute: bool) {
        keep(&mut self.fine, value, FINE);
        if !value.is_nan() {
            let value = f64::from(value);
            self.minute.max = if self.minute.n == 0 { value } else { self.minute.max.max(value) };
            self.minute.sum += value;
            self.minute.n += 1;
        }
        if ends_minute {
            let minute = std::mem::take(&mut self.minute);
            keep(&mut self.coarse, minute.fold(self.fold), COARSE);
        }
    }

    /// As pushing NaN in each of `missed`, but a hole of any length costs no more than the memory.
    fn skip(&mut self, missed: Range<u64>) {
        let minutes = missed.end / PER_MINUTE - missed.start / PER_MINUTE;
        keep_holes(&mut self.fine, missed.end - missed.start, FINE);
        if minutes > 0 {
            let begun = std::mem::take(&mut self.minute);
            keep(&mut self.coarse, begun.fold(self.fold), COARSE);
            keep_holes(&mut self.coarse, minutes - 1, COARSE);
        }
    }
}

impl Minute {
    #[expect(clippy::cast_possible_truncation, reason = "the ring holds single precision")]
    fn fold(self, fold: Fold) -> f32 {
        match (self.n, fold) {
            (0, _) => f32::NAN,
            (n, Fold::Mean) => (self.sum / f64::from(n)) as f32,
            (_, Fold::Max) => self.max as f32,
        }
    }
}

fn keep(ring: &mut VecDeque<f32>, value: f32, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(value);
}

fn keep_holes(ring: &mut VecDeque<f32>, holes: u64, most: usize) {
    let holes = usize::try_from(holes).unwrap_or(most).min(most);
    ring.drain(..(ring.len() + holes).saturating_sub(most));
    ring.resize(ring.len() + holes, f32::NAN);
}

impl Memory {
    /// Remembers a sample taken at `now`. Steps that were missed become holes; a second sample in one step is left out.
    pub fn push(&mut self, now: Instant, wall: SystemTime, sample: Vec<Value>) {
        let origin = *self.origin.get_or_insert(now);
        let nanos = u128::from(now.since(origin).as_nanos() as u64);
        let half = STEP.as_nanos() / 2;
        let step = u64::try_from((nanos + half) / STEP.as_nanos()).unwrap_or(u64::MAX);
        if self.wall.is_some() {
            if step <= self.step {
                return;
            }
            let missed = self.step + 1..step;
            self.tracks.values_mut().for_each(|track| track.skip(missed.clone()));
        }
        self.step = step;
        self.wall = Some(wall);
        let mut values: BTreeMap<Key, (Fold, f32)> =
            sample.into_iter().map(|v| (v.key, (v.fold, v.value))).collect();
        for (key, track) in &mut self.tracks {
            let value = values.remove(key).map_or(f32::NAN, |(_, value)| value);
            if !value.is_nan() {
                track.seen = step;
            }
            track.push(value, ends_minute(step));
        }
        self.tracks.retain(|_, track| step - track.seen <= PER_MINUTE * COARSE as u64);
        self.left_out = 0;
        for (key, (fold, value)) in values {
            if self.tracks.len() >= MAX_TRACKS {
                self.left_out += 1;
                continue;
            }
            let mut track = Track {
                fold,
                fine: VecDeque::new(),
                coarse: VecDeque::new(),
                minute: Minute::default(),
                seen: step,
            };
            track.push(value, ends_minute(step));
            self.tracks.insert(key, track);
        }
    }

    /// The tracks by key.
    pub fn tracks(&self) -> impl Iterator<Item = (&Key, &Track)> {
        self.tracks.iter()
    }

    /// Wall clock of the newest value; of minutes, that of the newest whole one. None before the first sample.
    #[must_use]
    pub fn newest(&self, coarse: bool) -> Option<SystemTime> {
        let into = if coarse { u32::try_from((self.step + 1) % PER_MINUTE).unwrap_or(0) } else { 0 };
        Some(self.wall? - STEP * into)
    }

    /// Values that had no room in the newest sample.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

fn ends_minute(step: u64) -> bool {
    step % PER_MINUTE == PER_MINUTE - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(name: &str) -> Key {
        Key { name: "x", labels: vec![("node", name.to_owned())] }
    }

    fn put(memory: &mut Memory, second: u64, values: &[(&str, f32)]) {
        let sample = values
            .iter()
            .map(|(name, value)| Value {
                key: key(name),
                fold: if *name == "peak" { Fold::Max } else { Fold::Mean },
                value: *value,
            })
            .collect();
        let now = Instant::ZERO.plus(Duration::from_secs(1000 + second));
        memory.push(now, SystemTime::UNIX_EPOCH + Duration::from_secs(second), sample);
    }

    fn values(memory: &Memory, name: &str, coarse: bool) -> Vec<f32> {
        memory.tracks[&key(name)].values(coarse).1.iter().copied().collect()
    }

    fn shown(values: &[f32]) -> String {
        values
            .iter()
            .map(|v| if v.is_nan() { "-".into() } else { v.to_string() })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_axis_is_shared_and_what_is_missing_is_a_hole() {
        let mut memory = Memory::default();
        put(&mut memory, 0, &[("a", 1.0)]);
        put(&mut memory, 5, &[("a", 2.0), ("b", 7.0)]);
        put(&mut memory, 10, &[("b", 8.0)]);
        // A late tick, another one too early for the next step, then 15 s of sleep.
        put(&mut memory, 16, &[("a", 4.0)]);
        put(&mut memory, 17, &[("a", 99.0)]);
        put(&mut memory, 35, &[("a", 5.0)]);
        assert_eq!(shown(&values(&memory, "a", false)), "1 2 - 4 - - - 5");
        assert_eq!(shown(&values(&memory, "b", false)), "7 8 - - - - -", "it began one step later");
        assert_eq!(memory.newest(false), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(35)));
    }

    #[test]
    fn minutes_are_means_or_peaks_and_end_on_whole_minutes() {
        let mut memory = Memory::default();
        for step in 0..30_u8 {
            let value = f32::from(step % 12);
            put(&mut memory, u64::from(step) * 5, &[("mean", value), ("peak", value)]);
        }
        assert_eq!(shown(&values(&memory, "mean", true)), "5.5 5.5");
        assert_eq!(shown(&values(&memory, "peak", true)), "11 11");
        // 30 steps are two minutes and a half: the newest whole minute ended 30 s before the newest value.
        let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(29 * 5 - 30);
        assert_eq!(memory.newest(true), Some(newest));
    }

    #[test]
    fn memory_is_bounded_in_time_and_number() {
        let mut memory = Memory::default();
        for step in 0..(PER_MINUTE * COARSE as u64 + 5000) {
            put(&mut memory, step * 5, &[("a", 1.0)]);
        }
        assert_eq!((values(&memory, "a", false).len(), values(&memory, "a", true).len()), (FINE, COARSE));
        const { assert!(TRACK_BYTES * MAX_TRACKS <= 9 << 20, "the bound in the documentation") };
        let mut memory = Memory::default();
        let names: Vec<String> = (0..MAX_TRACKS + 3).map(|n| format!("n{n}")).collect();
        let sample: Vec<(&str, f32)> = names.iter().map(|n| (n.as_str(), 1.0)).collect();
        put(&mut memory, 0, &sample);
        assert_eq!((memory.tracks.len(), memory.left_out()), (MAX_TRACKS, 3));
        // A day later those that never came back have made room.
        put(&mut memory, 5 + 24 * 3600, &[("new", 2.0)]);
        put(&mut memory, 10 + 24 * 3600, &[("new", 2.0)]);
        assert_eq!(memory.tracks.len(), 1, "{:?}", memory.tracks.keys().take(3).collect::<Vec<_>>());
    }

    #[test]
    fn a_hole_is_as_if_nothing_had_been_measured_in_each_of_its_steps() {
        for steps in [1, 4, 5, 6, 16, 17, 18, 29, 30, FINE - 8, FINE - 7, FINE, FINE + 1, FINE + 12, 3000] {
            let mut slept = Memory::default();
            for step in 0..7_u8 {
                put(&mut slept, u64::from(step) * 5, &[("mean", f32::from(step)), ("peak", f32::from(step))]);
            }
            let mut awake = slept.clone();
            let back = (7 + steps as u64) * 5;
            (35..back).step_by(5).for_each(|second| put(&mut awake, second, &[]));
            for memory in [&mut slept, &mut awake] {
                put(memory, back, &[("mean", 9.0), ("peak", 9.0)]);
            }
            for (name, coarse) in [("mean", false), ("mean", true), ("peak", true)] {
                let [slept, awake] = [&slept, &awake].map(|memory| shown(&values(memory, name, coarse)));
                assert_eq!(slept, awake, "{name} after {steps} steps without a sample");
            }
        }
    }

    #[test]
    fn a_hole_longer_than_the_memory_costs_no_more_than_the_memory() {
        let mut memory = Memory::default();
        put(&mut memory, 0, &[("a", 1.0)]);
        put(&mut memory, 3600 * 24 * 365, &[("a", 2.0)]);
        let fine = values(&memory, "a", false);
        assert_eq!((fine.len(), fine[FINE - 1]), (FINE, 2.0));
        assert!(fine[..FINE - 1].iter().all(|v| v.is_nan()));
    }
}
