//! The checks that reach into a service or past it: a transaction, a durable write, an ICMP echo.
//!
//! Each is one bounded attempt and ends in an [`Outcome`]; what a row of them means is `core::checks`' business. What can
//! hang beyond its bound runs on a thread, or in a container, that is left alone then: until it has ended, the next attempt
//! fails at once instead of adding another one ([`Errand`]).

mod ping;
mod sql;
mod write;

pub use ping::ping;
pub use sql::{Sql, sql};
pub(crate) use write::unanswered;
pub use write::{Write, write};

use crate::causes::one_line;
use crate::core::checks::Outcome;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest text of a reason that is shown.
const REASON_MAX: usize = 200;

/// One line, not too long.
pub(crate) fn short(text: &str) -> String {
    one_line(text).chars().take(REASON_MAX).collect()
}

/// A place for one blocking attempt at a time.
#[derive(Clone, Debug, Default)]
pub struct Errand {
    under_way: Arc<AtomicBool>,
}

/// Frees the place when the attempt ends, however it does.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Errand {
    /// Runs `attempt` on a thread of its own, which is left alone after `timeout`.
    pub async fn run(
        &self,
        timeout: Duration,
        attempt: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Outcome {
        if self.under_way.swap(true, Ordering::SeqCst) {
            return Outcome::Bad("an earlier attempt still hangs".into());
        }
        let done = Done(Arc::clone(&self.under_way));
        let thread = tokio::task::spawn_blocking(move || {
            let _done = done;
            attempt()
        });
        match tokio::time::timeout(timeout, thread).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Unknown(error.to_string()),
            Err(_) => Outcome::Bad(format!("no answer within {} ms", timeout.as_millis())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_left_alone_and_not_joined_by_another() {
        let (errand, (free, wait)) = (Errand::default(), std::sync::mpsc::channel::<()>());
        let bound = Duration::from_millis(50);
        let hung = errand.run(bound, move || {
            let _ = wait.recv();
            Outcome::Good
        });
        assert_eq!(hung.await, Outcome::Bad("no answer within 50 ms".into()));
        let second = errand.run(bound, || panic!("must not begin"));
        assert_eq!(second.await, Outcome::Bad("an earlier attempt still hangs".into()));
        drop(free);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while errand.run(bound, || Outcome::Good).await != Outcome::Good {
            assert!(tokio::time::Instant::now() < deadline, "the place is never free again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(short(" a\n  b\t c "), "a b c");
        assert_eq!(short(&"x".repeat(1000)).len(), REASON_MAX);
    }
}
