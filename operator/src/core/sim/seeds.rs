//! Random faults for a while, during which nothing may be wrong; then everything heals and must converge.

use super::world::{Options, World};
use crate::core::group::{AfterPowerLoss, State};
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

fn disturb(w: &mut World) {
    let n = w.hosts.len() as u64;
    let i = w.dice.below(n) as usize;
    match w.dice.below(16) {
        0 | 1 => w.crash_agent(i),
        2 => w.power_cut(i),
        3..=5 => {
            for k in 0..w.hosts.len() {
                w.power_on(k);
                w.start_agent(k);
            }
        }
        6 => w.isolate(i, true, true),
        7 => w.isolate(i, true, false),
        8 => {
            let j = (i + 1) % w.hosts.len();
            w.cut.insert((i, j));
        }
        9 => {
            let j = (i + 1) % w.hosts.len();
            w.repl_cut.insert((i.min(j), i.max(j)));
        }
        10 => w.etcd_up = !w.etcd_up,
        // Without data the lease itself is what keeps others away: etcd must not revoke it early.
        11 if w.opts.volume => w.etcd.delete_leader(),
        11 => {}
        12 => {
            w.hosts[i].paused = !w.hosts[i].paused;
            if !w.hosts[i].paused && w.dice.chance(50) {
                w.crash_agent(i);
            }
        }
        13 => {
            w.etcd.target = Some(w.hosts[i].name.clone());
            w.etcd.revision += 1;
        }
        14 if w.opts.volume && !w.hosts.iter().any(|h| h.replica.is_gone()) => w.fail_disk(i),
        _ => {
            for k in 0..w.hosts.len() {
                w.isolate(k, false, true);
                w.hosts[k].paused = false;
            }
            w.etcd_up = true;
        }
    }
}

fn one(seed: u64) {
    let opts = Options {
        nodes: 2 + (seed % 2) as usize,
        volume: !seed.is_multiple_of(5),
        seed,
        drift: true,
        after_power_loss: if seed.is_multiple_of(3) { AfterPowerLoss::Start } else { AfterPowerLoss::Wait },
        ..Options::default()
    };
    let mut w = World::new(opts);
    w.run(4000);
    w.loss = [0, 5, 25][(seed % 3) as usize];
    w.etcd_faults = [0, 10, 30][(seed / 3 % 3) as usize];
    for _ in 0..12 {
        disturb(&mut w);
        let pause = 200 + w.dice.below(2500);
        w.run(pause);
    }
    w.heal();
    let everyone = w.hosts.len();
    let settled = w.until(90_000, |w| w.server().is_some() && w.in_sync().len() == everyone);
    assert!(w.violation.is_none(), "seed {seed}: {}\n{}", w.violation.clone().unwrap_or_default(), w.story());
    assert!(settled, "seed {seed}: did not converge\n{}", w.story());
    w.run(3000);
    assert!(w.violation.is_none(), "seed {seed}: {}\n{}", w.violation.clone().unwrap_or_default(), w.story());
    let serving = (0..everyone).filter(|i| w.state(*i) == Some(State::Serving)).count();
    assert_eq!(serving, 1, "seed {seed}: one leader serves\n{}", w.story());
}

/// Runs these seeds on every core; a seed that fails says how to run it again.
fn range(seeds: Range<u64>) {
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return;
                }
                let told = Replay(seed);
                one(seed);
                std::mem::forget(told);
            }
        };
        for thread in (0..cores).map(|_| scope.spawn(work)).collect::<Vec<_>>() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    println!("{} seeds of agents", seeds.end - seeds.start);
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
        Err(_) => 1..121,
        Ok(text) => text
            .split_once("..")
            .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
            .unwrap_or_else(|| panic!("BATON_SIM_SEEDS is FROM..TO, not '{text}'")),
    };
    range(wanted);
}
