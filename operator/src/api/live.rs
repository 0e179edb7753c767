//! Live status as server-sent events: the same JSON as the plain answer, at each publication, at most four a second.
//!
//! Only the newest snapshot counts. A client that is slow finds the newest one when it is ready for the next, and what
//! lay between is dropped; at most one waits. One that takes nothing for thirty seconds is let go.

use super::ApiState;
use super::limits::StreamSlot;
use super::view::View;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Shortest time between two events: the driver's own publication interval.
const INTERVAL: Duration = Duration::from_millis(250);
/// A comment line now and then keeps proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams what `pick` finds in each snapshot as events called `name`; ends when it finds nothing any more, because
/// what is asked for has left the specification.
pub(super) fn stream(
    api: &ApiState,
    slot: StreamSlot,
    name: &'static str,
    pick: impl Fn(&View) -> Option<String> + Send + 'static,
) -> Response {
    let (events, taken) = mpsc::channel::<Result<Event, Infallible>>(1);
    let (views, mut published, stall) = (api.views.clone(), api.views.follow(), api.gate.stall());
    tokio::spawn(async move {
        let _slot = slot;
        loop {
            // Room first, then the newest snapshot: what waits for room would be old when it is sent.
            let Ok(Ok(room)) = tokio::time::timeout(stall, events.reserve()).await else { return };
            published.mark_unchanged();
            let Some(data) = pick(&views.newest()) else { return };
            room.send(Ok(Event::default().event(name).data(data)));
            tokio::time::sleep(INTERVAL).await;
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                () = events.closed() => return,
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(ReceiverStream::new(taken)).keep_alive(keep_alive).into_response()
}
