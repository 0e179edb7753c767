//! What a node tells the others about itself in its heartbeats, for people: enough that every agent can answer
//! for the whole cluster. Nothing is decided on it, except which node is better placed (`gateways`).
//!
//! It has to fit [`MAX_SUMMARY`] bytes: texts are shortened first, then services left out, then reasons.

use crate::core::beat::MAX_SUMMARY;
use crate::status::ServiceStatus;
use baton_replicator::types::{DiskState, GroupName};
use serde::{Deserialize, Serialize};

/// Longest reason that rides along.
const REASON_MAX: usize = 160;
/// Most bytes about gateways: half of what there is. About thirty groups.
const GATEWAYS_MAX: usize = MAX_SUMMARY / 2;

/// A node's facts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Version of the agent.
    pub version: String,
    /// Its groups.
    pub groups: Vec<GroupSummary>,
    /// What later versions added: rides behind the rest, where older agents do not look.
    #[serde(skip)]
    pub more: More,
}

/// What came later. New fields go to the end, and what is missing at the end has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct More {
    /// Version of the specification that the agent runs; 0 if it does not come from etcd.
    pub spec_version: i64,
    /// What fences its addresses, as a number; 0 if it does not say.
    pub fencing: u8,
    /// How many of a group's gateways the node reaches, for the groups that ask. Groups may be missing: then nothing is
    /// concluded. The one thing here that is decided on: a planned move.
    pub gateways: Vec<(GroupName, u8)>,
}

impl More {
    fn append(&self, bytes: &mut Vec<u8>) {
        // Plain values always serialise.
        bytes.extend(postcard::to_stdvec(&(self.spec_version, self.fencing)).unwrap_or_default());
        let mut gateways = self.gateways.clone();
        let text = loop {
            let text = postcard::to_stdvec(&gateways).unwrap_or_default();
            if text.len() <= GATEWAYS_MAX {
                break text;
            }
            gateways.pop();
        };
        bytes.extend(text);
    }

    fn read(rest: &[u8]) -> Self {
        let (spec_version, rest) = postcard::take_from_bytes(rest).unwrap_or((0, &[]));
        let (fencing, rest) = postcard::take_from_bytes(rest).unwrap_or((0, &[]));
        let gateways = postcard::take_from_bytes(rest).map_or_else(|_| Vec::new(), |(all, _)| all);
        Self { spec_version, fencing, gateways }
    }
}

/// A node's facts about one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// The group.
    pub group: GroupName,
    /// Worst of its replicas.
    pub disk: Option<DiskState>,
    /// Resync of its replica, per mille.
    pub resync: Option<u16>,
    /// Why it is where it is, or why it is not ready.
    pub reason: String,
    /// Its containers.
    pub services: Vec<ServiceBrief>,
}

/// A container in a few bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceBrief {
    /// Name in the specification.
    pub name: String,
    /// Engine's word for its state.
    pub state: String,
    /// Health.
    pub health: Option<String>,
    /// Restarts in place.
    pub restarts: u32,
}

impl ServiceBrief {
    /// The short form of a service's status.
    #[must_use]
    pub fn of(service: &ServiceStatus) -> Self {
        Self {
            name: service.name.clone(),
            state: service.state.clone(),
            health: service.health.clone(),
            restarts: service.restarts,
        }
    }
}

impl NodeSummary {
    /// The bytes that ride along, never more than [`MAX_SUMMARY`].
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        for g in &mut self.groups {
            g.reason = g.reason.chars().take(REASON_MAX).collect();
        }
        let steps: [fn(&mut GroupSummary); 3] =
            [|_| {}, |g| g.services.clear(), |g| g.reason = g.reason.chars().take(20).collect()];
        for step in steps {
            self.groups.iter_mut().for_each(step);
            let bytes = self.bytes();
            if bytes.len() <= MAX_SUMMARY {
                return bytes;
            }
        }
        self.groups.clear();
        self.bytes()
    }

    fn bytes(&self) -> Vec<u8> {
        // Plain structs always serialise.
        let mut bytes = postcard::to_stdvec(self).unwrap_or_default();
        self.more.append(&mut bytes);
        bytes
    }

    /// Reads what a peer sent; none if it is of another version of the format.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (summary, rest): (Self, _) = postcard::take_from_bytes(bytes).ok()?;
        Some(Self { more: More::read(rest), ..summary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(groups: usize) -> NodeSummary {
        let group = |i| GroupSummary {
            group: GroupName::new(format!("group-{i}")).unwrap(),
            disk: Some(DiskState::UpToDate),
            resync: Some(17),
            reason: "x".repeat(500),
            services: vec![ServiceBrief {
                name: "mysql".into(),
                state: "running".into(),
                health: Some("healthy".into()),
                restarts: 1,
            }],
        };
        let gateways = (0..groups).map(|i| (GroupName::new(format!("group-{i}")).unwrap(), 2)).collect();
        let more = More { spec_version: 42, fencing: 1, gateways };
        NodeSummary { version: "0.1.0".into(), groups: (0..groups).map(group).collect(), more }
    }

    /// Version 0.1.0 sent the same without what came later, and read no further.
    #[test]
    fn older_and_newer_agents_read_each_other() {
        let new = summary(1);
        let bytes = new.clone().encode();
        let mut old = Vec::new();
        new.more.append(&mut old);
        let old = bytes[..bytes.len() - old.len()].to_vec();
        let got = NodeSummary::decode(&old).expect("an old one is read");
        assert_eq!((got.groups.len(), got.more.spec_version), (1, 0));
        let got: NodeSummary = postcard::from_bytes(&bytes).expect("as the old one read it");
        assert_eq!(got.groups.len(), 1);
        assert_eq!(NodeSummary::decode(&bytes).expect("a new one is read").more, new.more);
        // Releases between the two sent the version alone, or what fences besides.
        let version = postcard::to_stdvec(&42_i64).unwrap();
        for (tail, fencing) in [(version.clone(), 0), ([version, vec![1]].concat(), 1)] {
            let between = NodeSummary::decode(&[old.clone(), tail].concat()).expect("read").more;
            assert_eq!((between.spec_version, between.fencing, between.gateways), (42, fencing, vec![]));
        }
    }

    #[test]
    fn a_small_one_arrives_whole_but_for_long_texts() {
        let got = NodeSummary::decode(&summary(2).encode()).unwrap();
        assert_eq!(got.groups.len(), 2);
        assert_eq!(got.groups[0].services, summary(1).groups[0].services);
        assert_eq!(got.groups[0].reason.len(), REASON_MAX);
    }

    #[test]
    fn however_many_groups_it_fits() {
        for groups in [0, 5, 20, 60, 128] {
            let bytes = summary(groups).encode();
            assert!(bytes.len() <= MAX_SUMMARY, "{groups}: {}", bytes.len());
            assert_eq!(NodeSummary::decode(&bytes).unwrap().version, "0.1.0");
        }
    }
}
