//! What is to succeed in the end, on a machine that others use, too.

use std::time::{Duration, Instant};

/// Does something again and again until it succeeds; what failed last if it does not within `limit`.
///
/// # Errors
/// As `act` in the end.
pub fn until_ok<T, E>(
    limit: Duration,
    pause: Duration,
    mut act: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match act() {
            Err(_) if Instant::now() < end => std::thread::sleep(pause),
            done => return done,
        }
    }
}
