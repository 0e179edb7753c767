//! The history: a list, or live as server-sent events for `Accept: text/event-stream`.
//!
//! A stream reads the history and then looks for what is newer: when this agent records something, and every second for
//! what others record. Every entry is sent once, in order, whichever node wrote it, with its number as id; a client
//! that reconnects with `Last-Event-ID` continues there, as far as the bounded history reaches. While etcd is away the
//! stream is silent; what was recorded meanwhile follows.

use super::problem::ApiError;
use super::read::wants_stream;
use super::{ApiState, Commands};
use crate::status::Event;
use axum::Json;
use axum::extract::{Query, Request, State};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Entries shown unless asked for another number.
const DEFAULT_LAST: usize = 50;
/// Most entries in one answer; the history itself is bounded too.
const MAX_LAST: usize = 1000;
/// A comment line now and then keeps proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Between two looks for what other nodes recorded: a person who watches does not wait, and etcd is asked for a few
/// entries once a second per stream, whose number is limited.
const LOOK: Duration = Duration::from_secs(1);
/// A write of an entry takes a few milliseconds; one that takes longer is found by the next look.
const RECORDED: Duration = Duration::from_millis(50);
/// Entries of one look; a busier second is read whole.
const GLANCE: usize = 20;

#[derive(Deserialize)]
pub(super) struct Range {
    n: Option<i64>,
}

/// The history: what happened, where, and why.
///
/// The newest entries, oldest first. With `Accept: text/event-stream` they are followed by what happens from now on, as
/// events `baton` whose id is the entry's number; `Last-Event-ID` goes on after that entry, as far as the history reaches
/// back (1000 entries).
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "getEvents",
    tag = "events",
    params(
        ("n" = Option<i64>, Query, description = "How many entries; 50 if left out, never more than 1000.", minimum = 0),
        ("Last-Event-ID" = Option<String>, Header, description = "Number of the last entry seen; for streams.")
    ),
    responses((
        status = 200,
        description = "The entries, or the stream.",
        content((Vec<Event> = "application/json"), (String = "text/event-stream"))
    ))
)]
pub(super) async fn events(
    State(api): State<ApiState>,
    Query(range): Query<Range>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let live = wants_stream(headers);
    let resume: Option<u64> =
        headers.get("last-event-id").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let slot = if live { Some(api.gate.stream(request.extensions())?) } else { None };
    let last = match (range.n, resume) {
        (Some(n), _) => usize::try_from(n)
            .map(|n| n.min(MAX_LAST))
            .map_err(|_| ApiError::bad_request("n says how many entries: 0 or more.".to_owned()))?,
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
    let sent = match history.last().map(|event| event.n).or(resume) {
        Some(n) => n,
        // Only what comes from now on.
        None => api.commands.events(1).await?.last().map_or(0, |event| event.n),
    };
    let commands = Arc::clone(&api.commands);
    let lines = stream::iter(history).chain(newer(commands, receiver, sent)).map(move |event| {
        // Held as long as the stream is open.
        let _ = &slot;
        Ok::<_, Infallible>(line(&event))
    });
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Entries after number `sent`, as the history gets them; ends when the driver does.
fn newer(
    commands: Arc<dyn Commands>,
    receiver: broadcast::Receiver<Event>,
    sent: u64,
) -> impl Stream<Item = Event> {
    let live = (commands, receiver, sent, VecDeque::<Event>::new());
    stream::unfold(live, |(commands, mut receiver, mut sent, mut queue)| async move {
        loop {
            if let Some(event) = queue.pop_front() {
                sent = event.n;
                return Some((event, (commands, receiver, sent, queue)));
            }
            // An entry that was recorded here is a moment later in the history than in this channel, and bears no number yet.
            match tokio::time::timeout(LOOK, receiver.recv()).await {
                Ok(Err(RecvError::Closed)) => return None,
                Ok(_) => tokio::time::sleep(RECORDED).await,
                Err(_) => {}
            }
            let mut found = commands.events(GLANCE).await.unwrap_or_default();
            if found.first().is_some_and(|first| first.n > sent + 1) {
                found = commands.events(MAX_LAST).await.unwrap_or_default();
            }
            queue.extend(found.into_iter().filter(|event| event.n > sent));
        }
    })
}

fn line(event: &Event) -> axum::response::sse::Event {
    // Plain struct with text keys: serialisation has no way to fail.
    let data = serde_json::to_string(event).expect("event serialises");
    axum::response::sse::Event::default().id(event.n.to_string()).event("baton").data(data)
}
