//! A short memory of the status snapshot for the charts: an hour in steps of 5 s and a day in steps of a minute.
//!
//! Owns the ring buffers; lives in this process only and is gone with it, as a page that says "since 14:02" shows. The
//! pure parts are [`ring`] (bounded memory), [`sample`] (what is remembered of a snapshot) and [`availability`] (how
//! long a group did not serve). If the recording task dies, charts end; nothing else notices.
//!
//! Memory: at most [`ring::MAX_TRACKS`] tracks of [`ring::TRACK_BYTES`], 9 MiB; the demo has 5 tracks, 42 KiB.

mod answer;
pub mod availability;
pub mod ring;
pub mod sample;

pub use answer::{Range, SeriesAnswer, SeriesQuery};

use crate::heartbeat::clock;
use crate::status::ClusterStatus;
use ring::Memory;
use sample::Sampler;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Step of the fine memory. Twenty snapshots: short enough to see a takeover, long enough for an hour in 720 values.
pub const STEP: Duration = Duration::from_secs(5);

/// The memory, shared between the task that fills it and the API.
#[derive(Clone, Default)]
pub struct Series(Arc<Mutex<Memory>>);

impl Series {
    /// Remembers what `status` says every [`STEP`], until the sender is gone.
    #[must_use]
    pub fn record(mut status: watch::Receiver<ClusterStatus>) -> Self {
        let series = Self::default();
        let memory = series.clone();
        tokio::spawn(async move {
            let mut sampler = Sampler::default();
            let mut ticks = tokio::time::interval(STEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                if status.has_changed().is_err() {
                    return;
                }
                let sampled = sampler.sample(&status.borrow_and_update(), clock::now());
                memory.lock().push(clock::now(), SystemTime::now(), sampled);
            }
        });
        series
    }

    /// What is remembered of `query`.
    #[must_use]
    pub fn answer(&self, status: &ClusterStatus, query: &SeriesQuery) -> SeriesAnswer {
        answer::build(&self.lock(), status, query)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Values are whole after every push: a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
