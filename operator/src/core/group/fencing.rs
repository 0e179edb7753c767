//! Fencing from outside: whether a former leader has to be switched off before its group is taken over, and what became of
//! it. Who may switch whom off is settled by the driver, in etcd: this core only asks, and takes the outcome.
//!
//! Promises have settled who serves before this is asked: a fence makes sure where clocks, kernels or agents may lie.

use super::standby::Path;
use super::{Action, GroupCore, Severity};
use crate::core::record::Record;
use baton_replicator::types::{Instant, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Pause after a fence that failed, where nobody takes over without it; doubled by each further one.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest such pause.
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// Until it is asked again whether somebody else still fences.
const BUSY: Duration = Duration::from_secs(1);
/// What the driver may take beyond the bound of the devices: etcd, and a process that has to be killed.
const SLACK: Duration = Duration::from_secs(10);

/// What the specification says about fencing from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fencing {
    /// Nobody takes over from a leader that has not given the group up without having switched it off.
    pub required: bool,
    /// The nodes that can be switched off, with the longest that this may take.
    pub nodes: BTreeMap<NodeName, Duration>,
}

/// What became of an attempt to switch a node off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// It is off, and its agent says so.
    Off,
    /// It may be on: why.
    Failed(String),
    /// Not tried: somebody else fences, or the record has changed meanwhile.
    Busy(String),
}

/// How far fencing of the former leader is.
#[derive(Clone, Debug, Default)]
pub(super) struct Fences {
    /// Who led last, as long as this node has not led itself since.
    former: Option<NodeName>,
    next: u64,
    sent: Option<(u64, NodeName)>,
    /// Since when its end is waited for, whoever did what meanwhile.
    since: Option<Instant>,
    off: Option<(NodeName, Instant)>,
    failed: Option<(NodeName, String)>,
    failures: u32,
    again: Instant,
}

impl GroupCore {
    /// The former leader need not be fenced (any more), or why the takeover has to wait. Asks for the fence where that is due.
    pub(super) fn fenced_first(&mut self, path: Path) -> Result<(), String> {
        let required = self.cfg.fencing.required;
        // Who gave its epoch up has fenced itself, durably; at the first start there is nobody.
        let due = match path {
            Path::First | Path::Released => false,
            Path::Fast => required,
            Path::Slow => true,
        };
        if !due {
            return Ok(());
        }
        let Some(node) = self.suspect() else {
            // What comes to be suspected again is waited for anew.
            self.fences.since = None;
            return Ok(());
        };
        if self.fences.off.as_ref().is_some_and(|(who, _)| *who == node) {
            return Ok(());
        }
        let Some(bound) = self.cfg.fencing.nodes.get(&node).copied() else {
            return if required {
                Err(format!("{node} may still serve and has no fence devices"))
            } else {
                Ok(())
            };
        };
        let since = *self.fences.since.get_or_insert(self.now);
        let failed = self.fences.failed.as_ref().filter(|(who, _)| *who == node).map(|(_, why)| why.clone());
        if !required && (failed.is_some() || self.now.since(since) >= bound + SLACK) {
            return Ok(());
        }
        if self.fences.sent.is_some() {
            return Err(format!("switches {node} off before it takes over"));
        }
        if self.now < self.fences.again {
            let why = failed.unwrap_or_else(|| "somebody else fences".into());
            return Err(format!("{node} may still serve and could not be switched off yet: {why}"));
        }
        self.ask_for_fence(node.clone());
        Err(format!("switches {node} off before it takes over"))
    }

    fn ask_for_fence(&mut self, node: NodeName) {
        let Some(view) = self.view() else { return };
        let leader = view.leader.as_ref().map_or(0, |l| l.revision);
        let insync = view.insync.as_ref().map_or(0, |i| i.revision);
        self.fences.next += 1;
        let id = self.fences.next;
        self.fences.sent = Some((id, node.clone()));
        self.out.push(Action::FenceNode { id, node, leader, insync });
    }

    /// The answer to [`Action::FenceNode`].
    pub(super) fn on_fenced(&mut self, id: u64, outcome: FenceOutcome) {
        let Some((_, node)) = self.fences.sent.take_if(|(sent, _)| *sent == id) else { return };
        match outcome {
            FenceOutcome::Off => {
                self.fences.off = Some((node, self.now));
                (self.fences.failed, self.fences.failures) = (None, 0);
            }
            FenceOutcome::Failed(why) => {
                let pause = AGAIN * 2_u32.pow(self.fences.failures.min(5));
                self.fences.failures = self.fences.failures.saturating_add(1);
                self.fences.again = self.now.plus(pause.min(AGAIN_MOST));
                let then = if self.cfg.fencing.required {
                    "nobody takes the group over before that has worked (fence: required)"
                } else {
                    "promises and the kernel's gate have to do"
                };
                let text = format!("{node} could not be switched off: {why}; {then}");
                self.out.push(Action::Event(Severity::Critical, text));
                self.fences.failed = Some((node, why));
            }
            FenceOutcome::Busy(_) => self.fences.again = self.now.plus(BUSY),
        }
    }

    /// A record was read: remembers who led.
    pub(super) fn note_former(&mut self) {
        let Some(leader) = self.view().and_then(|v| v.leader.as_ref()).map(|l| l.value.node.clone()) else {
            return;
        };
        let other = (leader != self.cfg.me).then_some(leader);
        if self.fences.former != other {
            let Fences { next, sent, .. } = std::mem::take(&mut self.fences);
            self.fences = Fences { former: other, next, sent, ..Fences::default() };
        }
    }

    /// Whoever was switched off and is heard is on again; whoever was waited for and serves needs no fence.
    pub(super) fn forget_fences(&mut self) {
        let heard = |n: &NodeName| self.facts.peers.get(n).and_then(|p| p.heard);
        if self.fences.off.as_ref().is_some_and(|(node, at)| heard(node).is_some_and(|h| h > *at)) {
            self.fences.off = None;
        }
        let holds = self.now.since(self.facts.beats.last_holds) < self.cfg.timers.deadtime;
        if holds && self.fences.sent.is_none() {
            (self.fences.failed, self.fences.since, self.fences.failures) = (None, None, 0);
            self.fences.again = Instant::ZERO;
        }
    }

    /// The node that may still serve by what this one knows: the former leader, unless it was heard lately and says that it
    /// does not hold the group. After a start of this agent nobody is known to have led: then, and only where a fence is
    /// required, any member that is not heard.
    fn suspect(&self) -> Option<NodeName> {
        let gave_up = |n: &NodeName| {
            let Some(peer) = self.facts.peers.get(n) else { return false };
            let near = peer.heard.is_some_and(|at| self.now.since(at) <= self.cfg.timers.warntime);
            near && peer.groups.get(&self.cfg.group).is_some_and(|b| !b.holds && !b.leading)
        };
        if let Some(former) = &self.fences.former {
            return Some(former.clone()).filter(|n| !gave_up(n));
        }
        let members = self.view().map(Record::members).unwrap_or_default();
        let others = members.iter().map(|m| &m.node).filter(|n| **n != self.cfg.me);
        let off = |n: &NodeName| self.fences.off.as_ref().is_some_and(|(who, _)| who == n);
        others.filter(|_| self.cfg.fencing.required).find(|n| !gave_up(n) && !off(n)).cloned()
    }
}
