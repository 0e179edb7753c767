//! etcd as the answering agent sees it: whether it confirms what is asked, in what time, and who its members are.

use baton_replicator::types::{Epoch, NodeName};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// A request that takes longer than this is slow: a quarter of its default bound.
pub const SLOW: Duration = Duration::from_millis(250);

/// How etcd is, for the answering agent. None of these is a lost leadership: that is read in the group's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EtcdState {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It confirms what is asked, in good time.
    Answers,
    /// It confirms what is asked, or its members answer and name a leader, but not in good time.
    Slow,
    /// Members answer, and those that do have no leader.
    NoLeader,
    /// No member answers.
    Unreachable,
}

impl EtcdState {
    /// All of them, in the order of severity.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Answers, Self::Slow, Self::NoLeader, Self::Unreachable];

    /// As in metrics and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Answers => "answers",
            Self::Slow => "slow",
            Self::NoLeader => "no_leader",
            Self::Unreachable => "unreachable",
        }
    }

    /// `confirms`: the last request was confirmed; `latency`: in what time the last ones were; `members`: what each
    /// endpoint answered last, if anything: whether it knows a leader.
    #[must_use]
    pub fn of(confirms: bool, latency: Option<Duration>, members: &[Option<bool>]) -> Self {
        let answering: Vec<bool> = members.iter().filter_map(|m| *m).collect();
        match (confirms, latency) {
            (true, Some(took)) if took > SLOW => Self::Slow,
            (true, _) => Self::Answers,
            (false, _) if members.is_empty() => Self::Unknown,
            (false, _) if answering.is_empty() => Self::Unreachable,
            // It has a leader, and yet it has not confirmed anything within a request's bound.
            (false, _) if answering.iter().any(|leader| *leader) => Self::Slow,
            (false, _) => Self::NoLeader,
        }
    }

    /// What it means for `node`, as the end of a sentence; none if all is well.
    #[must_use]
    pub fn sentence(self) -> Option<&'static str> {
        match self {
            Self::Answers | Self::Unknown => None,
            Self::Slow => {
                Some("etcd is slow: its members answer, but take long to confirm what is asked of them")
            }
            Self::NoLeader => Some(
                "etcd has no leader: its members answer, but cannot confirm anything until they have elected one",
            ),
            Self::Unreachable => Some("no member of etcd answers"),
        }
    }
}

/// What a node remembers of a group itself: the facts that tell, after etcd was lost, who holds everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMemory {
    /// The highest epoch it knows of, from wherever.
    pub known: Epoch,
    /// The last epoch in which it served the group itself.
    pub served: Epoch,
    /// The epoch of the record in etcd; none if there is no record.
    pub record: Option<Epoch>,
    /// etcd has no record although the group has run before.
    pub lost: bool,
    /// Why what etcd says is not trusted; none if it is.
    pub foreign: Option<String>,
    /// Its replicas of all volumes are UpToDate or Consistent, or there are none.
    pub complete: bool,
    /// It leads the group, serving or not.
    pub leads: bool,
}

/// A member of etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EtcdMember {
    /// The URL that it was asked at.
    pub endpoint: String,
    /// Its name in etcd, if known.
    pub name: Option<String>,
    /// The node whose host it stands on, by its name or its addresses; none for a witness.
    pub on: Option<NodeName>,
    /// It answered the last time.
    pub answers: bool,
    /// It leads etcd.
    pub leads: bool,
    /// Its version, if it answered.
    pub version: Option<String>,
    /// Known bugs of its version, with where they are described and in what version they end.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_leaderless_and_unreachable_are_told_apart() {
        let (fast, slow) = (Some(Duration::from_millis(4)), Some(Duration::from_millis(900)));
        let (leader, none, away) = (Some(true), Some(false), None);
        let of = EtcdState::of;
        assert_eq!(of(true, fast, &[leader, leader, away]), EtcdState::Answers);
        assert_eq!(of(true, None, &[]), EtcdState::Answers, "asked, and not looked at yet");
        assert_eq!(of(true, slow, &[leader, leader, leader]), EtcdState::Slow);
        assert_eq!(
            of(false, fast, &[leader, leader, away]),
            EtcdState::Slow,
            "a leader that confirms nothing"
        );
        assert_eq!(of(false, fast, &[none, none, away]), EtcdState::NoLeader);
        assert_eq!(of(false, fast, &[none, away, away]), EtcdState::NoLeader);
        assert_eq!(of(false, fast, &[away, away, away]), EtcdState::Unreachable);
        assert_eq!(of(false, None, &[]), EtcdState::Unknown);
    }

    #[test]
    fn words_are_those_of_the_json() {
        for state in EtcdState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
            let well = matches!(state, EtcdState::Unknown | EtcdState::Answers);
            assert_eq!(state.sentence().is_none(), well, "{state:?}");
        }
    }
}
