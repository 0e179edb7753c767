//! Heartbeat datagrams: from strangers, and from peers that hold the secret and say anything, in any order.
//!
//! ```text
//! 1 byte: beta leads, or stands by. Then, as long as there is any:
//! 1 byte: how the datagram is made; 1 byte: milliseconds until it comes; 2 bytes: length; its bytes
//! ```

use crate::core::beat::HeartbeatMsg;
use crate::core::links::LinkBeat;
use crate::core::promises::{HeartbeatCore, Intent, Part, Verdict};
use crate::core::rules::Rules;
use crate::core::timing::Timers;
use crate::heartbeat::wire::{Opened, Refused, Sealer};
use baton_replicator::transport::secret::Secret;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName, TermId};
use std::time::Duration;

/// The incarnation for which the corpus has acknowledgements.
const INCARNATION: u64 = 12;
const EPOCH: Epoch = Epoch { number: 3, term: TermId(7) };

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

struct Stage {
    sealer: Sealer,
    core: HeartbeatCore,
    group: GroupName,
    now: Instant,
    timers: Timers,
    leads: bool,
}

/// beta hears alpha and gamma. Nobody without the secret is taken for anybody, a datagram counts once, epochs only grow, a
/// promise that was given stands for deadtime, and a leader that has heard of a later epoch serves no more.
///
/// # Panics
/// One of these does not hold.
pub fn heartbeats(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut stage = Stage::new(first % 2 == 1);
    while let Some((head, more)) = rest.split_at_checked(4) {
        let len = usize::from(u16::from_le_bytes([head[2], head[3]])).min(more.len());
        let (bytes, after) = more.split_at(len);
        rest = after;
        stage.now = stage.now.plus(Duration::from_millis(head[1].into()));
        stage.datagram(head[0] % 4, bytes);
    }
}

impl Stage {
    fn new(leads: bool) -> Self {
        let (timers, now) = (Timers::default(), Instant(1_000_000_000));
        let group = GroupName::new("web").expect("a name");
        let peers = ["alpha", "gamma"].map(node);
        let groups = [(group.clone(), Instant::ZERO)];
        let mut core =
            HeartbeatCore::new(node("beta"), INCARNATION, timers, Rules::default(), peers, groups, now);
        let part = if leads {
            let members = vec![node("alpha")];
            Part::Leader {
                members,
                others: Vec::new(),
                lease_until: None,
                serve: true,
                busy: false,
                ask: None,
            }
        } else {
            Part::Standby { acknowledge: true, long_promise: Duration::ZERO }
        };
        let epoch = if leads { EPOCH } else { Epoch::ZERO };
        core.set_intent(&group, Intent { epoch, part, ..Intent::silent() });
        let secret = Secret::new([7; 32]).expect("long enough");
        Self { sealer: Sealer::new(&secret, "demo"), core, group, now, timers, leads }
    }

    fn datagram(&mut self, made: u8, bytes: &[u8]) {
        self.core.vouch(self.now, true);
        let datagram = match made {
            // As it came: a stranger's, unless it is a whole one.
            0 => bytes.to_vec(),
            // What somebody with the secret sends.
            1 | 2 => self.sealer.seal_content(bytes),
            _ => return self.tick(),
        };
        let opened = self.sealer.open(&datagram);
        if made == 0 && opened.is_err() {
            assert_ne!(opened, Err(Refused::Content), "nothing is decoded before it is authenticated");
        }
        let Ok(Opened { from, message, links }) = opened else { return };
        self.again(&from, &message, links.unwrap_or_else(no_links));
        let before = self.core.facts(&self.group, self.now);
        let verdict = self.core.on_datagram(&from, message.clone(), self.now);
        let facts = self.core.facts(&self.group, self.now);
        let known = ["alpha", "gamma"].contains(&from.as_str());
        assert_eq!(verdict == Verdict::Stranger, !known);
        assert!(facts.highest.number >= before.highest.number, "an epoch was forgotten");
        if verdict == Verdict::Answer {
            assert!(!self.leads, "a leader acknowledges nobody");
            assert!(facts.promised_until >= self.now.plus(self.timers.deadtime), "{facts:?}");
        }
        if self.leads && facts.highest.number > EPOCH.number {
            assert_eq!(self.core.serve_until(&self.group, self.now), None, "overruled");
        }
        let replay = self.core.on_datagram(&from, message, self.now);
        assert!(
            matches!(replay, Verdict::Stranger | Verdict::Refused | Verdict::Duplicate),
            "a datagram counts once: {replay:?}"
        );
    }

    /// What beta itself sends next is in bounds, whatever it has heard.
    fn tick(&mut self) {
        for (_, message) in self.core.tick(self.now) {
            assert!(message.in_bounds());
            assert!(self.again(&node("beta"), &message, no_links()), "it fits into a datagram");
        }
    }

    /// What is sent is what is read. Whether it fits: with additions that were not there, it may not.
    fn again(&self, from: &NodeName, message: &HeartbeatMsg, links: LinkBeat) -> bool {
        let encoded = self.sealer.encode(from, message).expect("every message can be written");
        let Some(sealed) = self.sealer.seal(&encoded, &links) else { return false };
        let whole = Opened { from: from.clone(), message: message.clone(), links: Some(links) };
        assert_eq!(self.sealer.open(&sealed), Ok(whole));
        true
    }
}

fn no_links() -> LinkBeat {
    LinkBeat { link: 0, stream: 1, number: 1, hears: Vec::new() }
}
