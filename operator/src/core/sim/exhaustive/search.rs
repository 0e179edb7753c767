//! Breadth first through all states, in layers: the states of a layer are expanded on every core, their successors are taken in
//! order, so that the same configuration gives the same count everywhere. Kept of a state is the hash of its key; of the way to
//! it, its predecessor and the move. Only the layer at work is there as a whole.

use super::cluster::{Cluster, Config};
use super::key::{Key, hash};
use super::moves::Move;
use crate::core::sim::sights::Sights;
use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// States of a layer that a thread takes at once.
const PORTION: usize = 64;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub states: usize,
    pub time: Duration,
    /// One of so many states is healed; 0: none.
    pub heal: u64,
    /// The successors of one of so many states that were reached a second time are compared with those of the first; 0: none.
    pub compare: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    pub healed: usize,
    pub compared: usize,
    pub sights: Sights,
    /// Every state within the budgets has been seen.
    pub exhausted: bool,
    /// What went wrong, and the way there.
    pub wrong: Option<String>,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = if self.exhausted { "exhausted" } else { "bound reached" };
        write!(
            f,
            "{end}: {} states, {} transitions, depth {}, {} states healed, {} compared",
            self.states, self.transitions, self.depth, self.healed, self.compared
        )
    }
}

struct Next {
    key: u128,
    from: usize,
    by: Move,
    cluster: Cluster,
}

/// What a portion of a layer gave.
#[derive(Default)]
struct Harvest {
    next: Vec<Next>,
    /// The sum of the keys of all successors, of states that are compared.
    sums: Vec<(usize, u128)>,
    transitions: usize,
    healed: usize,
    sights: Sights,
    wrong: Option<(usize, Option<Move>, String)>,
}

/// A path that ends in a state that was known already: its successors must be those of the state it was taken for.
struct Twin {
    of: usize,
    sum: u128,
    way: (usize, Move),
}

struct Search {
    cfg: Config,
    bounds: Bounds,
    seen: HashMap<u128, usize>,
    /// By state: its predecessor, and the move from there.
    ways: Vec<(usize, Move)>,
}

fn key_of(c: &Cluster) -> u128 {
    hash(&Key::of(c))
}

/// The successors of a state; or the move that ends in a panic of the core, and what it said.
fn successors(c: &Cluster) -> Result<Vec<(Move, Cluster)>, (Move, String)> {
    let step = |m: Move| {
        let mut next = Cluster { sights: Sights::default(), ..c.clone() };
        let applied = catch_unwind(AssertUnwindSafe(|| next.apply(m)));
        let said = |p: Box<dyn std::any::Any + Send>| {
            let text = p.downcast_ref::<String>().cloned();
            text.or_else(|| p.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        };
        applied.map(|()| (m, next)).map_err(|p| (m, format!("an assertion failed: {}", said(p))))
    };
    c.moves().into_iter().map(step).collect()
}

fn sum_of(all: &[(Move, Cluster)]) -> u128 {
    let keys: HashSet<u128> = all.iter().map(|(_, c)| key_of(c)).collect();
    keys.into_iter().fold(0, u128::wrapping_add)
}

impl Search {
    /// Expands a part of a layer. What others find at the same time is found twice, and dropped later.
    fn expand(&self, part: &[(usize, Cluster)], twins: &HashSet<usize>) -> Harvest {
        let mut out = Harvest::default();
        let mut fresh: HashSet<u128> = HashSet::new();
        for (id, c) in part {
            let all = match successors(c) {
                Ok(all) => all,
                Err((by, why)) => {
                    out.wrong = Some((*id, Some(by), why));
                    return out;
                }
            };
            out.transitions += all.len();
            let mut sum: HashSet<u128> = HashSet::new();
            for (by, next) in all {
                if let Some(why) = &next.violation {
                    out.wrong = Some((*id, Some(by), why.clone()));
                    return out;
                }
                out.sights.join(next.sights);
                let key = key_of(&next);
                sum.insert(key);
                let again = self.seen.contains_key(&key) || !fresh.insert(key);
                if !again || self.compares(key) {
                    out.next.push(Next { key, from: *id, by, cluster: next });
                }
            }
            if twins.contains(id) {
                out.sums.push((*id, sum.into_iter().fold(0, u128::wrapping_add)));
            }
            if self.bounds.heal > 0 && (*id as u64).is_multiple_of(self.bounds.heal) {
                out.healed += 1;
                let healed = catch_unwind(AssertUnwindSafe(|| c.heals()));
                if let Err(why) = healed.unwrap_or_else(|_| Err("an assertion fails while it heals".into())) {
                    out.wrong = Some((*id, None, why));
                    return out;
                }
            }
        }
        out
    }

    /// Of the key's own bits, so that it is the same states each time.
    fn compares(&self, key: u128) -> bool {
        self.bounds.compare > 0 && ((key >> 64) as u64).is_multiple_of(self.bounds.compare)
    }

    fn layer(&self, layer: &[(usize, Cluster)], twins: &HashSet<usize>) -> Vec<Harvest> {
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Vec::new());
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    let from = next.fetch_add(PORTION, Ordering::Relaxed);
                    let Some(part) = layer.get(from..(from + PORTION).min(layer.len())) else { return };
                    if part.is_empty() {
                        return;
                    }
                    let harvest = self.expand(part, twins);
                    all.lock().unwrap_or_else(PoisonError::into_inner).push((from, harvest));
                }
            };
            for _ in 0..cores {
                scope.spawn(work);
            }
        });
        let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.sort_by_key(|(from, _)| *from);
        all.into_iter().map(|(_, harvest)| harvest).collect()
    }

    /// The moves from the beginning to a state.
    fn path(&self, mut id: usize) -> Vec<Move> {
        let mut path = Vec::new();
        while id != 0 {
            let (from, by) = self.ways[id];
            path.push(by);
            id = from;
        }
        path.reverse();
        path
    }

    /// Goes the way again and tells it.
    fn tell(&self, id: usize, by: Option<Move>, why: &str) -> String {
        let mut c = Cluster::settled(self.cfg);
        let path: Vec<Move> = self.path(id).into_iter().chain(by).collect();
        c.notes = Some(Vec::new());
        let gone = catch_unwind(AssertUnwindSafe(|| {
            path.iter().for_each(|m| c.apply(*m));
        }));
        let notes = c.notes.take().unwrap_or_default().join("\n");
        let end = if gone.is_ok() { c.picture() } else { String::new() };
        format!("{}\n{why}\nafter {} moves:\n{notes}\n{end}", self.cfg.line(), path.len())
    }
}

/// Searches until everything is seen, something is wrong, or a bound is reached.
pub(super) fn search(cfg: Config, bounds: Bounds) -> Found {
    let begin = Instant::now();
    let first = Cluster::settled(cfg);
    let mut s = Search { cfg, bounds, seen: HashMap::new(), ways: vec![(0, Move::Tick(None))] };
    s.seen.insert(key_of(&first), 0);
    let mut found = Found { states: 1, ..Found::default() };
    let mut layer = vec![(0, first)];
    // Twins of states of the layer at work, or of one before it.
    let mut twins: Vec<Twin> = Vec::new();
    while !layer.is_empty() {
        let wanted: HashSet<usize> = twins.iter().map(|t| t.of).collect();
        let harvests = s.layer(&layer, &wanted);
        let at_work = layer.first().map_or(0, |l| l.0);
        let mut sums: HashMap<usize, u128> = HashMap::new();
        let mut next: Vec<(usize, Cluster)> = Vec::new();
        let mut later: Vec<Twin> = Vec::new();
        for harvest in harvests {
            found.transitions += harvest.transitions;
            found.healed += harvest.healed;
            found.sights.join(harvest.sights);
            sums.extend(harvest.sums);
            if let Some((id, by, why)) = harvest.wrong {
                found.wrong = Some(s.tell(id, by, &why));
                return found;
            }
            for n in harvest.next {
                if let Some(of) = s.seen.get(&n.key).copied() {
                    // Those of earlier layers are expanded already, and their successors forgotten.
                    if of >= at_work + layer.len() && s.compares(n.key) {
                        let Ok(all) = successors(&n.cluster) else { continue };
                        later.push(Twin { of, sum: sum_of(&all), way: (n.from, n.by) });
                    }
                    continue;
                }
                let id = s.ways.len();
                s.seen.insert(n.key, id);
                s.ways.push((n.from, n.by));
                next.push((id, n.cluster));
            }
        }
        for twin in &twins {
            found.compared += 1;
            if sums.get(&twin.of).is_some_and(|sum| *sum != twin.sum) {
                let (one, other) = (s.path(twin.of), s.path(twin.way.0));
                let text = format!("were taken for one state, and go on differently:\n{one:?}\n{other:?}");
                found.wrong = Some(format!("{text} {:?}", twin.way.1));
                return found;
            }
        }
        twins = later;
        found.states = s.ways.len();
        found.depth += usize::from(!next.is_empty());
        layer = next;
        if found.states > bounds.states || begin.elapsed() > bounds.time {
            return found;
        }
    }
    found.exhausted = true;
    found
}
