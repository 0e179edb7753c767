//! What enforces serve-until on this node: nftables, or lifetimes of addresses alone, for status, and the watchdog, which
//! is started here; and who else says that an address of this node is theirs.

use super::config::Config;
use super::history::History;
use crate::causes::chain;
use crate::core::group::Severity;
use crate::heartbeat::{LinkCounters, clock};
use crate::net::frames::mac_text;
use crate::net::gate::GateState;
use crate::net::{AddressKeeper, AddressState};
use crate::status::{ClusterStatus, FencedBy, FencingStatus};
use crate::watchdog::rule::{Facts, Held, Verdict};
use crate::watchdog::{Watchdog, instant};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Behind serve-until: the resolution of the kernel's timeouts, and a timer that is late.
const BY_NFTABLES: Duration = Duration::from_millis(50);
/// A lifetime of 1 s, and 1.25 s of the kernel's rounding.
const BY_LIFETIME: Duration = Duration::from_millis(2250);

/// Of a summary's number: there is a watchdog.
const WATCHDOG: u8 = 16;

/// The number that a heartbeat's summary carries; 0 is that of an agent which does not say.
#[must_use]
pub fn number(fencing: &FencingStatus) -> u8 {
    let by = match fencing.by {
        FencedBy::Nftables => 1,
        FencedBy::AddressLifetime => 2,
    };
    by + if fencing.watchdog { WATCHDOG } else { 0 }
}

/// What another node's number says.
#[must_use]
pub fn of_number(number: u8) -> Option<FencingStatus> {
    let by = match number & (WATCHDOG - 1) {
        1 => FencedBy::Nftables,
        2 => FencedBy::AddressLifetime,
        _ => return None,
    };
    Some(FencingStatus { watchdog: number & WATCHDOG != 0, ..of(by, None, 0) })
}

fn of(by: FencedBy, reason: Option<String>, restored: u64) -> FencingStatus {
    let bound = match by {
        FencedBy::Nftables => BY_NFTABLES,
        FencedBy::AddressLifetime => BY_LIFETIME,
    };
    FencingStatus { by, bound_ms: super::snapshot::millis(bound), reason, restored, watchdog: false }
}

/// Puts this node's own part into the snapshot, with advice where a person is needed.
pub(super) fn put_into(
    status: &mut ClusterStatus,
    gate: (GateState, u64),
    addresses: &[AddressState],
    watchdog: &WatchdogState,
) {
    let (state, restored) = gate;
    let mut fencing = match state {
        GateState::InForce => of(FencedBy::Nftables, None, restored),
        GateState::Missing(why) => of(FencedBy::AddressLifetime, Some(why), restored),
    };
    if let Some(why) = &fencing.reason
        && status.groups.iter().any(|g| !g.addresses.is_empty())
    {
        status.advice.push(format!(
            "nftables does not fence {} ({why}): should its agent hang while it leads, its addresses may answer for \
             {:.2} s longer than it may serve; give the agent NET_ADMIN and the kernel nf_tables with nft_fib_inet",
            status.node,
            BY_LIFETIME.as_secs_f64()
        ));
    }
    for address in addresses {
        if let Some(mac) = address.conflict {
            status.advice.push(format!(
                "{} of group {} is also claimed by the machine with the hardware address {}: find it and take the \
                 address off it",
                address.address,
                address.group,
                mac_text(mac)
            ));
        }
    }
    match watchdog {
        Ok(None) => {}
        Ok(Some(watchdog)) => {
            fencing.watchdog = true;
            let verdict = watchdog.verdict();
            if !verdict.feeds() {
                status
                    .advice
                    .push(format!("the watchdog of {} is {verdict}: the host will be reset", status.node));
            }
        }
        Err(why) => status.advice.push(format!("{} has no watchdog although it should: {why}", status.node)),
    }
    let me = status.node.clone();
    if let Some(node) = status.nodes.iter_mut().find(|n| n.name == me) {
        node.fencing = Some(fencing);
    }
}

/// The watchdog, if one was asked for, or why there is none.
pub(super) type WatchdogState = Result<Option<Watchdog>, String>;

/// What the watchdog looks at.
pub(super) struct Watched {
    /// The addresses.
    pub keeper: Arc<AddressKeeper>,
    /// The heartbeat thread's counters.
    pub counters: Arc<LinkCounters>,
    /// When the decision core ran last.
    pub ran: Arc<AtomicU64>,
    /// At the start of the agent.
    pub warntime: Duration,
}

/// Starts the watchdog that the command line asks for. One that cannot be had is told, and the agent goes on without:
/// the service is worth more than its last fence.
pub(super) fn watchdog(config: &Config, watched: Watched, history: &History) -> WatchdogState {
    let Some(path) = &config.watchdog else { return Ok(None) };
    let look = move || Facts {
        now: clock::now(),
        beat: instant(&watched.counters.beat),
        ran: instant(&watched.ran),
        warntime: watched.warntime,
        held: watched.keeper.held_until().into_iter().map(|(group, until)| Held { group, until }).collect(),
    };
    let teller = history.clone();
    let tell = move |verdict: &Verdict| {
        let severity = if verdict.feeds() { Severity::Info } else { Severity::Critical };
        teller.record(None, severity, &format!("the watchdog is {verdict}"));
    };
    let started = Watchdog::start(path, config.watchdog_timeout, Box::new(look), Box::new(tell));
    match started {
        Ok(watchdog) => {
            let timeout =
                watchdog.timeout.map_or("a timeout of its own".to_owned(), |t| format!("{} s", t.as_secs()));
            tracing::info!(device = %path.display(), %timeout, "the watchdog is armed");
            Ok(Some(watchdog))
        }
        Err(error) => {
            let why = chain(&error);
            history.record(None, Severity::Critical, &why);
            Err(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::healthy;

    #[test]
    fn a_node_says_what_fences_it_and_what_to_do() {
        let mut status = healthy();
        put_into(&mut status, (GateState::InForce, 3), &[], &Ok(None));
        let mine =
            |s: &ClusterStatus| s.nodes.iter().find(|n| n.name == s.node).and_then(|n| n.fencing.clone());
        let own = mine(&status).expect("own");
        assert_eq!((own.by, own.bound_ms, own.restored, own.reason), (FencedBy::Nftables, 50, 3, None));
        assert_eq!(status.advice, healthy().advice);

        put_into(&mut status, (GateState::Missing("Operation not permitted".into()), 3), &[], &Ok(None));
        let own = mine(&status).expect("own");
        assert_eq!((own.by, own.bound_ms), (FencedBy::AddressLifetime, 2250));
        let advice = status.advice.last().expect("advice");
        assert!(advice.contains("Operation not permitted") && advice.contains("2.25 s"), "{advice}");

        let mut none = healthy();
        none.groups.iter_mut().for_each(|g| g.addresses.clear());
        put_into(&mut none, (GateState::Missing("x".into()), 0), &[], &Ok(None));
        assert_eq!(none.advice, healthy().advice, "nothing to fence, nothing to do");
    }

    #[test]
    fn another_machine_with_the_address_is_named() {
        let mut status = healthy();
        let address = AddressState {
            group: status.groups[0].name.clone(),
            address: "10.77.0.100".parse().unwrap(),
            prefix: 24,
            up: true,
            interface: None,
            carrier: true,
            conflict: Some([2, 0, 0, 0, 0, 9]),
            error: None,
        };
        put_into(&mut status, (GateState::InForce, 0), &[address], &Err("no such device".into()));
        assert!(status.advice.iter().any(|a| a.contains("10.77.0.100") && a.contains("02:00:00:00:00:09")));
        assert!(status.advice.iter().any(|a| a.contains("no watchdog") && a.contains("no such device")));
    }

    #[test]
    fn numbers_come_back() {
        for by in [FencedBy::Nftables, FencedBy::AddressLifetime] {
            for watchdog in [false, true] {
                let fencing = FencingStatus { watchdog, ..of(by, None, 0) };
                assert_eq!(of_number(number(&fencing)), Some(fencing));
            }
        }
        assert_eq!((of_number(0), of_number(77)), (None, None));
    }
}
