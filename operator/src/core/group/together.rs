//! Groups that go with another one (`with`) and groups that keep away from others (`apart_from`), without a coordinator.
//!
//! Every node runs a core per group. What the core of one group has to know of another one, its neighbour on the same
//! node tells it ([`Told`]): who leads it by the record, and, where it is led here, whether it serves and wants to leave.
//!
//! A group that goes with another one has no will of its own about places. It is taken over only where the other is led,
//! starts when that serves, and is handed over to where that has gone. The other one, before it leaves, says where to, and
//! waits for those that go with it to be stopped, for `stop_timeout` at most. It leaves by itself only for a node on which they
//! can run, unless it has to leave; and if one of them can run only elsewhere, it goes there with it.
//!
//! Keeping apart is a preference: a node that leads one of the others goes last in an election, and a leader that finds
//! itself beside one moves to a ready node with fewer of them. Of those that keep away from each other the one with the
//! greater name moves first, one at a time. Each such move leaves fewer together than before, so it ends.
//!
//! Neither touches promises, epochs or fences: a wrong word of a neighbour can put a group in the wrong place, or delay it, and
//! cannot make two nodes serve it.

use super::{GroupCore, State};
use crate::core::record::Record;
use crate::core::runtime::Phase;
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// A better place must have been ready for this long: as `auto_failback: true`.
const HOLD: Duration = Duration::from_secs(10);
/// Of two groups that keep away from each other the one with the smaller name moves after this time; with more of them here, each
/// with a greater name adds the difference to [`HOLD`].
const SECOND: Duration = Duration::from_secs(30);
/// A node that leads a group to be kept away from leaves others so much time to take over first.
const ROOM: Duration = Duration::from_millis(600);

/// Where a leader wants its group to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// On this node.
    To(NodeName),
    /// Nowhere.
    Stop,
}

/// What the core of one group tells those of others on the same node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Who leads it, by the record as its core has read it.
    pub leader: Option<NodeName>,
    /// This node leads it.
    pub here: bool,
    /// This node serves it.
    pub serves: bool,
    /// Nothing of it runs on this node.
    pub idle: bool,
    /// This node leads it and wants to give it away.
    pub leaving: Option<Leaving>,
    /// Why it cannot run on this node, if so.
    pub trouble: Option<String>,
    /// Who holds its data, while nobody leads it.
    pub holders: Vec<NodeName>,
    /// A person has disabled it.
    pub disabled: bool,
    /// The group it goes with.
    pub with: Option<GroupName>,
    /// The groups it keeps away from.
    pub apart_from: Vec<GroupName>,
}

/// What has become of the group that another one goes with.
enum Lead {
    /// It is still on its way.
    Leaving,
    /// It is led here.
    Stays,
    /// It is led where this group is to go.
    There,
    /// Nobody leads it, or somebody else.
    Elsewhere,
}

impl GroupCore {
    /// What the other groups' cores on this node should know.
    #[must_use]
    pub fn told(&self) -> Told {
        let here = self.state.leads();
        let led = self.view().and_then(|v| v.leader.as_ref()).map(|l| l.value.node.clone());
        let trouble = match (here, self.fit()) {
            (false, fit) => fit.err(),
            (true, _) if self.state == State::Failed => Some(self.failures.why.clone()),
            (true, _) => {
                let gone = self.disk_gone().map(|v| format!("the disk of volume {} is gone", v.volume));
                let run = &self.run;
                gone.or_else(|| run.stuck.clone())
                    .or_else(|| run.unusable.clone())
                    .or_else(|| run.wants_move.clone())
            }
        };
        let led_by_nobody = |v: &&Record| v.leader.is_none() && !self.cfg.volumes.is_empty();
        let holders = self.view().filter(led_by_nobody).map(Record::members).unwrap_or_default();
        Told {
            holders: holders.iter().map(|m| m.node.clone()).collect(),
            // A record that still names this node although it has given the group away says nothing.
            leader: if here { Some(self.cfg.me.clone()) } else { led.filter(|n| *n != self.cfg.me) },
            here,
            serves: self.state == State::Serving,
            idle: self.let_go() && self.state != State::Starting && self.run.phase == Phase::Stopped,
            leaving: self.leaving.as_ref().map(|(leaving, _)| leaving.clone()),
            trouble,
            disabled: self.disabled().is_some(),
            with: self.cfg.placing.with.clone(),
            apart_from: self.cfg.placing.apart_from.clone(),
        }
    }

    /// The group this one goes with, and what is known of it.
    fn lead_of(&self) -> Option<(&GroupName, Option<&Told>)> {
        self.cfg.placing.with.as_ref().map(|g| (g, self.others.get(g)))
    }

    /// A group that goes with another one is taken over only where that is led.
    pub(super) fn with_lead(&self) -> Result<(), String> {
        match self.lead_of() {
            None => Ok(()),
            Some((_, Some(told))) if told.here => Ok(()),
            Some((group, Some(Told { leader: Some(node), .. }))) => {
                Err(format!("goes with {group}, which {node} leads"))
            }
            Some((group, _)) => Err(format!("goes with {group}, which nobody leads")),
        }
    }

    /// What a leader that may serve waits for before it starts the group.
    pub(super) fn waits_for_lead(&self) -> Option<String> {
        let (group, told) = self.lead_of()?;
        let ready = told.is_some_and(|t| t.here && t.leaving.is_none() && (t.serves || self.in_place));
        (!ready).then(|| format!("goes with {group}: starts when that serves here"))
    }

    /// Where a group that goes with another one should be, if not here.
    pub(super) fn follow(&self) -> Option<(Option<NodeName>, String)> {
        let (group, told) = self.lead_of()?;
        let told = told?;
        if let Some(why) = self.stops_with() {
            return Some((None, why));
        }
        match (&told.leaving, &told.leader) {
            (Some(Leaving::To(node)), _) => Some((Some(node.clone()), format!("goes with {group}"))),
            (None, Some(node)) if *node != self.cfg.me => {
                Some((Some(node.clone()), format!("goes with {group}, which {node} leads")))
            }
            (Some(Leaving::Stop), _) | (None, _) => None,
        }
    }

    /// The group that this one goes with is being stopped for good.
    pub(super) fn stops_with(&self) -> Option<String> {
        let (group, told) = self.lead_of()?;
        // One that was disabled while this one could not be stopped in time, or while it started, has stopped already.
        let stopped = |t: &Told| t.disabled && t.leader.is_none() && t.idle;
        let stops = told.is_some_and(|t| t.leaving == Some(Leaving::Stop) || stopped(t));
        stops.then(|| format!("goes with {group}, which stops"))
    }

    fn lead_for(&self, to: &NodeName) -> Option<Lead> {
        let (_, told) = self.lead_of()?;
        Some(match told {
            Some(t) if t.leaving.is_some() => Lead::Leaving,
            Some(t) if t.here => Lead::Stays,
            Some(t) if t.leader.as_ref() == Some(to) => Lead::There,
            Some(_) | None => Lead::Elsewhere,
        })
    }

    /// A group stopped for a handover to `to` waits until the one it goes with has gone there; true if it has to wait on.
    pub(super) fn holds_back(&mut self, to: &NodeName) -> bool {
        match self.lead_for(to) {
            None | Some(Lead::There) => false,
            Some(Lead::Stays) => {
                self.resume("handover broken off, resumes: the group it goes with stays".into());
                true
            }
            Some(Lead::Leaving) => {
                // Only then the time for its own transaction begins.
                if let Some(h) = &mut self.handover {
                    h.stopped = Some(self.now);
                }
                true
            }
            Some(Lead::Elsewhere) => true,
        }
    }

    /// Groups that go with this one and are led here.
    fn company(&self) -> impl Iterator<Item = (&GroupName, &Told)> {
        let mine = Some(&self.cfg.group);
        self.others.iter().filter(move |(_, t)| t.with.as_ref() == mine && t.here)
    }

    fn could_run(&self, group: &GroupName, node: &NodeName) -> bool {
        let beat = self.facts.peers.get(node).and_then(|p| p.groups.get(group));
        beat.is_some_and(|b| b.ready || b.leading)
    }

    /// Whether those that go with this group could run on `node`; who has to leave does not ask.
    pub(super) fn company_ready(&self, node: &NodeName, must: bool) -> Result<(), String> {
        match self.company().find(|(group, t)| !must && !t.disabled && !self.could_run(group, node)) {
            Some((group, _)) => Err(format!("{group}, which goes with it, could not run on {node}")),
            None => Ok(()),
        }
    }

    /// Says where the group goes, and whether those that go with it have stopped; else it has to wait, or has given up.
    pub(super) fn company_gone(&mut self, leaving: Leaving, must: bool) -> bool {
        let since = match &self.leaving {
            Some((before, since)) if *before == leaving => *since,
            Some(_) | None => self.now,
        };
        // What is disabled is being stopped, wherever it could run.
        let comes = |group: &GroupName, t: &Told| match &leaving {
            Leaving::To(node) => t.disabled || self.could_run(group, node),
            Leaving::Stop => true,
        };
        let busy =
            self.company().find(|(group, t)| !t.idle && comes(group, t)).map(|(group, _)| group.clone());
        self.leaving = Some((leaving, since));
        let Some(group) = busy else { return true };
        if self.now.since(since) < self.cfg.stop_timeout {
            self.note = Some(format!("leaves as soon as {group} has stopped, which goes with it"));
            return false;
        }
        if !must {
            self.leaving = None;
            self.put_off();
            self.note = Some(format!("stays: {group}, which goes with it, was not stopped in time"));
        }
        must
    }

    /// A node on which a group that goes with this one can run, if that cannot run here.
    pub(super) fn watch_company(&mut self) {
        let before = std::mem::take(&mut self.stranded);
        let mine = Some(&self.cfg.group);
        let followers = self.others.iter().filter(|(_, t)| t.with.as_ref() == mine && !t.disabled);
        let mut stranded = BTreeMap::new();
        for (group, t) in followers.filter(|(_, t)| t.trouble.is_some()) {
            // The last one with its data is not ready before it leads, and leads only where this group is.
            let only = |n: &NodeName| t.holders.contains(n) && !t.holders.contains(&self.cfg.me);
            let better = |n: &&NodeName| {
                **n != self.cfg.me && (self.could_run(group, n) || only(n)) && self.ready(n).is_ok()
            };
            let Some(node) = self.cfg.nodes.iter().find(better) else { continue };
            let since = before.get(group).filter(|(to, _)| to == node).map_or(self.now, |(_, since)| *since);
            stranded.insert(group.clone(), (node.clone(), since));
        }
        self.stranded = stranded;
    }

    /// Where it has to go for the sake of a group that goes with it.
    pub(super) fn for_company(&self) -> Option<(NodeName, String)> {
        let long = |since: &Instant| self.now.since(*since) >= HOLD;
        let (group, (node, _)) = self.stranded.iter().find(|(_, (_, since))| long(since))?;
        Some((node.clone(), format!("{group}, which goes with it, can run there and not here")))
    }

    /// How many groups to be kept away from `node` leads.
    pub(super) fn beside(&self, node: &NodeName) -> usize {
        let led = |g: &&GroupName| self.others.get(*g).is_some_and(|t| t.leader.as_ref() == Some(node));
        self.cfg.placing.apart_from.iter().filter(led).count()
    }

    /// Notes for how long a node with fewer groups to be kept away from has been ready.
    pub(super) fn watch_room(&mut self) {
        let here = self.beside(&self.cfg.me);
        let good = |n: &&NodeName| {
            **n != self.cfg.me && self.beside(n) < here && !self.worse_placed(n) && self.ready(n).is_ok()
        };
        let best = self.cfg.nodes.iter().filter(good).min_by_key(|n| self.beside(n)).cloned();
        let before = self.room.take();
        self.room = best.map(|node| {
            let since = before.filter(|(n, _)| *n == node).map_or(self.now, |(_, since)| since);
            (node, since)
        });
    }

    /// A node with more room, and why it is better.
    pub(super) fn apart(&self) -> Option<(NodeName, String)> {
        let (node, since) = self.room.as_ref()?;
        let together = self.cfg.placing.apart_from.iter().filter_map(|g| Some((g, self.others.get(g)?)));
        let here = together.filter(|(_, t)| t.here);
        let (other, _) = here.clone().next()?;
        // One at a time: where another one goes decides whether there is still more room.
        if here.clone().any(|(_, t)| t.leaving.is_some()) {
            return None;
        }
        // Those of them that keep away from this group as well and have a greater name move first, and get time for it.
        let first = here.filter(|(g, t)| t.apart_from.contains(&self.cfg.group) && self.cfg.group < **g);
        let hold = HOLD + (SECOND - HOLD) * u32::try_from(first.count()).unwrap_or(u32::MAX);
        (self.now.since(*since) >= hold).then(|| (node.clone(), format!("keeps apart from {other}")))
    }

    /// It is beside a group that it should keep away from.
    pub(super) fn crowded(&self) -> Option<String> {
        let here = |g: &&GroupName| self.others.get(*g).is_some_and(|t| t.here);
        let other = self.cfg.placing.apart_from.iter().find(here)?;
        let why = match &self.room {
            Some((node, _)) => format!("{node} is to take it"),
            None => "no other node that is ready has more room".into(),
        };
        Some(format!("beside {other}, from which it should keep apart: {why}"))
    }

    /// In an election, a node that leads a group to be kept away from lets others go first.
    pub(super) fn makes_room(&self) -> Result<(), String> {
        let here = self.beside(&self.cfg.me);
        let since = self.facts.beats.last_holds.max(self.silence_from);
        if here == 0 || self.now.since(since) >= self.cfg.timers.deadtime + ROOM {
            return Ok(());
        }
        let near = |n: &NodeName| {
            let heard = self.facts.peers.get(n).and_then(|p| p.heard);
            heard.is_some_and(|at| self.now.since(at) <= self.cfg.timers.warntime)
        };
        let better = |n: &&NodeName| {
            **n != self.cfg.me && self.beside(n) < here && near(n) && self.could_run(&self.cfg.group, n)
        };
        match self.cfg.nodes.iter().find(better) {
            Some(node) => Err(format!("{node} goes first: a group to be kept away from is led here")),
            None => Ok(()),
        }
    }
}
