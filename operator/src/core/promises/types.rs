//! What goes into and comes out of the promises.

use crate::core::beat::GroupBeat;
use baton_replicator::types::{BootId, Epoch, GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the decision core wants the heartbeats of one group to say and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Highest epoch the core knows; its own while it leads.
    pub epoch: Epoch,
    /// Leader or standby.
    pub part: Part,
    /// Epoch durably given up.
    pub released: Option<Epoch>,
    /// Could start the group now.
    pub ready: bool,
    /// `GroupState` as a number.
    pub state: u8,
    /// Boot id for the group; zero if unknown.
    pub boot: BootId,
    /// mod_revision of the in-sync record as known.
    pub insync_rev: i64,
}

/// A node's part in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Does not lead.
    Standby {
        /// Acknowledge leaders' heartbeats: not campaigning, nothing unsettled.
        acknowledge: bool,
        /// Longest promise that may be given because it was made durable first; zero for the ordinary one.
        long_promise: Duration,
    },
    /// Leads at `Intent::epoch`.
    Leader {
        /// E: the union of all in-sync sets that may be current, without this node.
        members: Vec<NodeName>,
        /// Candidates outside of E (groups without volumes): their promises stand in for the lease.
        others: Vec<NodeName>,
        /// Until when the lease under the leader key counts.
        lease_until: Option<Instant>,
        /// May serve as far as the core is concerned (guard time over, nothing blocked).
        serve: bool,
        /// Starting or stopping the group: holds it although not entitled at the moment.
        busy: bool,
        /// Before an orderly restart: the longer promise to ask for.
        ask: Option<Duration>,
    },
}

impl Intent {
    /// What of it is said in heartbeats.
    pub(super) fn says(&self) -> impl PartialEq + use<> {
        let leads = match self.part {
            Part::Leader { serve, busy, ask, .. } => Some((serve, busy, ask)),
            Part::Standby { .. } => None,
        };
        (leads, self.epoch, self.released, self.ready, self.state, self.boot, self.insync_rev)
    }

    /// The intent before anything is known: say nothing, acknowledge nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            epoch: Epoch::ZERO,
            part: Part::Standby { acknowledge: false, long_promise: Duration::ZERO },
            released: None,
            ready: false,
            state: 0,
            boot: BootId(0),
            insync_rev: 0,
        }
    }
}

/// What the heartbeats say about one group at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Leaders' heartbeats are being acknowledged (the intent in force).
    pub acknowledging: bool,
    /// No takeover before this: the longest promise given, the start of the agent included.
    pub promised_until: Instant,
    /// Last heartbeat that said `holds` (or the start, or the end of a gap in the clock).
    pub last_holds: Instant,
    /// Last heartbeat of a leader at the highest epoch.
    pub leader_heard: Option<(NodeName, Epoch, Instant)>,
    /// The leader of the highest epoch says that it gave that epoch up.
    pub released: Option<(NodeName, Epoch)>,
    /// Highest epoch heard or set.
    pub highest: Epoch,
    /// An epoch with a number known here and another term was heard: two histories.
    pub foreign: Option<(NodeName, Epoch)>,
    /// Length of the longer promise that the leader asks for.
    pub asked: Option<Duration>,
    /// Promises received for the present incarnation and epoch, by peer.
    pub promises: BTreeMap<NodeName, Promise>,
    /// As leader: until when serving is allowed. None: not at all.
    pub serve_until: Option<Instant>,
}

/// A promise received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// When this node sent the acknowledged heartbeat.
    pub sent: Instant,
    /// Until when it counts.
    pub good_until: Instant,
}

/// What is known about a peer from its heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// Its incarnation.
    pub incarnation: Option<u64>,
    /// Its etcd is in reach.
    pub etcd: bool,
    /// Longest silence in the last minute.
    pub longest_gap: Duration,
    /// Heartbeats that came later than `warntime` after the one before.
    pub late: u64,
    /// Datagrams refused as replays or out of bounds.
    pub refused: u64,
    /// Its newest entry per group.
    pub groups: BTreeMap<GroupName, GroupBeat>,
    /// Its status, opaque.
    pub summary: Vec<u8>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken; nothing to send.
    Taken,
    /// Taken, and it was a leader's: answer it at once.
    Answer,
    /// Not newer than what was heard already (a second link, or a reordered datagram).
    Duplicate,
    /// Of an incarnation that is over, or longer than allowed.
    Refused,
    /// The sender is no node of this cluster.
    Stranger,
}
