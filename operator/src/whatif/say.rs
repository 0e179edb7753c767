//! What comes out of the model, in sentences.

use super::fault::{self, Fault};
use super::{Forecast, Said, Verdict, scene};
use crate::core::whatif::{Cut, EPOCH, Outlook, Way, Won};
use crate::status::{ClusterStatus, GroupState, GroupStatus};
use baton_replicator::types::NodeName;

/// One group's future in words. `start` is the node of a recorded start and how long it took.
pub(super) fn forecast(
    status: &ClusterStatus,
    group: &GroupStatus,
    faults: &[Fault],
    cut: &Cut,
    outlook: Outlook,
    start: Option<(NodeName, u64)>,
) -> Forecast {
    let verdict = match (&outlook.before, &outlook.after) {
        (Some(before), Some(after)) if before != after => Verdict::Takeover,
        (Some(_), Some(_)) if outlook.gaps.is_empty() => Verdict::GoesOn,
        (Some(_), Some(_)) => Verdict::Pause,
        (Some(_), None) => Verdict::Stops,
        (None, None) => Verdict::StaysDown,
        (None, Some(_)) => Verdict::Starts,
    };
    let won = outlook.won.clone().filter(|w| Some(&w.node) == outlook.after.as_ref());
    let (start_of, start_ms) = start.filter(|_| won.is_some()).unzip();
    let serves_ms = won.as_ref().zip(start_ms).map(|(w, start)| w.at_ms + start);
    let data = group.settings.data;
    let writes_wait_ms = outlook.removed.iter().map(|r| r.1).max().filter(|_| data);
    let because = because(status, group, &outlook);
    let summary = match verdict {
        Verdict::GoesOn => goes_on(status, faults, cut, &outlook, writes_wait_ms),
        Verdict::Takeover | Verdict::Starts => took_over(&outlook, won.as_ref(), serves_ms, data),
        Verdict::Pause => pause(&outlook),
        Verdict::Stops => stops(&outlook, &because),
        Verdict::StaysDown => format!("nobody serves it, and that stays so{}", tail(&because)),
    };
    let said = |m: &crate::core::whatif::Moment| Said {
        at_ms: m.at_ms,
        node: m.node.clone(),
        text: epochs(&m.text, group.epoch.number),
    };
    Forecast {
        group: group.name.clone(),
        verdict,
        summary: not_as_it_is(group, &outlook).unwrap_or_default() + &summary,
        before: outlook.before.clone(),
        after: outlook.after.clone(),
        leads_ms: won.map(|w| w.at_ms),
        start_ms,
        start_of,
        serves_ms,
        writes_wait_ms,
        in_sync: outlook.members.clone(),
        because,
        timeline: outlook.moments.iter().map(said).collect(),
    }
}

/// The model counts epochs from its own; people know the group's. Term ids are made up there and left out.
fn epochs(text: &str, real: u64) -> String {
    let mut pieces = text.split("epoch ");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(digits);
        out.push_str("epoch ");
        match number.parse::<u64>() {
            Ok(n) => {
                let term = |c: char| c == '-' || c.is_ascii_hexdigit();
                out.push_str(&real.saturating_add(n).saturating_sub(EPOCH).to_string());
                out.push_str(rest.strip_prefix('-').map_or(rest, |r| r.trim_start_matches(term)));
            }
            Err(_) => out.push_str(piece),
        }
    }
    out
}

/// To the nearest tenth.
fn seconds(ms: u64) -> String {
    let tenths = (ms + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

fn names(nodes: &[NodeName]) -> String {
    let all: Vec<&str> = nodes.iter().map(|n| n.as_str()).collect();
    format!("{{{}}}", all.join(", "))
}

fn server(node: Option<&NodeName>) -> &str {
    node.map_or("nobody", |n| n.as_str())
}

/// What the model cannot know: the group is not served although nothing speaks against it.
fn not_as_it_is(group: &GroupStatus, outlook: &Outlook) -> Option<String> {
    let serving = group.state == GroupState::Serving;
    let leads = outlook.before.is_some() && outlook.before == group.leader;
    (leads && !serving).then(|| {
        let state = crate::cli::words::group_state(group.state);
        format!("(it is {state} on {} now; once it serves:) ", server(group.leader.as_ref()))
    })
}

fn goes_on(
    status: &ClusterStatus,
    faults: &[Fault],
    cut: &Cut,
    outlook: &Outlook,
    wait: Option<u64>,
) -> String {
    let who = server(outlook.after.as_ref());
    if let Some((gone, at)) = outlook.removed.last() {
        let waits = wait.map(|_| ", until then writes wait").unwrap_or_default();
        let rest = names(&outlook.members);
        return format!(
            "{who} goes on; {gone} leaves the in-sync set after {}{waits}; in-sync set then {rest}",
            seconds(*at)
        );
    }
    if cut.all_etcd {
        return format!("{who} goes on; changes of leadership wait until etcd is back");
    }
    let down: Vec<usize> =
        faults.iter().filter_map(|f| if let Fault::Link(n) = f { Some(*n) } else { None }).collect();
    let left: Vec<String> =
        (1..=fault::links(status)).filter(|n| !down.contains(n)).map(|n| n.to_string()).collect();
    if !down.is_empty() && !left.is_empty() {
        return format!("nothing moves: {who} goes on, heartbeats go on over link {}", left.join(" and "));
    }
    format!("nothing moves: {who} goes on")
}

fn took_over(outlook: &Outlook, won: Option<&Won>, serves: Option<u64>, data: bool) -> String {
    let who = server(outlook.after.as_ref());
    let Some(won) = won else { return format!("{who} serves it") };
    let rule = match won.way {
        Way::Silence => "deadtime",
        Way::KeyGone => "the leader key is gone",
        Way::Handover => "handed over",
    };
    let serves = match serves {
        Some(ms) => format!("serves about {} after the fault", seconds(ms)),
        None => "how long it then needs to start is unknown: no start of it is recorded".into(),
    };
    let set = if data { format!("; in-sync set then {}", names(&outlook.members)) } else { String::new() };
    format!("{who} takes over after {} ({rule}), {serves}{set}", seconds(won.at_ms))
}

fn pause(outlook: &Outlook) -> String {
    let who = server(outlook.after.as_ref());
    match outlook.gaps.first() {
        Some((from, Some(to))) => {
            format!("{who} is fenced after {} and serves again after {}", seconds(*from), seconds(*to))
        }
        _ => format!("{who} is interrupted"),
    }
}

fn stops(outlook: &Outlook, because: &[String]) -> String {
    let from = seconds(outlook.gaps.last().map_or(0, |g| g.0));
    let Some(before) = &outlook.before else { return format!("nobody serves it{}", tail(because)) };
    // It is there, and may not: what it lacks is the reason.
    if let Some(reason) = outlook.reasons.get(before) {
        let own = format!("{before}: ");
        let others: Vec<String> = because.iter().filter(|b| !b.starts_with(&own)).cloned().collect();
        return format!("{before} stops serving after {from}: {reason}; nobody takes over{}", tail(&others));
    }
    let late = outlook.gaps.last().is_some_and(|g| g.0 > 100);
    let end = if late { format!("{before} stops serving after {from}, ") } else { String::new() };
    format!("{end}nobody takes over{}; it waits for {before}", tail(because))
}

fn tail(because: &[String]) -> String {
    if because.is_empty() { String::new() } else { format!(": {}", because.join("; ")) }
}

/// Why each node whose agent is left does not serve it. What the node itself says of its data is better than the model's
/// sentence.
fn because(status: &ClusterStatus, group: &GroupStatus, outlook: &Outlook) -> Vec<String> {
    if outlook.after.is_some() {
        return Vec::new();
    }
    let one = |(node, reason): (&NodeName, &String)| {
        if group.settings.data && !group.in_sync.contains(node) {
            return format!("{node} {}", behind(status, group, node));
        }
        format!("{node}: {reason}")
    };
    outlook.reasons.iter().map(one).collect()
}

fn behind(status: &ClusterStatus, group: &GroupStatus, node: &NodeName) -> String {
    let leads = group.leader.as_ref() == Some(&status.node);
    let peers = group.volumes.iter().flat_map(|v| &v.peers).filter(|p| p.node == *node);
    let lacks: u64 = peers.map(|p| p.dirty_bytes).sum();
    let part = group.nodes.iter().find(|p| p.node == *node);
    match part.and_then(|p| p.resync_percent) {
        _ if leads && lacks > 0 => format!("is not in sync: its replica lacks {}", size(lacks)),
        Some(percent) => format!("is not in sync: its resync is at {percent:.1} %"),
        None => "is not in sync".into(),
    }
}

/// In the largest unit that leaves at least one.
fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let found = units.into_iter().find(|(unit, _)| bytes >= *unit);
    found.map_or(format!("{bytes} bytes"), |(unit, word)| format!("{} {word}", bytes / unit))
}

/// What every forecast takes for granted, and what this one does.
pub(super) fn assumptions(status: &ClusterStatus, faults: &[Fault]) -> Vec<String> {
    let mut all = vec![
        "the fault strikes right after a heartbeat and a renewal of the lease: times are the longest, not the average"
            .to_owned(),
        "a start takes as long as the newest one recorded; services come up, and nothing else fails".into(),
    ];
    let takes_a_host = faults.iter().any(|f| matches!(f, Fault::Node(_) | Fault::Cable(_)));
    match scene::majority_lost(status, faults) {
        _ if !takes_a_host || faults.contains(&Fault::Etcd) => {}
        Some(true) => all.push("etcd loses its majority with these hosts".into()),
        Some(false) => all.push(
            "etcd keeps its majority, by the addresses of its endpoints; an election there is not counted"
                .into(),
        ),
        None => all.push("etcd keeps its majority: its endpoints do not say where its members run".into()),
    }
    let silent: Vec<&str> = status.nodes.iter().filter(|n| !n.alive).map(|n| n.name.as_str()).collect();
    if !silent.is_empty() {
        all.push(format!("{} is not heard and taken for switched off", silent.join(", ")));
    }
    if !status.etcd.reachable {
        all.push(format!("{} cannot reach etcd: who is in sync is what it read there last", status.node));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::epochs;

    #[test]
    fn epochs_are_counted_from_the_groups_own() {
        assert_eq!(epochs("took over (epoch 8-00000000)", 41), "took over (epoch 42)");
        assert_eq!(epochs("epoch 8-0000abcd serves", 7), "epoch 8 serves");
        assert_eq!(epochs("deposed: epoch 9 was heard, epoch x", 7), "deposed: epoch 9 was heard, epoch x");
        assert_eq!(epochs("no number", 7), "no number");
    }
}
