//! The rules of the protocol that TRAPS.md names, as switches for the simulation: a scenario must fail when
//! its rule is left out. In a product build every rule is on and the switch costs nothing.

/// A rule that can be left out in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A write of the own fence key settles unknown outcomes and starts (`late-commit`).
    Settle,
    /// A failed guard is followed by a read, not by "deposed" (`own-late-exclusion`).
    Reread,
    /// The identity of etcd is checked (`foreign-etcd`).
    Identity,
    /// Silence counts from the last acknowledgement of any heartbeat (`not-serving-promise`).
    AnyAck,
    /// An agent's start counts as an acknowledgement (`forgotten-promise`).
    StartAck,
    /// The set is the union of all sets that may be current (`set-as-read`).
    Union,
    /// Acknowledgements are bound to the leader's incarnation (`stale-echo`).
    Incarnation,
    /// A leader whose boot id changed resigns (`rebooted-leader`).
    Boot,
    /// A set whose members all changed their boot id can be led again (`sole-survivor`).
    PowerLoss,
    /// A leader that can neither serve nor reach etcd releases its epoch (`one-card-fails`).
    Release,
    /// The heartbeat vouches only for a live core (`hung-core`).
    Vouch,
    /// A lease counts only while the leader key stands under it (`lease-reborn`).
    LeaseKey,
    /// Only candidates of the record campaign (`new-candidate`).
    Candidates,
    /// A re-creation of the key checks the epoch of the in-sync record (`lost-key`).
    RecreateEpoch,
    /// A slow winner's in-sync set is itself alone (`slow-winner-keeps-loser`).
    WinnerAlone,
    /// A leader without a disk leaves the in-sync set before it goes on, and never removes the last member that has one
    /// (`diskless-member`).
    LeaveDiskless,
    /// After a gap of the clock a standby counts silence afresh (`clock-gap-standby`).
    Gap,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
}

impl Rules {
    /// All rules but one.
    #[cfg(test)]
    #[must_use]
    pub fn without(rule: Rule) -> Self {
        Self { off: Some(rule) }
    }

    /// Whether `rule` is in force.
    #[cfg(test)]
    #[must_use]
    pub fn on(self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether `rule` is in force: always, outside of tests.
    #[cfg(not(test))]
    #[must_use]
    #[inline]
    pub const fn on(self, _rule: Rule) -> bool {
        true
    }
}
