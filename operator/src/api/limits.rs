//! How much anybody may ask: requests a second and open streams per client, requests in flight for everybody.
//!
//! Beyond is answered by 429 with `Retry-After`, at once: a request that waits costs more than one that is refused.
//! `/livez`, `/readyz` and the role questions stand outside, so that an overloaded API never looks like a dead agent and
//! moves no group.

use super::problem::ApiError;
use crate::security::Principal;
use crate::security::listener::Peer;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, Method};
use axum::middleware::Next;
use axum::response::Response;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Clients that are told apart. Beyond, those that have been quiet are forgotten, and if that does not help, new ones
/// share one allowance.
const CLIENTS_MAX: usize = 1024;

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reads a second and client: a page, the CLI's watch and a few scripts need some ten.
    pub reads_per_s: NonZeroU32,
    /// Commands a second and client. Each writes to etcd, which is shared with the elections.
    pub commands_per_s: NonZeroU32,
    /// Requests in flight. A read takes about a millisecond; a command waits for etcd, at most ten seconds.
    pub in_flight: usize,
    /// Open event streams.
    pub streams: usize,
    /// Open event streams of one client.
    pub streams_per_client: usize,
    /// A client that takes nothing of a live status for so long is gone or hung; TCP alone would keep it for a quarter of
    /// an hour.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let some = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            reads_per_s: some(100),
            commands_per_s: some(10),
            in_flight: 64,
            streams: 128,
            streams_per_client: 32,
            stall: Duration::from_secs(30),
        }
    }
}

/// Counts what is used.
pub(super) struct Gate {
    limits: Limits,
    reads: DefaultKeyedRateLimiter<String>,
    commands: DefaultKeyedRateLimiter<String>,
    in_flight: Semaphore,
    streams: Mutex<HashMap<String, usize>>,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        // Two seconds' worth may come at once: a page asks for everything when it is opened.
        let quota = |per_s: NonZeroU32| Quota::per_second(per_s).allow_burst(per_s.saturating_mul(TWO));
        Self {
            limits,
            reads: RateLimiter::keyed(quota(limits.reads_per_s)),
            commands: RateLimiter::keyed(quota(limits.commands_per_s)),
            in_flight: Semaphore::new(limits.in_flight),
            streams: Mutex::default(),
        }
    }

    pub(super) fn stall(&self) -> Duration {
        self.limits.stall
    }

    fn spend(&self, method: &Method, client: &str) -> Result<(), ApiError> {
        let read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let (limiter, per_s, what) = if read {
            (&self.reads, self.limits.reads_per_s, "requests")
        } else {
            (&self.commands, self.limits.commands_per_s, "commands")
        };
        if limiter.len() >= CLIENTS_MAX {
            limiter.retain_recent();
        }
        let key = if limiter.len() >= CLIENTS_MAX { "everybody else" } else { client };
        limiter.check_key(&key.to_owned()).map_err(|not_before| {
            let wait = not_before.wait_time_from(DefaultClock::default().now());
            ApiError::too_many(
                format!("More than {per_s} {what} a second from {client}. Wait as long as Retry-After says."),
                wait,
            )
        })
    }

    /// A place among the open streams for whoever sent a request with these extensions.
    ///
    /// # Errors
    /// 429 if there is none.
    pub(super) fn stream(self: &Arc<Self>, extensions: &Extensions) -> Result<StreamSlot, ApiError> {
        let client = client(extensions);
        let mut open = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (open.values().sum::<usize>(), open.get(&client).copied().unwrap_or(0));
        if all >= self.limits.streams || own >= self.limits.streams_per_client {
            let text = format!(
                "{own} event streams of {client} and {all} of everybody are open, of at most {} and {}. Close one.",
                self.limits.streams_per_client, self.limits.streams
            );
            return Err(ApiError::too_many(text, Duration::from_secs(10)));
        }
        *open.entry(client.clone()).or_default() += 1;
        Ok(StreamSlot { gate: Arc::clone(self), client })
    }
}

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// A place among the open streams, given back when dropped.
pub(super) struct StreamSlot {
    gate: Arc<Gate>,
    client: String,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.gate.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Who a request counts for: name and address of whoever is authenticated, else the address alone.
fn client(extensions: &Extensions) -> String {
    match (extensions.get::<Principal>(), extensions.get::<ConnectInfo<Peer>>()) {
        (Some(principal), _) => format!("{} at {}", principal.name, principal.from),
        (None, Some(ConnectInfo(peer))) => peer.from(),
        (None, None) => "unknown".to_owned(),
    }
}

/// Lets a request through if its client and everybody together have not had enough.
pub(super) async fn limited(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    gate.spend(request.method(), &client(request.extensions()))?;
    let Ok(_place) = gate.in_flight.try_acquire() else {
        let text = format!("{} requests are being answered already. Try again.", gate.limits.in_flight);
        return Err(ApiError::too_many(text, Duration::from_secs(1)));
    };
    Ok(next.run(request).await)
}
