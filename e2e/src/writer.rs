//! The writer: commits rows one by one through the VIP, as fast as they are acknowledged, and survives everything
//! by connecting anew.

use crate::cluster::Cluster;
use crate::config::{Config, output_dir};
use crate::journal::{Journal, Verdict};
use crate::netns::{self, Netns};
use crate::retry;
use anyhow::{Context, Result};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// A SYN to nobody is given up after this.
const CONNECT: Duration = Duration::from_millis(250);
/// A commit without an answer is of unknown outcome after this. Longer than the longest pause that a lost standby
/// may cause (800 ms), so that such a pause is measured instead of turned into a reconnect.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// Between two commits: about 300 per second are load enough, and leave the two cores of a small machine to
/// the cluster.
const PAUSE: Duration = Duration::from_millis(2);

/// A running writer.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    journal: Arc<Mutex<Journal>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes the table if need be and starts writing, from inside a namespace if one is given. `name` must be
    /// unique within this process.
    ///
    /// # Errors
    /// If the table or the journal cannot be made.
    pub fn start(cluster: &Cluster, name: &str, namespace: Option<Netns>) -> Result<Self> {
        Self::waiting(cluster, name, namespace, ANSWER)
    }

    /// As [`Writer::start`]; a commit is given up after `answer` without one.
    ///
    /// # Errors
    /// As there.
    pub fn waiting(
        cluster: &Cluster,
        name: &str,
        namespace: Option<Netns>,
        answer: Duration,
    ) -> Result<Self> {
        let config = cluster.config.clone();
        let secs = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let run = format!("{name}-{secs}");
        let dir = output_dir().join("e2e");
        std::fs::create_dir_all(&dir)?;
        let journal = Journal::create(&run, &dir.join(format!("{run}.journal")))?;
        patiently(&config, |conn| {
            conn.query_drop(
                "CREATE TABLE IF NOT EXISTS e2e_rows (id BIGINT AUTO_INCREMENT PRIMARY KEY, run VARCHAR(80) NOT NULL, \
                 k BIGINT NOT NULL, host VARCHAR(80) NOT NULL, payload VARCHAR(400) NOT NULL, KEY (run, k)) ENGINE=InnoDB",
            )
        })
        .context("make the table e2e_rows")?;
        let stop = Arc::new(AtomicBool::new(false));
        let journal = Arc::new(Mutex::new(journal));
        let (stopped, log) = (stop.clone(), journal.clone());
        let thread = std::thread::spawn(move || {
            netns::enter(namespace.as_ref());
            write(&config, answer, &run, &log, &stopped);
        });
        Ok(Self { stop, journal, thread: Some(thread) })
    }

    /// The history so far.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops and waits until the last commit is settled or given up.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Waits until a row that was begun after `after` is acknowledged.
    ///
    /// # Panics
    /// If none is within `limit`.
    pub fn wait_ack(&self, after: Instant, limit: Duration) {
        let end = Instant::now() + limit;
        while self.journal().acks.last().is_none_or(|a| a.begin <= after) {
            assert!(Instant::now() < end, "no write was acknowledged for {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write(config: &Config, answer: Duration, run: &str, log: &Mutex<Journal>, stop: &AtomicBool) {
    let payload = "x".repeat(300);
    let mut conn = None;
    while !stop.load(Ordering::Relaxed) {
        let open = match conn.take() {
            Some(open) => open,
            None => match connect(config, answer) {
                Ok(open) => open,
                Err(_) => {
                    std::thread::sleep(RETRY);
                    continue;
                }
            },
        };
        conn = commit(open, run, &payload, log);
        std::thread::sleep(PAUSE);
    }
}

/// Commits one row; gives the connection back if it can be used again.
fn commit(mut conn: Conn, run: &str, payload: &str, log: &Mutex<Journal>) -> Option<Conn> {
    // The journal is not locked while the commit is on its way: others read it meanwhile.
    let lock = || log.lock().unwrap_or_else(PoisonError::into_inner);
    let (key, begin) = lock().attempt();
    let insert = format!(
        "INSERT INTO e2e_rows (run, k, host, payload) VALUES ('{run}', {key}, @@hostname, '{payload}')"
    );
    match conn.query_drop(insert) {
        Ok(()) => {
            lock().acknowledged(key, begin);
            Some(conn)
        }
        Err(error) => {
            lock().unknown(key, &error.to_string());
            None
        }
    }
}

/// A new connection to the database at the address, whose answers are waited for this long.
///
/// # Errors
/// Nobody answers in time, or it refuses.
pub fn connect(config: &Config, answer: Duration) -> mysql::Result<Conn> {
    let db = &config.database;
    Conn::new(
        OptsBuilder::new()
            .ip_or_hostname(Some(config.vip.to_string()))
            .tcp_port(3306)
            .user(Some(&db.user))
            .pass(Some(&db.password))
            .db_name(Some(&db.schema))
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_connect_timeout(Some(CONNECT))
            .read_timeout(Some(answer))
            .write_timeout(Some(answer)),
    )
}

/// Does something with the database, again and again for up to 20 s: it may be starting after a takeover.
fn patiently<T>(config: &Config, mut act: impl FnMut(&mut Conn) -> mysql::Result<T>) -> mysql::Result<T> {
    let there = Duration::from_secs(20);
    retry::until_ok(there, RETRY, || connect(config, ANSWER).and_then(|mut conn| act(&mut conn)))
}

/// How often each key of a writer is in the table, and which host's database took it.
type Rows = (BTreeMap<u64, u64>, BTreeMap<u64, String>);

/// Reads the rows of a run.
///
/// # Errors
/// If the database does not answer for 20 s.
pub fn rows(cluster: &Cluster, run: &str) -> Result<Rows> {
    let query = format!("SELECT k, COUNT(*), MIN(host) FROM e2e_rows WHERE run = '{run}' GROUP BY k");
    let found: Vec<(u64, u64, String)> = patiently(&cluster.config, |conn| conn.query(&query))
        .with_context(|| format!("read the rows of {run}"))?;
    let hosts = found.iter().map(|(k, _, host)| (*k, host.clone())).collect();
    Ok((found.into_iter().map(|(k, n, _)| (k, n)).collect(), hosts))
}

/// Judges a writer's history by what the database says now.
///
/// # Errors
/// As [`rows`].
pub fn audit(cluster: &Cluster, journal: &Journal) -> Result<Verdict> {
    Ok(journal.judge(&rows(cluster, &journal.run)?.0))
}
