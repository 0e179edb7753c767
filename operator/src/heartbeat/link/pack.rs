//! A heartbeat for a line that may not carry all of it: the groups take turns, the status rides along if there is room.

use crate::core::beat::{GroupBeat, HeartbeatMsg};

/// Longest frame around a datagram of `length` bytes.
pub fn framed(length: usize) -> usize {
    length + length / 254 + 4
}

/// The part of `message` that fits in `room` bytes beside what is there without groups, from the group `cursor` on;
/// where to go on the next time, and how many heartbeats a whole round takes. At least one group always goes.
pub fn pack(message: &HeartbeatMsg, cursor: usize, room: usize) -> (HeartbeatMsg, usize, u32) {
    let all = message.groups.len();
    let mut groups: Vec<GroupBeat> = Vec::new();
    let mut used = 0;
    for beat in message.groups.iter().cycle().skip(cursor.min(all)).take(all) {
        // Plain data: serialisation has no way to fail.
        let size = postcard::to_stdvec(beat).map_or(0, |bytes| bytes.len());
        if used + size > room && !groups.is_empty() {
            break;
        }
        used += size;
        groups.push(beat.clone());
    }
    let taken = groups.len();
    let whole = taken == all && used + message.summary.len() + 2 <= room;
    let summary = if whole { message.summary.clone() } else { Vec::new() };
    let turns = if taken == 0 { 1 } else { all.div_ceil(taken) };
    let next = if all == 0 { 0 } else { (cursor + taken) % all };
    (HeartbeatMsg { groups, summary, ..*message }, next, u32::try_from(turns).unwrap_or(u32::MAX))
}

/// `message` in parts whose groups and status take at most `room` bytes each, a single group or the status whatever it
/// takes. Each group and the status are in exactly one of them; all have the number of the whole.
pub fn split(message: &HeartbeatMsg, room: usize) -> Vec<HeartbeatMsg> {
    let part = || HeartbeatMsg { groups: Vec::new(), summary: Vec::new(), ..*message };
    let (mut parts, mut used) = (vec![part()], 0);
    let mut last = 0;
    for beat in &message.groups {
        // Plain data: serialisation has no way to fail.
        let size = postcard::to_stdvec(beat).map_or(0, |bytes| bytes.len());
        if used + size > room && used > 0 {
            parts.push(part());
            (last, used) = (last + 1, 0);
        }
        used += size;
        parts[last].groups.push(beat.clone());
    }
    if used + message.summary.len() > room && used > 0 && !message.summary.is_empty() {
        parts.push(part());
        last += 1;
    }
    parts[last].summary.clone_from(&message.summary);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::beat::Ack;
    use crate::core::links::LinkBeat;
    use crate::heartbeat::wire::Sealer;
    use crate::spec::link::{SERIAL_BASE, serial_group};
    use baton_replicator::transport::secret::Secret;
    use baton_replicator::types::{BootId, Epoch, GroupName, Instant, NodeName, TermId};
    use std::collections::BTreeMap;

    fn longest_name() -> NodeName {
        NodeName::new("n".repeat(63)).unwrap()
    }

    /// As long as each field can be.
    fn largest(groups: usize) -> HeartbeatMsg {
        let epoch = Epoch { number: u64::MAX, term: TermId(!0) };
        let beat = |i| GroupBeat {
            group: GroupName::new(format!("group-{i:03}")).unwrap(),
            epoch,
            leading: true,
            holds: true,
            released: Some(epoch),
            ask_ms: Some(u32::MAX),
            ready: true,
            state: 200,
            boot: BootId(!0),
            insync_rev: i64::MIN,
            ack: Some(Ack {
                leader: longest_name(),
                incarnation: u64::MAX,
                epoch,
                sent: Instant(u64::MAX),
                promise_ms: u32::MAX,
            }),
        };
        HeartbeatMsg {
            incarnation: u64::MAX,
            seq: u64::MAX,
            sent: Instant(u64::MAX),
            echo: true,
            etcd: true,
            groups: (0..groups).map(beat).collect(),
            summary: vec![7; 300],
        }
    }

    /// `baton check` refuses a line by these bounds, so no heartbeat may exceed them.
    #[test]
    fn the_largest_heartbeat_is_within_the_bounds_of_the_specification() {
        let sealer = Sealer::new(&Secret::new([7; 32]).unwrap(), "demo");
        let links = LinkBeat {
            link: 255,
            stream: u32::MAX,
            number: u64::MAX,
            hears: vec![(longest_name(), u32::MAX)],
        };
        let size = |groups| {
            let (part, ..) = pack(&largest(groups), 0, usize::MAX);
            let part = HeartbeatMsg { summary: Vec::new(), ..part };
            framed(sealer.seal(&sealer.encode(&longest_name(), &part).unwrap(), &links).unwrap().len())
        };
        assert!(size(0) <= SERIAL_BASE, "{}", size(0));
        assert!(size(1) <= SERIAL_BASE + serial_group("group-000"), "{} {}", size(0), size(1));
    }

    #[test]
    fn every_group_has_its_turn_and_none_twice_before_the_others() {
        let message = largest(10);
        let one = postcard::to_stdvec(&message.groups[0]).unwrap().len();
        let mut cursor = 0;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..10 {
            let (part, next, turns) = pack(&message, cursor, one * 3);
            assert_eq!((part.groups.len(), turns), (3, 4));
            assert!(part.summary.is_empty());
            part.groups.iter().for_each(|g| *seen.entry(g.group.to_string()).or_default() += 1);
            cursor = next;
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|n| *n == 3), "{seen:?}");
    }

    /// A packet that the network does not have to cut: the loss of one cut is the loss of all.
    #[test]
    fn a_hundred_groups_take_several_packets_each_of_which_says_something_of_its_own() {
        let sealer = Sealer::new(&Secret::new([7; 32]).unwrap(), "demo");
        let links = LinkBeat { link: 1, stream: 9, number: 1 << 40, hears: vec![(longest_name(), 3); 2] };
        let message = HeartbeatMsg { summary: vec![7; 1000], ..largest(100) };
        let seal = |m: &HeartbeatMsg| {
            sealer.seal(&sealer.encode(&longest_name(), m).unwrap(), &links).unwrap().len()
        };
        assert!(seal(&message) > 20_000, "{}", seal(&message));
        let bare = HeartbeatMsg { groups: Vec::new(), summary: Vec::new(), ..message };
        let room = 1400 - seal(&bare) - 4;
        let parts = split(&message, room);
        assert!(parts.iter().all(|p| seal(p) <= 1400), "{:?}", parts.iter().map(seal).collect::<Vec<_>>());
        let groups: Vec<_> = parts.iter().flat_map(|p| p.groups.clone()).collect();
        assert_eq!(groups, message.groups);
        assert_eq!(parts.iter().filter(|p| !p.summary.is_empty()).count(), 1);
        assert!(
            parts.iter().all(|p| p.seq == message.seq && (!p.groups.is_empty() || !p.summary.is_empty()))
        );
        assert_eq!(split(&largest(2), 100_000), vec![largest(2)]);
        assert_eq!(split(&largest(3), 0).iter().filter(|p| p.groups.len() == 1).count(), 3);
    }

    #[test]
    fn what_fits_goes_whole_and_one_group_always_goes() {
        let message = largest(2);
        assert_eq!(pack(&message, 0, 100_000), (message.clone(), 0, 1));
        let (part, next, turns) = pack(&message, 1, 0);
        assert_eq!((part.groups.len(), &part.groups[0], next, turns), (1, &message.groups[1], 0, 2));
        let (none, ..) = pack(&HeartbeatMsg { groups: Vec::new(), ..message }, 0, 0);
        assert!(none.groups.is_empty());
    }
}
