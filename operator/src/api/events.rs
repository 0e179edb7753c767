//! The history: a list, or live as server-sent events for `Accept: text/event-stream`.
//!
//! A stream first subscribes, then reads the history, then goes on live and leaves out what it has sent, so no
//! entry is missed between the two. Each event carries its number as id; a client that reconnects with
//! `Last-Event-ID` continues there, as far as the bounded history reaches.

use super::ApiState;
use super::problem::ApiError;
use crate::status::Event;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Entries shown unless asked for another number.
const DEFAULT_LAST: usize = 50;
/// Most entries in one answer; the history itself is bounded too.
const MAX_LAST: usize = 1000;
/// A comment line now and then keeps proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct Range {
    /// How many, the newest.
    n: Option<usize>,
}

pub(super) async fn events(
    State(api): State<ApiState>,
    Query(range): Query<Range>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let live = accept.contains("text/event-stream");
    let resume: Option<u64> =
        headers.get("last-event-id").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let last = match (range.n, resume) {
        (Some(n), _) => n.min(MAX_LAST),
        (None, Some(_)) => MAX_LAST,
        (None, None) => DEFAULT_LAST,
    };
    let receiver = api.commands.subscribe();
    let mut history = if last == 0 { Vec::new() } else { api.commands.events(last).await? };
    if !live {
        return Ok(Json(history).into_response());
    }
    if let Some(seen) = resume {
        history.retain(|event| event.n > seen);
    }
    let sent = history.last().map(|event| event.n).or(resume).unwrap_or(0);
    let lines =
        stream::iter(history).chain(newer(receiver, sent)).map(|event| Ok::<_, Infallible>(line(&event)));
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Live entries after number `sent`; ends when the driver does. An entry that a slow client missed is skipped:
/// the numbers show the gap.
fn newer(receiver: broadcast::Receiver<Event>, sent: u64) -> impl Stream<Item = Event> {
    stream::unfold((receiver, sent), |(mut receiver, sent)| async move {
        loop {
            match receiver.recv().await {
                Ok(event) if event.n > sent => {
                    let n = event.n;
                    return Some((event, (receiver, n)));
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

fn line(event: &Event) -> axum::response::sse::Event {
    // Plain struct with text keys: serialisation has no way to fail.
    let data = serde_json::to_string(event).expect("event serialises");
    axum::response::sse::Event::default().id(event.n.to_string()).event("baton").data(data)
}
