//! The plan of a run: which faults strike whom, for how long, with which pauses. All of it comes from the seed; only how long
//! the cluster takes to be whole again does not.
//!
//! A fault names its victim by what it is at that moment (leader, standby), not by its name. Faults are dealt from a shuffled
//! deck with every one in it once, so that a short run meets all of them; a second one may strike while the first lasts.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::time::Duration;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of the agent; the engine starts it again.
    AgentKilled,
    /// SIGKILL of the replicator's worker; its holder starts the next one.
    WorkerKilled,
    /// SIGKILL of the replicator's holder and worker; the engine starts them again.
    ReplicatorKilled,
    /// `docker restart` of the agent.
    AgentRestarted,
    /// `docker restart` of the replicator.
    ReplicatorRestarted,
    /// SIGSTOP of the agent: to it, its clock jumps when it wakes.
    AgentFrozen,
    /// SIGSTOP of the replicator.
    ReplicatorFrozen,
    /// SIGSTOP of everything on the host.
    HostFrozen,
    /// SIGKILL of everything on the host, and power on.
    PowerCut,
    /// The same of both hosts at once.
    SitePowerCut,
    /// The machine's end of the host's link is down.
    CablePulled,
    /// The hosts do not hear each other; clients and etcd reach both.
    Partition,
    /// The host hears nothing of the other one, which hears it.
    OneWay,
    /// Heartbeats alone are dropped.
    HeartbeatsCut,
    /// Heartbeats alone, and only those that come to the host.
    HeartbeatsOneWay,
    /// Replication alone is dropped.
    ReplicationCut,
    /// The host does not reach etcd.
    EtcdUnreachable,
    /// SIGKILL of one member of etcd.
    EtcdMemberDown,
    /// SIGSTOP of one member of etcd.
    EtcdMemberFrozen,
    /// SIGKILL of all members of etcd.
    EtcdDown,
    /// No space is left on the volume's filesystem.
    DiskFull,
    /// All containers of the host are stopped in order, and started, as an engine that restarts does.
    EngineRestarted,
    /// Not a fault: the group is moved by hand.
    Moved,
}

impl Kind {
    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::WorkerKilled => "replicator's worker killed",
            Self::ReplicatorKilled => "replicator killed",
            Self::AgentRestarted => "agent restarted",
            Self::ReplicatorRestarted => "replicator restarted",
            Self::AgentFrozen => "agent frozen",
            Self::ReplicatorFrozen => "replicator frozen",
            Self::HostFrozen => "host frozen",
            Self::PowerCut => "power cut",
            Self::SitePowerCut => "power cut of both hosts",
            Self::CablePulled => "cable pulled",
            Self::Partition => "hosts cut off from each other",
            Self::OneWay => "hears nothing of the other",
            Self::HeartbeatsCut => "heartbeats cut",
            Self::HeartbeatsOneWay => "hears no heartbeats",
            Self::ReplicationCut => "replication cut",
            Self::EtcdUnreachable => "does not reach etcd",
            Self::EtcdMemberDown => "member of etcd down",
            Self::EtcdMemberFrozen => "member of etcd frozen",
            Self::EtcdDown => "etcd down",
            Self::DiskFull => "volume full",
            Self::EngineRestarted => "engine restarted",
            Self::Moved => "moved by hand",
        }
    }

    /// It works through a rule or a link of the host's namespace: one of these at a time, for they undo each other.
    pub fn on_links(self) -> bool {
        matches!(
            self,
            Self::CablePulled
                | Self::Partition
                | Self::OneWay
                | Self::HeartbeatsCut
                | Self::HeartbeatsOneWay
                | Self::ReplicationCut
                | Self::EtcdUnreachable
        )
    }

    /// For how long it lasts, at least and at most; zero for what is over at once.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Self::AgentKilled | Self::WorkerKilled | Self::ReplicatorKilled => (0, 0),
            Self::AgentRestarted | Self::ReplicatorRestarted | Self::EngineRestarted | Self::Moved => (0, 0),
            // From less than warntime to more than the lease (5 s).
            Self::AgentFrozen | Self::ReplicatorFrozen | Self::HostFrozen => (200, 8000),
            Self::PowerCut | Self::SitePowerCut => (0, 6000),
            Self::CablePulled | Self::Partition | Self::OneWay => (300, 8000),
            Self::HeartbeatsCut | Self::HeartbeatsOneWay | Self::ReplicationCut => (300, 8000),
            Self::EtcdUnreachable | Self::EtcdDown => (500, 8000),
            Self::EtcdMemberDown | Self::EtcdMemberFrozen => (500, 8000),
            Self::DiskFull => (1000, 5000),
        }
    }
}

/// Whom it strikes, as it is at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// The host that serves.
    Leader,
    /// The other one.
    Standby,
    /// Both, or what belongs to none: etcd.
    Cluster,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Cluster => "cluster",
        })
    }
}

/// One fault of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What.
    pub kind: Kind,
    /// Whom.
    pub on: On,
    /// Since the round began.
    pub at: Duration,
    /// How long until it is undone.
    pub lasts: Duration,
    /// Which of several, where the kind has several (the member of etcd).
    pub pick: usize,
}

impl Strike {
    /// When it is undone, since the round began.
    pub fn until(&self) -> Duration {
        self.at + self.lasts
    }
}

/// One round: a pause, one or two faults, and what is waited for after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Peace before the first fault.
    pub pause: Duration,
    /// In the order in which they strike.
    pub strikes: Vec<Strike>,
    /// The next round begins when commits succeed again, with a resync perhaps still under way; else when all is well.
    pub hurried: bool,
}

/// Every fault once, each with whom it can strike.
pub const DECK: &[(Kind, On)] = &[
    (Kind::AgentKilled, On::Leader),
    (Kind::AgentKilled, On::Standby),
    (Kind::WorkerKilled, On::Leader),
    (Kind::WorkerKilled, On::Standby),
    (Kind::ReplicatorKilled, On::Leader),
    (Kind::ReplicatorKilled, On::Standby),
    (Kind::AgentRestarted, On::Leader),
    (Kind::AgentRestarted, On::Standby),
    (Kind::ReplicatorRestarted, On::Leader),
    (Kind::ReplicatorRestarted, On::Standby),
    (Kind::AgentFrozen, On::Leader),
    (Kind::AgentFrozen, On::Standby),
    (Kind::ReplicatorFrozen, On::Leader),
    (Kind::ReplicatorFrozen, On::Standby),
    (Kind::HostFrozen, On::Leader),
    (Kind::HostFrozen, On::Standby),
    (Kind::PowerCut, On::Leader),
    (Kind::PowerCut, On::Standby),
    (Kind::SitePowerCut, On::Cluster),
    (Kind::CablePulled, On::Leader),
    (Kind::CablePulled, On::Standby),
    (Kind::Partition, On::Cluster),
    (Kind::OneWay, On::Leader),
    (Kind::OneWay, On::Standby),
    (Kind::HeartbeatsCut, On::Cluster),
    (Kind::HeartbeatsOneWay, On::Leader),
    (Kind::HeartbeatsOneWay, On::Standby),
    (Kind::ReplicationCut, On::Cluster),
    (Kind::EtcdUnreachable, On::Leader),
    (Kind::EtcdUnreachable, On::Standby),
    (Kind::EtcdMemberDown, On::Cluster),
    (Kind::EtcdMemberFrozen, On::Cluster),
    (Kind::EtcdDown, On::Cluster),
    (Kind::DiskFull, On::Leader),
    (Kind::EngineRestarted, On::Leader),
    (Kind::EngineRestarted, On::Standby),
    (Kind::Moved, On::Leader),
];

/// Rounds without end, the same ones for the same seed.
pub struct Plan {
    random: StdRng,
    dealt: Vec<(Kind, On)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), dealt: Vec::new() }
    }

    fn ms(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    fn strike(&mut self, (kind, on): (Kind, On), at: Duration) -> Strike {
        let lasts = self.ms(kind.lasts_ms());
        Strike { kind, on, at, lasts, pick: self.random.random_range(0..3) }
    }

    /// A fault that may strike while this one lasts, or right after it.
    fn second(&mut self, first: &Strike) -> Strike {
        loop {
            let drawn = DECK[self.random.random_range(0..DECK.len())];
            if drawn.0 != first.kind && !(drawn.0.on_links() && first.kind.on_links()) {
                let latest = u64::try_from(first.lasts.as_millis()).unwrap_or(0) + 1500;
                let at = first.at + self.ms((0, latest));
                return self.strike(drawn, at);
            }
        }
    }
}

impl Iterator for Plan {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        if self.dealt.is_empty() {
            self.dealt = DECK.to_vec();
            self.dealt.shuffle(&mut self.random);
        }
        let card = self.dealt.pop()?;
        let pause = self.ms((500, 2500));
        let first = self.strike(card, Duration::ZERO);
        let mut strikes = vec![first];
        if self.random.random_bool(0.3) {
            strikes.push(self.second(&first));
        }
        Some(Round { pause, strikes, hurried: self.random.random_bool(0.25) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_gives_the_same_rounds_and_another_one_others() {
        let rounds = |seed| Plan::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn one_deck_holds_every_fault_once_and_both_sorts_of_round() {
        let rounds: Vec<_> = Plan::new(1).take(DECK.len()).collect();
        let firsts: BTreeSet<_> = rounds.iter().map(|r| (r.strikes[0].kind, r.strikes[0].on)).collect();
        assert_eq!(firsts, DECK.iter().copied().collect::<BTreeSet<_>>());
        assert!(rounds.iter().any(|r| r.strikes.len() == 2) && rounds.iter().any(|r| r.strikes.len() == 1));
        assert!(rounds.iter().any(|r| r.hurried) && rounds.iter().any(|r| !r.hurried));
    }

    #[test]
    fn two_at_once_differ_and_do_not_undo_each_other() {
        let pairs = Plan::new(3).take(5000).filter(|r| r.strikes.len() == 2);
        let mut seen = 0;
        for round in pairs {
            let [a, b] = [round.strikes[0], round.strikes[1]];
            assert!(a.kind != b.kind && !(a.kind.on_links() && b.kind.on_links()), "{round:?}");
            assert!(b.at >= a.at && b.at <= a.until() + Duration::from_millis(1500), "{round:?}");
            seen += 1;
        }
        assert!(seen > 1000, "{seen}");
    }
}
