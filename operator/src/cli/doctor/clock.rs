//! Clocks and scheduling: is the wall clock kept right, does it jump, and does this host wake up in time?
//!
//! Baton decides nothing on the wall clock; certificates, logs and people do. Late wake-ups cost leaderships.

use super::report::Finding;
use super::sys::{self, KernelClock};
use crate::spec::Timers;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

const FAMILY: &str = "clock";
/// How long wake-ups are watched: 40 heartbeats.
const WATCH: Duration = Duration::from_secs(2);
const NAP: Duration = Duration::from_millis(10);
/// A step of the wall clock in two seconds that no slewing makes (500 ppm are 1 ms).
const STEP: Duration = Duration::from_millis(50);

/// Blocking for two seconds.
pub(super) fn check(timers: Timers) -> Vec<Finding> {
    let mut all = vec![judge_kernel(sys::kernel_clock())];
    let (before, began) = (offset_ns(), Instant::now());
    let mut worst = Duration::ZERO;
    while began.elapsed() < WATCH {
        let nap = Instant::now();
        std::thread::sleep(NAP);
        worst = worst.max(nap.elapsed().saturating_sub(NAP));
    }
    let moved = offset_ns().abs_diff(before);
    all.push(judge_step(Duration::from_nanos(u64::try_from(moved).unwrap_or(u64::MAX))));
    all.push(judge_lateness(worst, timers));
    all
}

/// Wall clock minus time since boot: constant but for corrections.
fn offset_ns() -> i128 {
    let ns = |id| {
        let t = clock_gettime(id);
        i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
    };
    // The wall clock is read between two readings of the other: a pause between them does not count.
    let before = ns(ClockId::Boottime);
    let wall = ns(ClockId::Realtime);
    wall - (before + ns(ClockId::Boottime)) / 2
}

fn judge_kernel(said: std::io::Result<KernelClock>) -> Finding {
    match said {
        Ok(clock) if clock.synchronised => Finding::ok(
            FAMILY,
            "synchronised",
            format!("the kernel's clock is kept right, to {} ms at worst", clock.max_error_us / 1000),
        ),
        Ok(_) => Finding::warning(
            FAMILY,
            "synchronised",
            "nobody keeps the wall clock right: times in events and logs of different hosts cannot be compared, \
             certificates may seem expired",
            "Install chrony or systemd-timesyncd. Baton itself decides nothing on the wall clock.",
        ),
        Err(e) => Finding::skipped(FAMILY, "synchronised", format!("the kernel does not say: {e}")),
    }
}

fn judge_step(moved: Duration) -> Finding {
    let shown = format!("the wall clock moved {} us against the time since boot in 2 s", moved.as_micros());
    if moved <= STEP {
        Finding::ok(FAMILY, "steps", shown)
    } else {
        let mend = "Something sets the clock in steps: run one time service, and none in the guest and the host both.";
        Finding::warning(FAMILY, "steps", shown, mend)
    }
}

/// The difference between deadtime and fencetime pays for lateness; warntime is when peers notice.
fn judge_lateness(worst: Duration, timers: Timers) -> Finding {
    let shown = format!(
        "a sleep ended up to {:.1} ms late in 2 s (keepalive {} ms, fencetime {} ms, deadtime {} ms)",
        worst.as_secs_f64() * 1000.0,
        timers.keepalive.as_millis(),
        timers.fencetime.as_millis(),
        timers.deadtime.as_millis()
    );
    let mend = "Give the host more CPU, or the agent SYS_NICE (real-time priority), or raise warntime, fencetime and \
                deadtime together.";
    if worst >= timers.fencetime / 2 {
        Finding::failed(FAMILY, "wakes up in time", shown, mend)
    } else if worst >= timers.keepalive {
        Finding::warning(FAMILY, "wakes up in time", shown, mend)
    } else {
        Finding::ok(FAMILY, "wakes up in time", shown)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn clocks() {
        let clock = |synchronised| Ok(KernelClock { synchronised, max_error_us: 3000 });
        assert_eq!(judge_kernel(clock(true)).verdict, Verdict::Ok);
        assert_eq!(judge_kernel(clock(false)).verdict, Verdict::Warning);
        assert_eq!(judge_kernel(Err(std::io::ErrorKind::Unsupported.into())).verdict, Verdict::Skipped);
        assert_eq!(judge_step(Duration::from_millis(1)).verdict, Verdict::Ok);
        assert_eq!(judge_step(Duration::from_secs(3)).verdict, Verdict::Warning);
        let late = |ms| judge_lateness(Duration::from_millis(ms), Timers::default()).verdict;
        // keepalive 100 ms, fencetime 1000 ms or above.
        assert_eq!((late(1), late(99), late(100)), (Verdict::Ok, Verdict::Ok, Verdict::Warning));
        assert_eq!(late(3000), Verdict::Failed);
        assert!(sys::kernel_clock().is_ok(), "needs no privilege");
        assert!(offset_ns().abs_diff(offset_ns()) < 50_000_000);
    }
}
