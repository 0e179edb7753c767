//! Verifies as desired state: what is asked for stands in etcd, the agent beside the primary carries it out and writes
//! down what came of it. Pure: one function says what that agent should do next.
//!
//! ```text
//! asked ─► begun on the primary ─► progress every few seconds ─► ended (done, stopped, aborted)
//! ```
//! A takeover in between begins it anew on the next primary, under the same id. If no primary can begin it within
//! `PATIENCE_S`, it is given up and says why.

use baton_replicator::api::{VerifyRequest, VerifyState, VerifyStatus};
use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};

/// Seconds between two reports of progress: often enough for people, 720 small writes to etcd in an hour.
const REPORT_S: u64 = 5;
/// Seconds between two attempts to begin.
const RETRY_S: u64 = 5;
/// Seconds after which a verify that nobody can begin is given up.
const PATIENCE_S: u64 = 600;
/// Seconds after its time of day within which a scheduled verify begins; later it waits for the next day.
const LATE_S: u64 = 3600;
const DAY_S: u64 = 86_400;

/// The key `volumes/<volume>/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// Names the run.
    pub id: u64,
    /// Copy what differs.
    pub repair: bool,
    /// The node whose agent was asked, or `schedule`.
    pub by: String,
    /// When it was asked for, seconds since 1970.
    pub asked_at: u64,
    /// It should end now.
    #[serde(default)]
    pub stop: bool,
    /// The node that carries it out.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// How it stands, as that node reported last.
    #[serde(default)]
    pub status: Option<VerifyStatus>,
    /// When it ended, seconds since 1970.
    #[serde(default)]
    pub ended_at: Option<u64>,
}

impl VerifyRecord {
    /// It is asked for and has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ended_at.is_none()
    }

    fn ended(&self, me: &NodeName, now: u64, status: VerifyStatus) -> Self {
        Self { node: Some(me.clone()), status: Some(status), ended_at: Some(now), ..self.clone() }
    }

    fn unbegun(&self, state: VerifyState, reason: String) -> VerifyStatus {
        let (id, repair, reason) = (self.id, self.repair, Some(reason));
        VerifyStatus { id, repair, state, reason, ..VerifyStatus::default() }
    }
}

/// When a volume verifies by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// From one to the next, seconds.
    pub every_s: u64,
    /// Time of day, minutes after midnight UTC; none: whenever it is due.
    pub at_min: Option<u32>,
    /// Copy what differs.
    pub repair: bool,
}

impl Schedule {
    /// Whether one should begin now. `last` is when the last one was asked for; `since` is when this agent started.
    #[must_use]
    pub fn due(&self, last: Option<u64>, since: u64, now: u64) -> bool {
        let Some(at) = self.at_min else {
            return last.is_none_or(|last| now >= last.saturating_add(self.every_s));
        };
        // Half a day early is no reason to skip a week; the very first one waits for its time of day, too.
        let earliest = last.map_or(since, |last| last.saturating_add(self.every_s.saturating_sub(DAY_S / 2)));
        let today = now / DAY_S * DAY_S + u64::from(at) * 60;
        let begun = if today <= now { Some(today) } else { today.checked_sub(DAY_S) };
        begun.is_some_and(|begun| begun >= earliest && now - begun < LATE_S)
    }
}

/// What the agent beside the primary knows.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// The record, if there is one.
    pub record: Option<&'a VerifyRecord>,
    /// The replicator's running or last verify.
    pub here: Option<&'a VerifyStatus>,
    /// The schedule.
    pub schedule: Option<&'a Schedule>,
    /// Seconds since 1970.
    pub now: u64,
    /// When this agent started.
    pub since: u64,
    /// When progress was reported last, or beginning was tried last, by this agent.
    pub acted: u64,
    /// Why beginning failed last.
    pub refused: Option<&'a str>,
    /// A number that was never used before.
    pub fresh_id: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Write a new record.
    Ask(VerifyRecord),
    /// Tell the replicator to begin.
    Begin(VerifyRequest),
    /// Tell the replicator to stop.
    Stop,
    /// Write what is known.
    Report(VerifyRecord),
}

/// The next step.
#[must_use]
pub fn step(f: &Facts<'_>) -> Step {
    let Some(record) = f.record.filter(|r| r.is_open()) else {
        let last = f.record.map(|r| r.asked_at);
        return match f.schedule {
            Some(schedule) if schedule.due(last, f.since, f.now) => Step::Ask(VerifyRecord {
                id: f.fresh_id,
                repair: schedule.repair,
                by: "schedule".into(),
                asked_at: f.now,
                ..VerifyRecord::default()
            }),
            _ => Step::Wait,
        };
    };
    match f.here {
        Some(here) if here.id == record.id && !here.state.is_running() => {
            Step::Report(record.ended(f.me, f.now, here.clone()))
        }
        Some(here) if here.id == record.id && record.stop => Step::Stop,
        Some(here) if here.id == record.id => {
            let news = record.node.as_ref() != Some(f.me) || f.now.saturating_sub(f.acted) >= REPORT_S;
            if news && record.status.as_ref() != Some(here) {
                let (node, status) = (Some(f.me.clone()), Some(here.clone()));
                Step::Report(VerifyRecord { node, status, ..record.clone() })
            } else {
                Step::Wait
            }
        }
        _ if record.stop => {
            let status = record.unbegun(VerifyState::Stopped, "by command, before it had begun here".into());
            Step::Report(record.ended(f.me, f.now, status))
        }
        // Of an agent or a person that is not served by this record any more.
        Some(here) if here.state.is_running() => Step::Stop,
        _ if f.now.saturating_sub(record.asked_at) > PATIENCE_S && record.status.is_none() => {
            let why = f.refused.unwrap_or("no primary could begin it");
            let text = format!("given up after {} min: {why}", PATIENCE_S / 60);
            Step::Report(record.ended(f.me, f.now, record.unbegun(VerifyState::Aborted, text)))
        }
        _ if f.now.saturating_sub(f.acted) >= RETRY_S || f.refused.is_none() => {
            Step::Begin(VerifyRequest { id: record.id, repair: record.repair })
        }
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_795_000_000 / DAY_S * DAY_S; // A midnight.
    const H: u64 = 3600;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn facts<'a>(
        me: &'a NodeName,
        record: Option<&'a VerifyRecord>,
        here: Option<&'a VerifyStatus>,
    ) -> Facts<'a> {
        Facts { me, record, here, schedule: None, now: T, since: T - H, acted: 0, refused: None, fresh_id: 9 }
    }

    fn asked() -> VerifyRecord {
        VerifyRecord { id: 1, by: "beta".into(), asked_at: T - 1, ..VerifyRecord::default() }
    }

    fn status(id: u64, state: VerifyState) -> VerifyStatus {
        VerifyStatus { id, state, checked_bytes: 4096, ..VerifyStatus::default() }
    }

    #[test]
    fn a_run_from_the_command_to_its_result() {
        let me = node("alpha");
        let record = asked();
        assert_eq!(
            step(&facts(&me, Some(&record), None)),
            Step::Begin(VerifyRequest { id: 1, repair: false })
        );
        // Begun: the first report says who; then every five seconds.
        let running = status(1, VerifyState::Running);
        let Step::Report(first) = step(&facts(&me, Some(&record), Some(&running))) else {
            panic!("a report")
        };
        assert_eq!((first.node.as_ref(), first.is_open()), (Some(&me), true));
        let more = VerifyStatus { checked_bytes: 8192, ..running };
        assert_eq!(step(&Facts { acted: T - 4, ..facts(&me, Some(&first), Some(&more)) }), Step::Wait);
        assert!(matches!(
            step(&Facts { acted: T - 5, ..facts(&me, Some(&first), Some(&more)) }),
            Step::Report(_)
        ));
        let done = status(1, VerifyState::Done);
        let Step::Report(last) = step(&facts(&me, Some(&first), Some(&done))) else { panic!("a report") };
        assert_eq!((last.ended_at, last.status.as_ref()), (Some(T), Some(&done)));
        assert_eq!(step(&facts(&me, Some(&last), Some(&done))), Step::Wait, "and that was it");
    }

    #[test]
    fn the_next_primary_begins_anew() {
        let me = node("beta");
        let begun = VerifyRecord {
            node: Some(node("alpha")),
            status: Some(status(1, VerifyState::Running)),
            ..asked()
        };
        assert!(matches!(step(&facts(&me, Some(&begun), None)), Step::Begin(_)));
        // It takes as long as it takes: patience is for one that never began.
        let late = Facts { now: T + 2 * PATIENCE_S, ..facts(&me, Some(&begun), None) };
        assert!(matches!(step(&late), Step::Begin(_)));
    }

    #[test]
    fn a_stop_reaches_a_running_one_and_ends_one_that_never_began() {
        let me = node("alpha");
        let record = VerifyRecord { stop: true, ..asked() };
        assert_eq!(step(&facts(&me, Some(&record), Some(&status(1, VerifyState::Running)))), Step::Stop);
        for here in [None, Some(status(7, VerifyState::Done))] {
            let Step::Report(ended) = step(&facts(&me, Some(&record), here.as_ref())) else {
                panic!("a report")
            };
            assert_eq!(ended.status.map(|s| s.state), Some(VerifyState::Stopped));
        }
    }

    #[test]
    fn one_that_cannot_begin_is_tried_again_and_given_up_with_the_reason() {
        let me = node("alpha");
        let record = asked();
        let refused = Facts { refused: Some("beta is not connected"), ..facts(&me, Some(&record), None) };
        assert_eq!(step(&Facts { acted: T - 1, ..refused.clone() }), Step::Wait);
        assert!(matches!(step(&Facts { acted: T - 5, ..refused.clone() }), Step::Begin(_)));
        let Step::Report(ended) = step(&Facts { now: T + PATIENCE_S, ..refused }) else { panic!("a report") };
        let status = ended.status.expect("a status");
        assert_eq!(status.state, VerifyState::Aborted);
        assert!(status.reason.expect("why").contains("beta is not connected"));
    }

    #[test]
    fn a_run_that_nobody_asked_for_makes_way() {
        let me = node("alpha");
        let other = status(7, VerifyState::Running);
        assert_eq!(step(&facts(&me, Some(&asked()), Some(&other))), Step::Stop);
        assert_eq!(step(&facts(&me, None, Some(&other))), Step::Wait, "unless nothing else is asked for");
    }

    #[test]
    fn a_schedule_keeps_its_time_of_day_and_is_not_made_up_for_in_the_middle_of_it() {
        let weekly = Schedule { every_s: 7 * DAY_S, at_min: Some(180), repair: false };
        let three = T + 3 * H;
        assert!(!weekly.due(None, T - H, three - 1), "the first one waits for its hour");
        assert!(weekly.due(None, T - H, three) && weekly.due(None, T - H, three + 600));
        assert!(!weekly.due(None, T - H, three + H), "too late: tomorrow");
        assert!(
            !weekly.due(None, three + 60, three + 120),
            "an agent that starts after three does not begin"
        );
        let last = Some(three + 2);
        assert!(!weekly.due(last, 0, three + DAY_S), "a week is a week");
        assert!(weekly.due(last, 0, three + 7 * DAY_S), "two seconds early count");
        assert!(weekly.due(last, 0, three + 9 * DAY_S + 60), "two days down: the next night");
        let hourly = Schedule { every_s: H, at_min: None, repair: true };
        assert!(
            hourly.due(None, T, T) && !hourly.due(Some(T), T, T + H - 1) && hourly.due(Some(T), T, T + H)
        );
    }

    #[test]
    fn what_is_due_is_asked_for_once() {
        let me = node("alpha");
        let schedule = Schedule { every_s: H, at_min: None, repair: true };
        let due = Facts { schedule: Some(&schedule), ..facts(&me, None, None) };
        let Step::Ask(record) = step(&due) else { panic!("asks") };
        assert_eq!((record.id, record.repair, record.by.as_str(), record.asked_at), (9, true, "schedule", T));
        assert!(!matches!(step(&Facts { record: Some(&record), ..due }), Step::Ask(_)));
    }
}
