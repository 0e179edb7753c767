//! Which faults a seed has, how many, and how bad the links are: drawn anew for every seed, because a fault that is always
//! there hides what others would do without it.

use super::Dice;
use super::etcd::Etcd;
use super::world::{Options, Stall, World};
use crate::core::group::AfterPowerLoss;
use crate::core::rules::Rules;
use crate::status::NodeMode;

/// What can happen in a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    AgentCrashes,
    AgentCrashesAtAStep,
    AgentRestartsInOrder,
    AgentPaused,
    CoreHangs,
    PowerCut,
    Isolated,
    IsolatedButEtcd,
    OneWay,
    OneWayLoss,
    ReplicationDown,
    DiskFails,
    StandsStill,
    EngineHangs,
    EngineFails,
    Moved,
    Drained,
    Disabled,
    CutFromEtcd,
    EtcdDown,
    EtcdStalls,
    KeyVanishes,
    WatchLags,
    WatchDies,
    EtcdRestored,
}

use Fault as F;

impl Fault {
    const ALL: [Self; 24] = [
        F::AgentCrashes,
        F::AgentCrashesAtAStep,
        F::AgentRestartsInOrder,
        F::AgentPaused,
        F::CoreHangs,
        F::PowerCut,
        F::Isolated,
        F::IsolatedButEtcd,
        F::OneWay,
        F::OneWayLoss,
        F::ReplicationDown,
        F::DiskFails,
        F::StandsStill,
        F::EngineHangs,
        F::EngineFails,
        F::Moved,
        F::Drained,
        F::CutFromEtcd,
        F::EtcdDown,
        F::EtcdStalls,
        F::KeyVanishes,
        F::WatchLags,
        F::WatchDies,
        F::EtcdRestored,
    ];

    /// What may happen to etcd without a break in the service (DESIGN §3, invariant 5).
    const OF_ETCD: [Self; 6] =
        [F::CutFromEtcd, F::EtcdDown, F::EtcdStalls, F::KeyVanishes, F::WatchLags, F::WatchDies];
}

/// One seed's storm.
#[derive(Clone, Debug)]
pub(super) struct Storm {
    pub nodes: usize,
    pub volume: bool,
    drift: bool,
    newcomer: bool,
    after_power_loss: AfterPowerLoss,
    faults: Vec<Fault>,
    pub rounds: u64,
    pub pause: u64,
    loss: u64,
    etcd_faults: u64,
    /// Nothing but etcd is disturbed: the service may not be interrupted.
    pub etcd_alone: bool,
}

impl Storm {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5741_524d);
        let nodes = [2, 2, 2, 2, 3, 3, 3, 3, 3, 5][dice.below(10) as usize];
        let volume = dice.chance(75);
        let etcd_alone = dice.chance(6);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| dice.chance(35)).collect();
        // Without data the lease itself keeps others away: etcd must not revoke it early.
        let fits = |f: &Fault| volume || !matches!(f, F::KeyVanishes | F::DiskFails);
        if etcd_alone {
            faults = Fault::OF_ETCD.to_vec();
        }
        faults.retain(fits);
        let choose = |dice: &mut Dice, from: &[u64]| from[dice.below(from.len() as u64) as usize];
        let mut storm = Self {
            nodes,
            volume,
            drift: dice.chance(80),
            newcomer: nodes > 2 && dice.chance(8) && !etcd_alone,
            after_power_loss: if dice.chance(40) { AfterPowerLoss::Start } else { AfterPowerLoss::Wait },
            faults,
            rounds: 3 + dice.below(9),
            pause: choose(&mut dice, &[400, 1500, 2500, 4000]),
            loss: if etcd_alone { 0 } else { choose(&mut dice, &[0, 0, 5, 25]) },
            etcd_faults: choose(&mut dice, &[0, 0, 10, 30]),
            etcd_alone,
        };
        // Drawn last: the seeds of before are what they were where it is not drawn.
        if dice.chance(15) && !etcd_alone {
            storm.faults.push(F::Disabled);
        }
        storm
    }

    pub(super) fn options(&self, seed: u64, rules: Rules, quiet: bool) -> Options {
        Options {
            switch: None,
            nodes: self.nodes,
            volume: self.volume,
            rules,
            seed,
            drift: self.drift,
            after_power_loss: self.after_power_loss,
            newcomer: self.newcomer,
            quiet,
        }
    }

    pub(super) fn begin(&self, w: &mut World) {
        w.loss = self.loss;
        w.etcd_faults = self.etcd_faults;
    }

    /// One thing more that goes wrong, or some that are mended.
    pub(super) fn strike(&self, w: &mut World) {
        let n = w.hosts.len() as u64;
        let i = w.dice.below(n) as usize;
        // Backups are made at any time.
        if w.dice.chance(20) && w.etcd.insync.is_some() {
            let backup = w.etcd.clone();
            w.backups.push(backup);
        }
        if w.dice.chance(25) {
            return mend(w, i);
        }
        if self.faults.is_empty() {
            return;
        }
        let fault = self.faults[w.dice.below(self.faults.len() as u64) as usize];
        w.note(i, format_args!("fault: {fault:?}"));
        strike(w, i, fault);
    }
}

/// Everything runs again and is connected, or only some of it.
fn mend(w: &mut World, i: usize) {
    let all = w.dice.chance(50);
    for k in 0..w.hosts.len() {
        if all || k == i {
            w.isolate(k, false, true);
            w.wake_up(k);
            w.hosts[k].paused = false;
            w.hosts[k].watch_lag = Some(0);
            w.hosts[k].engine_hangs = 0;
            w.power_on(k);
            w.start_agent(k);
        }
    }
    w.etcd_up = true;
}

fn strike(w: &mut World, i: usize, fault: Fault) {
    let next = (i + 1) % w.hosts.len();
    match fault {
        F::AgentCrashes => w.crash_agent(i),
        F::AgentCrashesAtAStep => w.hosts[i].crash_after = Some(1 + w.dice.below(12)),
        F::AgentRestartsInOrder => {
            w.restarting(i);
            w.until(1000, |w| w.restart_covered(i));
            w.crash_agent(i);
            let away = w.dice.below(5000);
            w.run(away);
            w.start_agent(i);
        }
        F::AgentPaused => {
            w.hosts[i].paused = !w.hosts[i].paused;
            if !w.hosts[i].paused && w.dice.chance(50) {
                w.crash_agent(i);
            }
        }
        F::CoreHangs => {
            w.hosts[i].hung = w.hosts[i].agent.is_some() && !w.hosts[i].hung;
        }
        F::PowerCut => w.power_cut(i),
        F::Isolated => w.isolate(i, true, true),
        F::IsolatedButEtcd => w.isolate(i, true, false),
        F::OneWay => drop(w.cut.insert((i, next))),
        F::OneWayLoss => drop(w.lossy.insert((i, next), 60)),
        F::ReplicationDown => drop(w.repl_cut.insert((i.min(next), i.max(next)))),
        F::DiskFails if !w.hosts.iter().any(|h| h.replica.is_gone()) => w.fail_disk(i),
        F::DiskFails => {}
        F::StandsStill if w.hosts[i].still.is_some() => w.wake_up(i),
        F::StandsStill => {
            let clock = w.dice.chance(60);
            w.stand_still(i, clock);
            let length = 300 + w.dice.below(8000);
            w.run(length);
            w.wake_up(i);
        }
        F::EngineHangs => w.hosts[i].engine_hangs = w.now + 1000 + w.dice.below(9000),
        F::EngineFails => w.hosts[i].engine_fails = w.now + 1000 + w.dice.below(9000),
        F::Moved => w.order_move(i),
        F::Drained => {
            let drained = w.etcd.modes.get(&w.hosts[i].name) == Some(&NodeMode::Standby);
            w.set_mode(i, if drained { NodeMode::Online } else { NodeMode::Standby });
        }
        F::Disabled => {
            let disabled = w.etcd.wish.disabled.is_some();
            w.disable(!disabled);
        }
        F::CutFromEtcd => drop(w.etcd_cut.insert(i)),
        F::EtcdDown => w.etcd_up = !w.etcd_up,
        F::EtcdStalls => {
            let until = w.now + 500 + w.dice.below(12_000);
            let election = w.dice.chance(50);
            w.stall = Some(Stall { until, election });
        }
        F::KeyVanishes => {
            w.etcd.delete_leader();
            w.wake();
        }
        F::WatchLags => w.hosts[i].watch_lag = Some(w.dice.below(3000)),
        F::WatchDies => w.hosts[i].watch_lag = None,
        F::EtcdRestored => {
            let id = w.dice.roll() | 1;
            let n = w.backups.len() as u64;
            let backup = if n == 0 || w.dice.chance(30) {
                Etcd::new()
            } else {
                let k = w.dice.below(n) as usize;
                w.backups[k].clone()
            };
            w.restore(backup, id);
        }
    }
}
