//! What happened, as opposed to what lasts: changes of leadership, restarts of services, and those entries of the
//! history that no state covers. Pure: compares one snapshot with the one before.

use super::conditions::capital;
use super::message::spoken;
use crate::core::group::State;
use crate::spec::Severity;
use crate::status::{ClusterStatus, Event, GroupState, GroupStatus};
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// The same entry of the history is told again after this long at the earliest.
const SAME_AGAIN: Duration = Duration::from_secs(3600);
/// Different entries remembered for that; the oldest is forgotten first.
const REMEMBERED: usize = 256;

/// How an agent's history says that it took a specification over (`driver::reload`).
pub const NEW_SPEC: &str = "runs specification version ";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The group, if it concerns one.
    pub group: Option<GroupName>,
    /// How bad.
    pub severity: Severity,
    /// What it is about; the same on every node that notices it.
    pub key: String,
    /// Only this node noticed it.
    pub local: bool,
    /// One line.
    pub title: String,
    /// How long it took, milliseconds.
    pub took_ms: Option<u64>,
    /// What is known.
    pub facts: Vec<String>,
    /// What Baton did.
    pub done: Vec<String>,
    /// What to do now.
    pub advice: Vec<String>,
    /// Wall clock, RFC 3339.
    pub at: String,
}

#[derive(Clone, Debug, Default)]
struct Known {
    leader: Option<NodeName>,
    epoch: u64,
    /// The epoch's leader has been seen serving.
    served: bool,
    /// The group was being stopped or moved on purpose.
    planned: bool,
    why: Option<String>,
    restarts: BTreeMap<String, u32>,
}

/// Remembers what the next snapshot is compared with.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    groups: BTreeMap<GroupName, Known>,
    campaigns: BTreeMap<GroupName, String>,
    told: BTreeMap<String, Instant>,
}

impl Reporter {
    /// What happened between the last snapshot and this one.
    pub fn on_status(&mut self, status: &ClusterStatus) -> Vec<News> {
        let mut news = Vec::new();
        for group in &status.groups {
            let first = !self.groups.contains_key(&group.name);
            let campaign = self.campaigns.get(&group.name).cloned();
            let known = self.groups.entry(group.name.clone()).or_default();
            if first {
                known.leader = group.leader.clone();
                known.epoch = group.epoch.number;
                known.served = group.leader.is_some();
            }
            news.extend(known.leadership(status, group, campaign));
            news.extend(known.services(status, group));
        }
        news
    }

    /// An entry of this node's history.
    pub fn on_event(&mut self, event: &Event, now: Instant) -> Option<News> {
        let campaigning = format!("-> {}: ", State::Campaigning.word());
        if let (Some(group), Some((_, why))) = (&event.group, event.message.split_once(&campaigning)) {
            self.campaigns.insert(group.clone(), why.to_owned());
        }
        let severity = match event.severity.as_str() {
            "critical" => Severity::Critical,
            "warning" => Severity::Warning,
            _ => Severity::Info,
        };
        if let Some(rest) = event.message.strip_prefix(NEW_SPEC) {
            return Some(new_spec(event, rest));
        }
        let asked = event.message.starts_with("asked for: ");
        if (severity == Severity::Info && !asked) || covered(&event.message) {
            return None;
        }
        // Numbers differ from one occurrence to the next of the same thing.
        let same: String = event.message.chars().filter(|c| !c.is_ascii_digit()).collect();
        let name = event.group.as_ref().map_or("cluster", GroupName::as_str);
        let same = format!("{name} {same}");
        if !asked {
            if self.told.get(&same).is_some_and(|at| now.since(*at) < SAME_AGAIN) {
                return None;
            }
            if self.told.len() >= REMEMBERED
                && let Some(oldest) = self.told.iter().min_by_key(|(_, at)| **at).map(|(k, _)| k.clone())
            {
                self.told.remove(&oldest);
            }
            self.told.insert(same, now);
        }
        let whom = event.group.as_ref().map_or_else(|| event.node.to_string(), ToString::to_string);
        Some(News {
            group: event.group.clone(),
            severity,
            key: format!("{name}/event/{}/{}", event.node, event.at),
            local: true,
            title: format!("{whom}: {}", event.message),
            took_ms: None,
            facts: vec![format!("Reported by {}", event.node)],
            done: Vec::new(),
            advice: Vec::new(),
            at: event.at.clone(),
        })
    }
}

/// Every agent says when it runs a new specification; it is told once.
fn new_spec(event: &Event, rest: &str) -> News {
    let (version, words) = rest.split_once(": ").unwrap_or((rest, ""));
    News {
        group: None,
        severity: Severity::Info,
        key: format!("specification/{version}"),
        local: false,
        title: format!("specification version {version} runs"),
        took_ms: None,
        facts: (!words.is_empty()).then(|| capital(words)).into_iter().collect(),
        done: Vec::new(),
        advice: Vec::new(),
        at: event.at.clone(),
    }
}

/// Told as a state or as a change of leadership already, or settled by itself within moments.
fn covered(message: &str) -> bool {
    let transition = State::ALL.iter().any(|s| message.contains(&format!("-> {}: ", s.word())));
    transition
        || message.starts_with("removes from the in-sync set")
        || message.starts_with("etcd did not answer")
        || message.ends_with("this node may not serve now")
}

impl Known {
    fn leadership(
        &mut self,
        status: &ClusterStatus,
        group: &GroupStatus,
        campaign: Option<String>,
    ) -> Option<News> {
        let epoch = group.epoch.number;
        let moving = matches!(group.state, GroupState::Stopping | GroupState::HandingOver);
        if epoch == self.epoch {
            if moving && self.served && !group.reason.is_empty() {
                self.why = Some(group.reason.clone());
            }
            self.planned |= (moving && self.served) || group.target.is_some();
            self.served |= group.state == GroupState::Serving;
            return None;
        }
        // A new epoch counts once its leader serves; one that never does is told as a state.
        if epoch < self.epoch || group.state != GroupState::Serving {
            return None;
        }
        let new = group.leader.clone()?;
        let before = std::mem::take(self);
        *self = Self { leader: Some(new.clone()), epoch, served: true, ..Self::default() };
        let detail = group.last_takeover.as_ref().filter(|t| t.epoch.number == epoch);
        let g = &group.name;
        let old = before.leader.filter(|l| *l != new);
        let kind = match detail.map(|t| t.kind.as_str()) {
            Some(kind) => kind,
            None if before.planned => "handover",
            None if before.epoch == 0 => "first start",
            None => "takeover",
        };
        let took_ms = detail.map(|t| t.total_ms);
        let took =
            took_ms.map_or_else(String::new, |ms| format!(" in {}", spoken(Duration::from_millis(ms))));
        let (severity, title) = match (kind, &old) {
            ("resume", _) => return None,
            ("takeover", Some(old)) => (Severity::Warning, format!("{g}: {new} took over from {old}{took}")),
            ("takeover", None) => (Severity::Warning, format!("{g}: {new} took over{took}")),
            ("handover", Some(old)) => {
                (Severity::Info, format!("{g}: handed over from {old} to {new}{took}"))
            }
            ("first start", _) => (Severity::Info, format!("{g}: {new} serves, first start{took}")),
            (_, _) => (Severity::Info, format!("{g}: {new} serves{took}")),
        };
        let mut news = News {
            group: Some(g.clone()),
            severity,
            key: format!("{g}/leader/{epoch}"),
            local: false,
            title,
            took_ms,
            facts: vec![format!(
                "{new} serves {g} with epoch {epoch}, {} by the host's clock",
                detail.map_or(status.at.as_str(), |t| t.at.as_str())
            )],
            done: Vec::new(),
            advice: Vec::new(),
            at: detail.map_or_else(|| status.at.clone(), |t| t.at.clone()),
        };
        if kind == "takeover" {
            if let Some(why) = campaign.filter(|_| detail.is_some()) {
                news.facts.push(format!("Why: {why}"));
            }
        } else if let Some(why) = before.why {
            news.facts.push(format!("Why: {why}"));
        }
        if let Some(t) = detail.filter(|t| !t.steps.is_empty()) {
            let steps: Vec<String> = t.steps.iter().map(|s| format!("{} {} ms", s.step, s.ms)).collect();
            news.done.push(format!("Steps: {}", steps.join(", ")));
        }
        news.done.push(format!("Addresses on {new}: {}", words(&group.addresses)));
        let ready: Vec<&str> =
            group.nodes.iter().filter(|n| n.ready && n.node != new).map(|n| n.node.as_str()).collect();
        if ready.is_empty() {
            news.facts.push(format!("Nobody could take over from {new} now"));
            if let Some(old) = old.filter(|_| kind == "takeover") {
                news.advice.push(format!(
                    "see why {old} failed and bring it back: it is brought up to date by itself; do not stop {new} before"
                ));
            }
        } else {
            news.facts.push(format!("Ready to take over from {new}: {}", ready.join(", ")));
        }
        Some(news)
    }

    /// Restarts in place, counted exactly only where the group runs.
    fn services(&mut self, status: &ClusterStatus, group: &GroupStatus) -> Vec<News> {
        if group.leader.as_ref() != Some(&status.node) {
            self.restarts.clear();
            return Vec::new();
        }
        let mut news = Vec::new();
        for s in &group.services {
            let before = self.restarts.insert(s.name.clone(), s.restarts);
            if before.is_none_or(|n| s.restarts <= n) {
                continue;
            }
            let g = &group.name;
            let mut facts =
                vec![format!("Restarts in place since the group started on {}: {}", status.node, s.restarts)];
            facts.extend(s.error.as_ref().map(|e| capital(e.trim())));
            news.push(News {
                group: Some(g.clone()),
                severity: Severity::Warning,
                key: format!("{g}/restart/{}/{}/{}", s.name, group.epoch.number, s.restarts),
                local: true,
                title: format!("{g}: service {} was restarted on {}", s.name, status.node),
                took_ms: None,
                facts,
                done: vec!["it was started again in its place; too many restarts move the group".into()],
                advice: vec![format!("docker logs {}", s.container)],
                at: status.at.clone(),
            });
        }
        news
    }
}

fn words(all: &[String]) -> String {
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
