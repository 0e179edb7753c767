//! A campaign: random faults for a while, during which nothing may be wrong; then everything heals and must converge.

use super::sights::{Sight, Sights};
use super::storm::Storm;
use super::world::{Host, World};
use crate::core::group::State;
use crate::core::rules::Rules;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What `make test` runs; unoptimised code gets a taste of it.
const CAMPAIGN: Range<u64> = if cfg!(debug_assertions) { 1..121 } else { 1..50_001 };
/// After everything is mended, one node serves with everyone in sync within this: the pause of a group that failed
/// (60 s), a cold start (`initdead`) and a resync each. What was ordered or restored just before may cost as much again.
const HEALS: u64 = 90_000;
/// A person looks at it when nobody has served for this long.
const PERSON: u64 = 25_000;

/// One leads and serves, everyone is in sync, and everyone trusts etcd.
fn converged(w: &World) -> bool {
    let leads = |i| w.state(i) == Some(State::Serving);
    let trusts = |h: &Host| h.agent.as_ref().is_some_and(|a| !a.unit.core().foreign());
    w.server().is_some_and(leads) && w.in_sync().len() == w.hosts.len() && w.hosts.iter().all(trusts)
}

/// Runs one seed: what it has seen, or what went wrong.
pub(super) fn one(seed: u64, rules: Rules, quiet: bool) -> Result<Sights, String> {
    let storm = Storm::of(seed);
    let mut w = World::new(storm.options(seed, rules, quiet));
    w.run(4000);
    if storm.etcd_alone {
        w.until(20_000, converged);
    }
    storm.begin(&mut w);
    let (began, served) = (w.now, w.served);
    for _ in 0..storm.rounds {
        storm.strike(&mut w);
        let pause = 200 + w.dice.below(storm.pause);
        w.run(pause);
    }
    let wrong = |w: &World, what: &str| Err(format!("seed {seed}: {what}\n{storm:?}\n{}", w.story()));
    if let Some(v) = &w.violation {
        return wrong(&w, v);
    }
    let gap = w.now - began - (w.served - served);
    if storm.etcd_alone && gap > 0 {
        return wrong(&w, &format!("the service was away for {gap} ms, and only etcd was disturbed"));
    }
    w.heal();
    let mut settled = false;
    // It must stay so: an order of the storm may be under way, and a restored etcd is noticed only when it is read.
    for _ in 0..3 {
        if !w.until(PERSON, converged) {
            w.person_recovers();
            w.until(HEALS - PERSON, converged);
        }
        w.run(2000);
        settled = converged(&w);
        if settled {
            break;
        }
    }
    if let Some(v) = &w.violation {
        return wrong(&w, v);
    }
    let serving = (0..w.hosts.len()).filter(|i| w.state(*i) == Some(State::Serving)).count();
    if !settled || serving != 1 {
        return wrong(&w, &format!("{serving} nodes serve after healing, {:?} are in sync", w.in_sync()));
    }
    Ok(w.sights)
}

/// Runs these seeds on every core, in order, until `stop` says so of one; returns what they said.
pub(super) fn each<T: Send>(
    seeds: Range<u64>,
    run: impl Fn(u64) -> T + Sync,
    stop: impl Fn(&T) -> bool + Sync,
) -> Vec<(u64, T)> {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return;
                }
                let told = Replay(seed);
                let result = run(seed);
                std::mem::forget(told);
                if stop(&result) {
                    next.store(seeds.end, Ordering::Relaxed);
                }
                all.lock().expect("lock").push((seed, result));
            }
        };
        for thread in (0..cores).map(|_| scope.spawn(work)).collect::<Vec<_>>() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let mut all = all.into_inner().expect("lock");
    all.sort_by_key(|(seed, _)| *seed);
    all
}

/// Says how to run a seed again when it ends by a panic.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!("seed {} of agents failed; again: make simulate SEEDS={}..{}", self.0, self.0, self.0 + 1);
    }
}

/// `BATON_SIM_SEEDS=FROM..TO`, or the usual ones. See `make simulate`.
#[test]
fn random_faults_do_no_harm_and_heal() {
    let wanted = match std::env::var("BATON_SIM_SEEDS") {
        Err(_) => CAMPAIGN,
        Ok(text) => text
            .split_once("..")
            .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
            .unwrap_or_else(|| panic!("BATON_SIM_SEEDS is FROM..TO, not '{text}'")),
    };
    let count = wanted.end.saturating_sub(wanted.start);
    let all = each(wanted, |seed| one(seed, Rules::default(), true), Result::is_err);
    let mut seen = [0_u64; Sight::ALL.len()];
    for (seed, result) in all {
        match result {
            Ok(sights) => Sight::ALL.into_iter().for_each(|s| seen[s as usize] += u64::from(sights.has(s))),
            Err(_) => {
                // Again, with a trace.
                drop(Replay(seed));
                panic!("{}", one(seed, Rules::default(), false).expect_err("the same seed does the same"));
            }
        }
    }
    println!("{count} seeds of agents; in how many of them was seen:");
    for sight in Sight::ALL {
        println!("  {sight:?} {}", seen[sight as usize]);
    }
    let missed: Vec<Sight> = Sight::ALL.into_iter().filter(|s| seen[*s as usize] == 0).collect();
    if count >= CAMPAIGN.end - CAMPAIGN.start && !cfg!(debug_assertions) {
        assert!(missed.is_empty(), "a campaign of this size must have seen {missed:?}");
    }
}
