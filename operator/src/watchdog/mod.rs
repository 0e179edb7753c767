//! A watchdog device (`/dev/watchdog`), fed only while this agent is fit to fence itself.
//!
//! The kernel and the replicator end a node's service at serve-until without the agent. What they do not reach (services
//! on other addresses, a kernel that half hangs) a watchdog ends: it resets the host when nobody has fed it for its
//! timeout. [`rule`] says when it is fed; a thread of its own looks and writes. An orderly end disarms the device (the
//! magic character `V`); an agent that is killed leaves it running, and the next one feeds it in time.
//!
//! If the thread dies or hangs, the host is reset: that is what a watchdog is for.

mod device;
pub mod rule;

pub use device::DeviceError;

use baton_replicator::types::Instant;
use device::Device;
use rule::{Facts, Verdict};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Looks within one timeout of the device: three may come to nothing.
const LOOKS: u32 = 4;

/// Collects what the rule needs; called from the watchdog's thread, must not block.
pub type Look = Box<dyn Fn() -> Facts + Send>;
/// Told when the verdict changes.
pub type Tell = Box<dyn Fn(&Verdict) + Send>;

/// The running watchdog. Dropped, it disarms the device.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    verdict: Arc<Mutex<Verdict>>,
    /// When the device resets the host, if it says.
    pub timeout: Option<Duration>,
}

impl Watchdog {
    /// Opens the device, which arms it, asks it for `timeout`, and feeds it from now on as `look` and the rule say.
    ///
    /// # Errors
    /// [`DeviceError`]: it is not there, not ours, or held by another program.
    pub fn start(path: &Path, timeout: Duration, look: Look, tell: Tell) -> Result<Self, DeviceError> {
        let mut device = Device::open(path)?;
        let granted = device.set_timeout(timeout);
        let pause = (granted.unwrap_or(timeout) / LOOKS).min(LOOK);
        let verdict = Arc::new(Mutex::new(Verdict::Feed));
        let told = Arc::clone(&verdict);
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            loop {
                let now = rule::verdict(&look());
                if now.feeds() {
                    device.feed();
                }
                let before = std::mem::replace(&mut *lock(&told), now.clone());
                if !before.same_kind(&now) {
                    tell(&now);
                }
                match stopped.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            device.disarm();
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(body);
        let thread = thread.map_err(|source| DeviceError { path: path.into(), source })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), verdict, timeout: granted })
    }

    /// Whether it is fed now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        lock(&self.verdict).clone()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(verdict: &Mutex<Verdict>) -> std::sync::MutexGuard<'_, Verdict> {
    verdict.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Instants as a counter holds them.
#[must_use]
pub fn instant(counter: &std::sync::atomic::AtomicU64) -> Instant {
    Instant(counter.load(std::sync::atomic::Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::clock;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
        let start = clock::now();
        while !reached() {
            assert!(clock::now().since(start) < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A file stands in for the device: each feeding is a byte.
    #[test]
    fn it_is_fed_while_all_is_well_left_when_not_and_disarmed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, "").unwrap();
        let fed = || std::fs::read(&path).unwrap();
        let hangs = Arc::new(AtomicBool::new(false));
        let (told, hung) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&hangs));
        let sink = Arc::clone(&told);
        let look = move || {
            let now = clock::now();
            let ran = if hung.load(Ordering::Relaxed) { Instant::ZERO } else { now };
            Facts { now, beat: now, ran, warntime: Duration::from_millis(500), held: Vec::new() }
        };
        let watchdog = Watchdog::start(
            &path,
            Duration::from_millis(40),
            Box::new(look),
            Box::new(move |v| sink.lock().unwrap().push(v.feeds())),
        )
        .unwrap();
        assert_eq!(watchdog.timeout, None, "a file has none");
        wait_for("fed", || fed().len() > 3);
        hangs.store(true, Ordering::Relaxed);
        wait_for("withheld", || !watchdog.verdict().feeds());
        let before = fed().len();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(fed().len(), before, "not fed any more");
        hangs.store(false, Ordering::Relaxed);
        wait_for("fed again", || fed().len() > before);
        drop(watchdog);
        let all = fed();
        assert_eq!(all.last(), Some(&b'V'), "disarmed");
        assert!(all[..all.len() - 1].iter().all(|b| *b == 0), "nothing disarms it by accident");
        assert_eq!(*told.lock().unwrap(), [false, true]);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let none = Watchdog::start(
            Path::new("/nonexistent/watchdog"),
            Duration::from_secs(10),
            Box::new(|| unreachable!("never looked at")),
            Box::new(|_| {}),
        );
        assert!(none.is_err_and(|e| e.to_string().contains("/nonexistent/watchdog")));
    }
}
