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

/// A detail of a rule that can be bent in tests, to see that random faults notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A promise counts from the time at which the acknowledged heartbeat was sent, not from when its answer came.
    SendTime,
    /// A promise given for one epoch is none for the next.
    EpochReset,
    /// serve-until is the earliest over E, not the latest.
    Earliest,
    /// An acknowledgement binds for `deadtime`, not only for `warntime`.
    Deadtime,
    /// A leader tells others of a record in a foreign etcd when it has written it there, not when it has read it.
    WrittenRecord,
    /// A member leaves E when its removal is confirmed, not when it is sent.
    MemberStays,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
    #[cfg(test)]
    bent: Option<Detail>,
}

impl Rules {
    /// All rules.
    #[cfg(test)]
    pub const ALL: Self = Self { off: None, bent: None };

    /// All rules but one.
    #[cfg(test)]
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self { off: Some(rule), bent: None }
    }

    /// All rules, one of them bent.
    #[cfg(test)]
    #[must_use]
    pub const fn bending(detail: Detail) -> Self {
        Self { off: None, bent: Some(detail) }
    }

    /// Whether `detail` is as it should be.
    #[cfg(test)]
    #[must_use]
    pub fn keeps(self, detail: Detail) -> bool {
        self.bent != Some(detail)
    }

    /// Whether `detail` is as it should be: always, outside of tests.
    #[cfg(not(test))]
    #[must_use]
    #[inline]
    pub const fn keeps(self, _detail: Detail) -> bool {
        true
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
