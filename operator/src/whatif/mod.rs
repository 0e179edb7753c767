//! `baton what-if`: what would happen if a node, etcd or a link went down now. From one status snapshot; pure.
//!
//! `fault` reads what goes down, `scene` puts the snapshot into the terms of [`core::whatif`](crate::core::whatif), which
//! drives the production cores through it, and `say` puts what comes out into sentences. Nothing is decided here. If a forecast is wrong, nothing happens: nobody acts on it.

mod fault;
mod say;
mod scene;
#[cfg(test)]
mod tests;

pub use fault::{Fault, MOST_FAULTS};

use crate::core::whatif::{self as model, Outlook};
use crate::status::{ClusterStatus, Event, GroupStatus, Takeover};
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhatIf {
    /// The agent that answers: it starts from what this one knows.
    pub node: NodeName,
    /// Wall clock of what it starts from, RFC 3339.
    pub at: String,
    /// What goes down, in words.
    pub down: Vec<String>,
    /// Each group, by name.
    pub groups: Vec<Forecast>,
    /// What the forecast takes for granted.
    pub assumptions: Vec<String>,
}

/// What becomes of a group, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Who serves it goes on without a break.
    GoesOn,
    /// Another node takes it over.
    Takeover,
    /// Who serves it stops and serves it again.
    Pause,
    /// Nobody serves it any more.
    Stops,
    /// Nobody serves it now, and that stays so.
    StaysDown,
    /// Nobody serves it now; somebody will.
    Starts,
}

/// What becomes of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// The group.
    pub group: GroupName,
    /// In one word.
    pub verdict: Verdict,
    /// In one sentence.
    pub summary: String,
    /// Who serves it before.
    pub before: Option<NodeName>,
    /// Who serves it in the end.
    pub after: Option<NodeName>,
    /// From the fault until a new leader may serve and begins to start the group, milliseconds.
    pub leads_ms: Option<u64>,
    /// How long that start takes, milliseconds: as the newest recorded one did; none if none is recorded.
    pub start_ms: Option<u64>,
    /// The node whose start that was.
    pub start_of: Option<NodeName>,
    /// From the fault until it serves, milliseconds; none if it does not, or if the start's length is not known.
    pub serves_ms: Option<u64>,
    /// Writes wait for so long, milliseconds, until a silent member has left the in-sync set; none if none does.
    pub writes_wait_ms: Option<u64>,
    /// The in-sync set in the end.
    pub in_sync: Vec<NodeName>,
    /// Why others do not take it over, one sentence each.
    pub because: Vec<String>,
    /// What each node would say, in order.
    pub timeline: Vec<Said>,
}

/// Something that a node would say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Said {
    /// From the fault, milliseconds.
    pub at_ms: u64,
    /// The node.
    pub node: NodeName,
    /// The change of its state, with the reason.
    pub text: String,
}

impl WhatIf {
    /// A group that is served now would not be served any more.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.groups.iter().any(|g| g.verdict == Verdict::Stops)
    }
}

/// Looks ahead from a snapshot. `only` restricts it to a group; `history` tells how long starts took.
///
/// # Errors
/// A sentence, if what goes down is not known here.
pub fn foresee(
    status: &ClusterStatus,
    faults: &[Fault],
    only: Option<&GroupName>,
    history: &[Event],
) -> Result<WhatIf, String> {
    let cut = scene::cut(status, faults)?;
    // Groups that stand alike have one future.
    let mut seen: Vec<(model::Scene, Outlook)> = Vec::new();
    let mut groups = Vec::new();
    for group in status.groups.iter().filter(|g| only.is_none_or(|o| g.name == *o)) {
        let scene = scene::of(status, group);
        let known = seen.iter().find(|(s, _)| *s == scene).map(|(_, outlook)| outlook.clone());
        let outlook = match known {
            Some(outlook) => outlook,
            None => {
                let Ok(volume) = VolumeName::new("data") else { continue };
                let outlook = model::foresee(&group.name, &volume, &scene, &cut);
                seen.push((scene, outlook.clone()));
                outlook
            }
        };
        let start = outlook.won.as_ref().and_then(|won| start(group, &won.node, history));
        groups.push(say::forecast(status, group, faults, &cut, outlook, start));
    }
    Ok(WhatIf {
        node: status.node.clone(),
        at: status.at.clone(),
        down: faults.iter().map(Fault::words).collect(),
        groups,
        assumptions: say::assumptions(status, faults),
    })
}

/// How long the newest recorded start of a group took: on `node`, else anywhere.
fn start(group: &GroupStatus, node: &NodeName, history: &[Event]) -> Option<(NodeName, u64)> {
    let of_group = history.iter().rev().filter(|e| e.group.as_ref() == Some(&group.name));
    let mut recorded = of_group.filter_map(|e| Some((&e.node, e.takeover.as_ref()?)));
    let any = recorded.clone().next();
    let here = recorded.find(|(at, _)| *at == node).or(any).map(|(at, t)| (at.clone(), starting(t)));
    let last = || Some((group.leader.clone()?, starting(group.last_takeover.as_ref()?)));
    here.or_else(last)
}

/// The part of a change of leadership in which the group is started.
fn starting(takeover: &Takeover) -> u64 {
    let before = ["detect", "decide", "wait", "answer"];
    takeover.steps.iter().filter(|s| !before.contains(&s.step.as_str())).map(|s| s.ms).sum()
}
