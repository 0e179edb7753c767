//! `GET /v1/series`: the memory as JSON.

use super::STEP;
use super::ring::{Fold, Key, Memory, Track};
use crate::driver::history::rfc3339;
use crate::status::{Availability, ClusterStatus};
use baton_replicator::types::{GroupName, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Which part of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Range {
    /// The last hour in steps of 5 s.
    #[default]
    #[serde(rename = "1h")]
    Hour,
    /// The last 24 hours in steps of a minute.
    #[serde(rename = "24h")]
    Day,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SeriesQuery {
    /// `1h` (default) or `24h`.
    #[serde(default)]
    pub range: Range,
    /// Only the series of this group, and those of nodes. All groups without it.
    pub group: Option<GroupName>,
}

/// The memory of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesAnswer {
    /// The agent that answers: everything is as this one saw it, since it started.
    pub node: NodeName,
    /// Which part.
    pub range: Range,
    /// Seconds from one value to the next.
    pub step_seconds: f64,
    /// Wall clock of the newest value, RFC 3339; none before the first.
    pub newest_at: Option<String>,
    /// The series. All end at `newest_at`; a shorter one began later.
    pub series: Vec<OneSeries>,
    /// Series that had no room: more than 1024 are not remembered.
    pub left_out: usize,
    /// How long each group served, by name.
    pub availability: BTreeMap<GroupName, Availability>,
}

/// One series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OneSeries {
    /// What it measures, with its unit.
    pub name: String,
    /// Of what.
    pub labels: BTreeMap<String, String>,
    /// How a value of a minute was made of its twelve values: `mean` or `max`.
    pub fold: String,
    /// Oldest first; null where nothing was measured.
    pub values: Vec<Option<f32>>,
}

pub(super) fn build(memory: &Memory, status: &ClusterStatus, query: &SeriesQuery) -> SeriesAnswer {
    let coarse = query.range == Range::Day;
    let wanted = |key: &Key| match (&query.group, key.labels.iter().find(|(label, _)| *label == "group")) {
        (Some(group), Some((_, of))) => group.as_str() == of,
        (Some(_) | None, _) => true,
    };
    let of = |group: &GroupName| query.group.as_ref().is_none_or(|wanted| wanted == group);
    SeriesAnswer {
        node: status.node.clone(),
        range: query.range,
        step_seconds: STEP.as_secs_f64() * if coarse { 12.0 } else { 1.0 },
        newest_at: memory.newest(coarse).map(rfc3339),
        series: memory.tracks().filter(|(key, _)| wanted(key)).map(|(k, t)| one(k, t, coarse)).collect(),
        left_out: memory.left_out(),
        availability: status
            .groups
            .iter()
            .filter(|g| of(&g.name))
            .map(|g| (g.name.clone(), g.availability.clone()))
            .collect(),
    }
}

fn one(key: &Key, track: &Track, coarse: bool) -> OneSeries {
    let (fold, values) = track.values(coarse);
    OneSeries {
        name: key.name.to_owned(),
        labels: key.labels.iter().map(|(label, value)| ((*label).to_owned(), value.clone())).collect(),
        fold: match fold {
            Fold::Mean => "mean".into(),
            Fold::Max => "max".into(),
        },
        values: values.iter().map(|v| Some(*v).filter(|v| !v.is_nan())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use crate::series::sample::Sampler;
    use baton_replicator::types::Instant;
    use std::time::{Duration, SystemTime};

    fn two_groups() -> ClusterStatus {
        let mut status = fixture::healthy();
        let mut other = status.groups[0].clone();
        other.name = fixture::group("db");
        status.groups.push(other);
        status
    }

    fn remembered(status: &ClusterStatus) -> Memory {
        let (mut memory, mut sampler) = (Memory::default(), Sampler::default());
        for n in 0..13_u64 {
            let now = Instant::ZERO.plus(Duration::from_secs(5 * n));
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(5 * n);
            memory.push(now, wall, sampler.sample(status, now));
        }
        memory
    }

    #[test]
    fn a_group_gets_its_own_series_and_those_of_nodes() {
        let status = two_groups();
        let memory = remembered(&status);
        let all = build(&memory, &status, &SeriesQuery::default());
        let query = SeriesQuery { group: Some(fixture::group("db")), ..SeriesQuery::default() };
        let db = build(&memory, &status, &query);
        let names = |a: &SeriesAnswer| a.series.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let each =
            ["dirty_bytes", "heartbeat_gap_seconds", "replication_lag_seconds", "written_bytes_per_second"];
        assert_eq!(names(&db), each);
        assert_eq!(all.series.len(), 7);
        assert_eq!((all.availability.len(), db.availability.len()), (2, 1));
        assert_eq!(all.newest_at.as_deref(), Some("1970-01-01T00:01:00.000Z"));
        let rate = db.series.last().unwrap();
        assert_eq!(rate.values.len(), 12, "the first sample has no rate");
    }

    #[test]
    fn a_day_has_minutes() {
        let status = two_groups();
        let query = SeriesQuery { range: Range::Day, group: None };
        let day = build(&remembered(&status), &status, &query);
        assert_eq!((day.step_seconds, day.newest_at.as_deref()), (60.0, Some("1970-01-01T00:00:55.000Z")));
        let json = serde_json::to_value(&day).unwrap();
        assert_eq!(json["range"], "24h");
        assert_eq!(json["series"][1]["values"], serde_json::json!([0.0]));
        assert_eq!(serde_json::from_value::<SeriesAnswer>(json).unwrap(), day);
    }

    #[test]
    fn before_the_first_sample_there_is_nothing_to_say() {
        let answer = build(&Memory::default(), &fixture::healthy(), &SeriesQuery::default());
        assert_eq!((answer.newest_at, answer.series.len()), (None, 0));
    }
}
