//! `baton links`: each heartbeat link with its peers, who hears whom, and the timers that the gaps would allow.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::{Cell, Paint, Tone, cell, duration_ms, hanging, table};
use super::print;
use crate::status::{
    ClusterStatus, HeartbeatLinkStatus, HeartbeatPeerStatus, HeartbeatStatus, LinkState, MeasuredGaps,
};
use baton_replicator::types::NodeName;

pub(super) async fn links(client: &ApiClient, format: Format, paint: Paint) -> Result<Exit, CliError> {
    let status: ClusterStatus = client.get("/v1/status").await?;
    print(&format.show(&status.heartbeat, |heartbeat| render(heartbeat, &status.node, paint)))
}

/// The page.
#[must_use]
pub fn render(heartbeat: &HeartbeatStatus, me: &NodeName, paint: Paint) -> String {
    if heartbeat.links.is_empty() {
        return format!(
            "{me} says nothing about heartbeat links: its agent is older, or it is not in the specification.\n"
        );
    }
    let mut out = paint.tone(Tone::Head, &format!("Heartbeat links of {me}")) + "\n";
    let rows: Vec<Vec<Cell>> = heartbeat.links.iter().flat_map(rows).collect();
    let heading = ["LINK", "VIA", "PEER", "STATE", "HEARD", "RECEIVED", "LOST", "LATE", "GAP"];
    out.push_str(&table(paint, 2, &heading, &rows));
    let rows: Vec<Vec<Cell>> = heartbeat.links.iter().filter(|l| l.kind != "none").map(counters).collect();
    out.push_str(&table(paint, 2, &["LINK", "SENT", "DROPPED", "REFUSED", "LAST ERROR"], &rows));
    out.push_str(&paint.tone(Tone::Head, "Who hears whom, by which links"));
    out.push('\n');
    out.push_str(&matrix(heartbeat, paint));
    for link in &heartbeat.links {
        for peer in link.peers.iter().filter(|p| p.one_way) {
            let (hears, deaf) = if peer.state == LinkState::Up { (me, &peer.node) } else { (&peer.node, me) };
            let text =
                format!("{hears} hears {deaf} on {}; {deaf} does not hear {hears} (one-way link)", link.name);
            out.push_str(&paint.tone(Tone::Warn, hanging("  ", &text).trim_end()));
            out.push('\n');
        }
    }
    out.push_str(&hanging("Timers: ", &suggestion(&heartbeat.measured)));
    out
}

fn rows(link: &HeartbeatLinkStatus) -> Vec<Vec<Cell>> {
    let row = |peer: &HeartbeatPeerStatus| {
        let c = &peer.counters;
        vec![
            cell(link.link.to_string()),
            cell(&link.name),
            cell(peer.node.as_str()),
            state(peer),
            cell(c.age_ms.map_or_else(|| "never".into(), |ms| format!("{} ago", duration_ms(ms)))),
            cell(c.received.to_string()),
            cell(c.lost.to_string()),
            cell(c.late.to_string()),
            cell(duration_ms(c.longest_gap_ms)),
        ]
    };
    link.peers.iter().map(row).collect()
}

fn state(peer: &HeartbeatPeerStatus) -> Cell {
    match peer.state {
        _ if peer.one_way => ("one-way".into(), Tone::Warn),
        LinkState::Unknown => cell("unknown"),
        LinkState::Up => ("up".into(), Tone::Good),
        LinkState::Late => ("late".into(), Tone::Warn),
        LinkState::Down => ("down".into(), Tone::Bad),
    }
}

fn counters(link: &HeartbeatLinkStatus) -> Vec<Cell> {
    let c = &link.counters;
    let refused: Vec<String> = c
        .refused
        .iter()
        .filter(|r| r.datagrams > 0)
        .map(|r| format!("{} {}", r.datagrams, r.reason.replace('_', " ")))
        .collect();
    vec![
        cell(link.link.to_string()),
        cell(c.sent.to_string()),
        cell(c.dropped.to_string()),
        cell(if refused.is_empty() { "0".into() } else { refused.join(", ") }),
        cell(link.error.as_deref().unwrap_or("-")),
    ]
}

fn matrix(heartbeat: &HeartbeatStatus, paint: Paint) -> String {
    let mut nodes: Vec<&NodeName> =
        heartbeat.hearing.iter().flat_map(|h| h.hears.iter().map(|n| &n.node).chain([&h.node])).collect();
    nodes.sort();
    nodes.dedup();
    let heading: Vec<String> =
        std::iter::once("HEARS".to_owned()).chain(nodes.iter().map(|n| n.to_string())).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    let rows: Vec<Vec<Cell>> = nodes
        .iter()
        .map(|node| {
            let told = heartbeat.hearing.iter().find(|h| h.node == **node);
            let by = |other: &&NodeName| match told {
                _ if *other == *node => cell("-"),
                None => cell("?"),
                Some(told) => match told.hears.iter().find(|h| h.node == **other) {
                    Some(heard) if !heard.links.is_empty() => {
                        cell(heard.links.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
                    }
                    Some(_) | None => ("not".into(), Tone::Bad),
                },
            };
            std::iter::once(cell(node.as_str())).chain(nodes.iter().map(by)).collect()
        })
        .collect();
    table(paint, 2, &heading, &rows)
}

fn suggestion(m: &MeasuredGaps) -> String {
    let over = humantime::format_duration(std::time::Duration::from_secs(m.over_s));
    let seen = format!("the longest of {} gaps in the last {over} was {} ms", m.gaps, m.worst_ms);
    let faults = match m.silences {
        0 => String::new(),
        n => format!(" ({n} silences of deadtime or longer are left out)"),
    };
    match (m.suggested_warntime_ms, m.suggested_deadtime_ms) {
        (Some(warntime), Some(deadtime)) => format!(
            "{seen}{faults}. That would allow warntime {warntime} ms and deadtime {deadtime} ms; in force are {} ms and {} \
             ms.",
            m.warntime_ms, m.deadtime_ms
        ),
        _ => format!("{seen}{faults}: too few for a suggestion."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn the_page_shows_links_matrix_and_suggestion() {
        let mut heartbeat = fixture::heartbeat();
        heartbeat.links[1].peers[0].one_way = true;
        heartbeat.hearing[1].hears[0].links = vec![1];
        let page = render(&heartbeat, &fixture::node("alpha"), Paint { color: false });
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/golden/links.txt");
        if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &page).expect("written");
        }
        assert_eq!(page, std::fs::read_to_string(golden).unwrap_or_default(), "got:\n{page}");
        assert!(
            page.contains("alpha hears beta on broadcast eth1; beta does not hear alpha (one-way link)"),
            "{page}"
        );
    }

    #[test]
    fn an_older_agent_says_nothing() {
        let page = render(&HeartbeatStatus::default(), &fixture::node("alpha"), Paint { color: false });
        assert!(page.contains("its agent is older"));
    }
}
