//! A node's mode: what it may do, who said so, why and until when.

use super::access::principal;
use super::etag::{self, Tag, Tagged};
use super::problem::ApiError;
use super::write::{Answer, DryRun, answer, held, known_node, parse};
use super::{Accepted, ApiState, How, ModeChange};
use crate::status::{ModeNote, NodeMode, unix_seconds};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderMap};
use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};
use utoipa::ToSchema;

/// Longest reason: it has to fit into a line of `baton status` or two.
const REASON_MAX: usize = 200;
/// Longest owner: a name or an address, no more.
const OWNER_MAX: usize = 64;
const EXPECTED: &str = r#"{"mode": "online" | "standby" | "maintenance"}, and if you like "reason", "owner" and, for a maintenance, "for": "2h" or "until": "2026-01-02T03:04:05Z""#;

/// What a node should do.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModeRequest {
    /// `online`, `standby` or `maintenance`.
    mode: NodeMode,
    /// Why, one line.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", examples("new disk"))]
    reason: Option<String>,
    /// Whose business it is. Default: who asks.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", examples("ada"))]
    owner: Option<String>,
    /// How long a maintenance is to last: a number of seconds, minutes, hours or days. Nothing happens by itself when it is
    /// over.
    #[serde(default, rename = "for")]
    #[schema(
        pattern = r"^([1-9][0-9]{0,6}s|[1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h|[1-9][0-9]?d)$",
        examples("2h")
    )]
    length: Option<String>,
    /// When it is to be over, instead, in UTC and not before 1970; the earlier one counts.
    #[serde(default)]
    #[schema(format = DateTime, pattern = r"^(19[7-9]|[2-9][0-9][0-9])[0-9]-.*Z$", examples("2026-01-02T03:04:05Z"))]
    until: Option<String>,
}

impl ModeRequest {
    /// What is asked for, at `now` seconds since 1970.
    fn change(self, by: String, now: u64) -> Result<ModeChange, ApiError> {
        said(self.owner.as_deref(), self.reason.as_deref())?;
        let length = self.length.as_deref().map(length).transpose()?;
        let until = self.until.as_deref().map(moment).transpose()?;
        let end = length.map(|l| now.saturating_add(l.as_secs())).into_iter().chain(until).min();
        Ok(ModeChange { mode: self.mode, by, owner: self.owner, reason: self.reason, until: end })
    }
}

/// Owner and reason of a wish.
///
/// # Errors
/// One of them is not what it should be.
pub(super) fn said(owner: Option<&str>, reason: Option<&str>) -> Result<(), ApiError> {
    line(reason, "reason", REASON_MAX)?;
    line(owner, "owner", OWNER_MAX)?;
    if owner == Some("") {
        return Err(wrong("owner", "it is empty"));
    }
    Ok(())
}

fn wrong(field: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "The field '{field}' is not what is expected here: {why}. Send {EXPECTED}."
    ))
}

fn line(text: Option<&str>, field: &str, most: usize) -> Result<(), ApiError> {
    let Some(text) = text else { return Ok(()) };
    match text.chars().count() {
        n if n > most => Err(wrong(field, &format!("it has {n} characters, {most} are allowed"))),
        _ if text.chars().any(char::is_control) => Err(wrong(field, "it is more than one line of text")),
        _ => Ok(()),
    }
}

/// As much as four digits short of overflowing anything: the pattern above is the limit.
fn length(text: &str) -> Result<Duration, ApiError> {
    let bad = || wrong("for", &format!("'{text}' is no time like 90s, 30m, 2h or 1d"));
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let (most, seconds) = match unit {
        "s" => (7, 1),
        "m" => (5, 60),
        "h" => (3, 3600),
        "d" => (2, 86_400),
        _ => return Err(bad()),
    };
    let number =
        digits.len() <= most && !digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| number).ok_or_else(bad)?;
    Ok(Duration::from_secs(value * seconds))
}

fn moment(text: &str) -> Result<u64, ApiError> {
    let at = humantime::parse_rfc3339(text)
        .map_err(|_| wrong("until", &format!("'{text}' is no time like 2026-01-02T03:04:05Z")))?;
    Ok(unix_seconds(at))
}

/// Sets what a node may do.
///
/// * `online`: it may lead groups.
/// * `standby`: it hands its groups over and leads none; its replicas stay in sync.
/// * `maintenance`: nothing is moved or restarted on it.
///
/// The wish stands until it is changed, across restarts. A maintenance may be given an end (`for` or `until`): once that
/// is over, status advises, an event says so and the alert BatonMaintenanceExpired fires, but the mode stays. Asked for
/// again, what is left out stays as it was, so that `for` alone prolongs it.
#[utoipa::path(
    put,
    path = "/v1/nodes/{node}/mode",
    operation_id = "setNodeMode",
    tag = "nodes",
    params(
        ("node" = NodeName, Path, description = "Name of the node."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing."),
        ("If-Match" = Option<String>, Header, description = "Only if the mode is still at this version (`ETag` of `GET` here).", pattern = r#"^(\*|"[!#-~]*"( *, *"[!#-~]*")*)$"#)
    ),
    request_body(content = ModeRequest, example = json!({"mode": "maintenance", "reason": "new disk", "for": "2h"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the node acts on it.", body = Accepted)
    )
)]
pub(super) async fn set_mode(
    State(api): State<ApiState>,
    Path(node): Path<String>,
    Query(query): Query<DryRun>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: ModeRequest = parse(&headers, &body, EXPECTED)?;
    let change = request.change(principal(&extensions)?.name, unix_seconds(SystemTime::now()))?;
    let node = known_node(&api, &node)?;
    let expected = if etag::is_conditional(&headers) {
        Some(held(&headers, &api.commands.mode(node.clone()).await?, &format!("The mode of {node}"))?)
    } else {
        None
    };
    let how = How { dry_run: query.dry_run, expected };
    answer(api.commands.set_mode(node, change, how).await?)
}

/// What an operator wants of a node.
#[derive(Serialize, ToSchema)]
pub(super) struct ModeOfNode {
    /// The node.
    node: NodeName,
    /// Its mode.
    mode: NodeMode,
    /// What was said when it was set; none if it never was, or by an agent that records none.
    note: Option<ModeNote>,
    /// Version of the wish in etcd, as in the `ETag`; 0 if it was never expressed.
    #[schema(examples(17))]
    version: i64,
}

/// A node's mode: online, standby or maintenance, and who set it, why and until when.
///
/// Read from etcd. The `ETag` is the mode's version, for `If-Match` when it is changed.
#[utoipa::path(
    get,
    path = "/v1/nodes/{node}/mode",
    operation_id = "getNodeMode",
    tag = "nodes",
    params(("node" = NodeName, Path, description = "Name of the node.")),
    responses((status = 200, description = "The mode.", body = ModeOfNode))
)]
pub(super) async fn mode(
    State(api): State<ApiState>,
    Path(node): Path<String>,
) -> Result<Tagged<Json<ModeOfNode>>, ApiError> {
    let node = known_node(&api, &node)?;
    let wish = api.commands.mode(node.clone()).await?;
    let note = wish.value.note.as_ref().map(|note| ModeNote::of(note, unix_seconds(SystemTime::now())));
    let mode = ModeOfNode { node, mode: wish.value.mode, note, version: wish.version };
    Ok(Tagged(Tag::of_version(wish.version), Json(mode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(body: serde_json::Value) -> Result<ModeChange, ApiError> {
        parse::<ModeRequest>(&HeaderMap::new(), body.to_string().as_bytes(), EXPECTED)?
            .change("root".into(), 1_000)
    }

    #[test]
    fn an_end_is_a_length_or_a_time_and_the_earlier_one_counts() {
        use serde_json::json;
        let until = |body| change(body).unwrap().until;
        assert_eq!(until(json!({"mode": "maintenance"})), None);
        for (length, seconds) in
            [("90s", 90), ("30m", 1800), ("2h", 7200), ("99d", 8_553_600), ("9999999s", 9_999_999)]
        {
            assert_eq!(
                until(json!({"mode": "maintenance", "for": length})),
                Some(1_000 + seconds),
                "{length}"
            );
        }
        assert_eq!(until(json!({"mode": "maintenance", "until": "1970-01-01T01:00:00Z"})), Some(3600));
        let both = json!({"mode": "maintenance", "for": "2h", "until": "1970-01-01T01:00:00.5Z"});
        assert_eq!(until(both), Some(3600));
    }

    #[test]
    fn nonsense_is_refused_with_the_field_it_stands_in() {
        use serde_json::json;
        for length in [
            "",
            "h",
            "0h",
            "02h",
            "2 h",
            "1h30m",
            "2",
            "-1h",
            "1w",
            "100d",
            "1000h",
            "10000000s",
            "ＡＡh",
            "é",
        ] {
            let error = change(json!({"mode": "maintenance", "for": length})).expect_err(length);
            assert!(format!("{error:?}").contains("'for'"), "{length}: {error:?}");
        }
        for (field, value) in [
            ("until", json!("tomorrow")),
            ("until", json!("2026-01-02")),
            ("reason", json!("x".repeat(201))),
            ("reason", json!("two\nlines")),
            ("owner", json!("")),
            ("owner", json!("o".repeat(65))),
            ("owner", json!(7)),
        ] {
            assert!(change(json!({"mode": "maintenance", field: value})).is_err(), "{field}");
        }
        assert!(
            change(json!({"mode": "standby", "reason": "ü".repeat(200), "owner": "o".repeat(64)})).is_ok()
        );
        assert!(change(json!({"mode": "standby", "until": null})).is_ok());
    }
}
