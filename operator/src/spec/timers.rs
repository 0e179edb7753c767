//! The timers as the specification gives them. Their inequalities are the core's
//! ([`core::timing`](crate::core::timing)).

use crate::core::timing::{self, BadTimers};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// A set of timers that fit together, by name. Timers that are given override it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// For any host: a takeover after 1.5 s of silence.
    #[default]
    Default,
    /// For hosts that are hardly ever late: a takeover after 0.5 s of silence.
    Fast,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Default, Self::Fast];

    /// Its name in the specification.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fast => "fast",
        }
    }
}

/// The heartbeat's timers (DESIGN "Leadership").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timers {
    /// Where those come from that are not given.
    pub profile: Profile,
    /// Between two heartbeats.
    pub keepalive: Duration,
    /// A peer silent for this long is late: out of the in-sync set.
    pub warntime: Duration,
    /// A leader counts a promise good for this long after it sent the heartbeat that was acknowledged.
    pub fencetime: Duration,
    /// A standby keeps its promise for this long.
    pub deadtime: Duration,
    /// At a cold start, how long others wait for a preferred node.
    pub initdead: Duration,
    /// What is asked of etcd as the lease's time to live; etcd may grant more.
    pub lease_ttl: Duration,
    /// The longer promise that is asked for before an orderly restart of an agent.
    pub restart_window: Duration,
    /// I/O frozen longer than this makes a group unusable; a volume's default for counting a peer as lost.
    pub peer_timeout: Duration,
    /// How long a fenced group's containers stay paused before they are stopped.
    pub fence_stop: Duration,
    /// Upper bound of one request to etcd.
    pub etcd_timeout: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self::of(Profile::Default)
    }
}

/// Stands for "a unit was forgotten".
const MOST: Duration = Duration::from_secs(3600);

impl Timers {
    /// The timers of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let t = match profile {
            Profile::Default => timing::Timers::default(),
            Profile::Fast => timing::Timers::fast(),
        };
        Self {
            profile,
            keepalive: t.keepalive,
            warntime: t.warntime,
            fencetime: t.fencetime,
            deadtime: t.deadtime,
            initdead: t.initdead,
            lease_ttl: t.ttl,
            restart_window: t.restart_window,
            peer_timeout: t.peer_timeout,
            fence_stop: t.fence_stop,
            etcd_timeout: t.etcd_timeout,
        }
    }

    /// The same timers as the core takes them.
    #[must_use]
    pub fn core(&self) -> timing::Timers {
        timing::Timers {
            keepalive: self.keepalive,
            warntime: self.warntime,
            fencetime: self.fencetime,
            deadtime: self.deadtime,
            initdead: self.initdead,
            ttl: self.lease_ttl,
            restart_window: self.restart_window,
            peer_timeout: self.peer_timeout,
            fence_stop: self.fence_stop,
            etcd_timeout: self.etcd_timeout,
        }
    }

    /// Sets what was not given from what was: fencetime from deadtime, and the timers that must exceed others, so that
    /// slower heartbeats need no more than the classic four settings.
    pub(super) fn derive(&mut self, given: &[&str]) {
        let has = |name| given.contains(&name);
        if has("deadtime") && !has("fencetime") {
            self.fencetime = timing::Timers::default_fencetime(self.deadtime);
        }
        for (name, timer, least) in [
            ("initdead", &mut self.initdead, self.deadtime * 2),
            ("restart_window", &mut self.restart_window, self.deadtime * 2),
            ("peer_timeout", &mut self.peer_timeout, self.warntime * 2),
        ] {
            if !has(name) {
                *timer = (*timer).max(least);
            }
        }
    }

    /// What is wrong with the timers: the field and a sentence with the numbers.
    pub(super) fn check(&self) -> Option<(&'static str, String)> {
        let error = match self.core().check() {
            Err(error) => error,
            Ok(t) => {
                let long = [
                    ("deadtime", t.deadtime),
                    ("initdead", t.initdead),
                    ("ttl", t.ttl),
                    ("fence_stop", t.fence_stop),
                ];
                let (name, value) = long.into_iter().find(|(_, value)| *value > MOST)?;
                return Some((
                    name,
                    format!("{} s is longer than an hour; was a unit mistaken?", value.as_secs()),
                ));
            }
        };
        let field = match &error {
            BadTimers::Order { small, .. } => small,
            BadTimers::Margin { .. } => "deadtime",
            BadTimers::TooShort { name, .. } => name,
        };
        Some((field, error.to_string()))
    }
}
