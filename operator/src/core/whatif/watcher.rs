//! Follows a run from outside: who serves, who came to lead and how, who left the in-sync set.

use super::Won;
use super::host::Host;
use super::world::World;
use crate::core::group::State;
use baton_replicator::types::NodeName;

/// Follows who serves.
#[derive(Default)]
pub(super) struct Watcher {
    fault: u64,
    pub(super) server: Option<NodeName>,
    led: Option<NodeName>,
    pub(super) won: Option<Won>,
    pub(super) gaps: Vec<(u64, Option<u64>)>,
    members: Vec<NodeName>,
    pub(super) removed: Vec<(NodeName, u64)>,
}

impl Watcher {
    /// From the fault on, which strikes while `server` serves and `members` are in sync.
    pub(super) fn new(fault: u64, server: Option<NodeName>, members: Vec<NodeName>) -> Self {
        Self { fault, server, members, ..Self::default() }
    }

    pub(super) fn look(&mut self, world: &World) {
        let at = world.now - self.fault;
        let server = world.server().map(|i| world.hosts[i].name.clone());
        match (&self.server, &server) {
            (None, Some(_)) => {
                if let Some(gap) = self.gaps.last_mut() {
                    gap.1 = Some(at);
                }
            }
            (Some(_), None) => self.gaps.push((at, None)),
            _ => {}
        }
        if at == 0 && server.is_none() && self.gaps.is_empty() {
            self.gaps.push((0, None));
        }
        self.server = server;
        let starting = |h: &&Host| h.power && h.agent && h.core.state() == State::Starting;
        if let Some(host) = world.hosts.iter().find(starting)
            && self.led.as_ref() != Some(&host.name)
        {
            self.led = Some(host.name.clone());
            if let Some(way) = world.etcd.way {
                self.won = Some(Won { node: host.name.clone(), at_ms: at, way });
            }
        }
        let members = world.members();
        for gone in self.members.iter().filter(|m| !members.contains(m)) {
            if world.etcd.way.is_none() {
                self.removed.push((gone.clone(), at));
            }
        }
        self.members = members;
    }
}
