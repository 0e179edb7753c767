//! The clients: transactions over lists at the VIP's MariaDB, as fast as a small machine bears, whatever becomes of the hosts.
//!
//! Every transaction appends something. InnoDB lets others read what a commit wrote before its log is on the disk, and a
//! transaction that only reads waits for no log: its answer might tell of what a power cut then takes back. One that writes
//! is acknowledged after the log that holds all it has read.

use crate::history::{Event, History, Kind, Mop};
use anyhow::{Context, Result};
use baton_e2e::config::Config;
use baton_e2e::retry;
use baton_e2e::writer::connect;
use mysql::Conn;
use mysql::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients at the same time: enough for transactions that meet, few enough for two cores.
const CLIENTS: i64 = 4;
/// Lists in use at a time: few, so that transactions meet.
const HOT: u64 = 8;
/// Appends until the oldest of them is left alone: a list stays short enough to be read whole.
const APPENDS: u64 = 40;
/// Lists per minute: what an idle machine was seen to fill, several times over.
const LISTS_PER_MINUTE: u64 = 2000;
/// Between two transactions of a client.
const PAUSE: Duration = Duration::from_millis(15);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// What is not answered by then is given up: longer than a pause that is none of a takeover.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for a database that must be there.
const THERE: Duration = Duration::from_secs(30);
/// Lists in one statement of the preparation.
const BATCH: u64 = 1000;

/// A run's clients and all they know.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    run: String,
    lists: u64,
    start: Instant,
    stop: AtomicBool,
    history: Mutex<History>,
    appended: AtomicU64,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that the order of the history is that of time.
    fn record(&self, kind: Kind, process: i64, mops: Vec<Mop>) {
        let mut history = self.history();
        let at = self.start.elapsed();
        history.0.push(Event { kind, process, at, mops });
    }
}

impl Load {
    /// Makes the lists and starts the clients; each draws its transactions from the seed.
    ///
    /// # Errors
    /// If the database does not answer for [`THERE`].
    pub fn start(config: &Config, run: &str, seed: u64, minutes: u64) -> Result<Self> {
        let lists = HOT + minutes * LISTS_PER_MINUTE;
        patiently(config, |conn| {
            conn.query_drop(
                "CREATE TABLE IF NOT EXISTS chaos_lists (run VARCHAR(40) NOT NULL, k INT NOT NULL, \
                 v TEXT NOT NULL, PRIMARY KEY (run, k)) ENGINE=InnoDB",
            )
        })
        .context("make the table chaos_lists")?;
        for first in (0..lists).step_by(usize::try_from(BATCH).unwrap_or(1)) {
            let rows: Vec<_> =
                (first..lists.min(first + BATCH)).map(|k| format!("('{run}', {k}, '')")).collect();
            let insert = format!("INSERT IGNORE INTO chaos_lists (run, k, v) VALUES {}", rows.join(","));
            patiently(config, |conn| conn.query_drop(&insert)).context("make the lists")?;
        }
        let shared = Arc::new(Shared {
            config: config.clone(),
            run: run.to_owned(),
            lists,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            appended: AtomicU64::new(0),
        });
        let clients = (0..CLIENTS).map(|n| {
            let shared = shared.clone();
            let random = StdRng::seed_from_u64(seed ^ (0x9e37_79b9_7f4a_7c15 + n.unsigned_abs()));
            std::thread::spawn(move || Client { shared: &shared, process: n, random }.run())
        });
        let clients = clients.collect();
        Ok(Self { shared, clients })
    }

    /// Moments at which a commit was acknowledged, from `from` on.
    pub fn commits(&self, from: Instant) -> Vec<Instant> {
        let start = self.shared.start;
        let history = self.shared.history();
        let newest = history.0.iter().rev().take_while(|e| start + e.at >= from);
        newest.filter(|e| e.kind == Kind::Ok).map(|e| start + e.at).collect()
    }

    /// Stops the clients, and reads all lists. What is read is part of the history, as one transaction.
    ///
    /// # Errors
    /// If the database does not answer for [`THERE`].
    pub fn finish(mut self) -> Result<(History, BTreeMap<u64, Vec<u64>>)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        }
        let query = format!("SELECT k, v FROM chaos_lists WHERE run = '{}' ORDER BY k", self.shared.run);
        let asked = self.shared.history().0.len();
        let rows: Vec<(u64, String)> =
            patiently(&self.shared.config, |conn| conn.query(&query)).context("read all lists")?;
        let mut last = BTreeMap::new();
        for (key, list) in rows.into_iter().filter(|(_, list)| !list.is_empty()) {
            last.insert(key, parse(&list).with_context(|| format!("list {key}"))?);
        }
        // Who appended to a list that is now empty must not escape: it is read as such.
        for event in &self.shared.history().0 {
            for mop in &event.mops {
                let (Mop::Append(key, _) | Mop::Read(key, _)) = mop;
                last.entry(*key).or_default();
            }
        }
        let process = -1;
        let keys = last.keys().map(|key| Mop::Read(*key, None)).collect();
        let read = last.iter().map(|(key, list)| Mop::Read(*key, Some(list.clone()))).collect();
        self.shared.record(Kind::Invoke, process, keys);
        self.shared.record(Kind::Ok, process, read);
        let history = std::mem::take(&mut *self.shared.history());
        assert_eq!(history.0.len(), asked + 2, "a client went on after it was stopped");
        Ok((history, last))
    }
}

struct Client<'a> {
    shared: &'a Shared,
    process: i64,
    random: StdRng,
}

/// How a transaction ended, and the connection if it can be used again.
type Ended = (Kind, Vec<Mop>, Option<Conn>);

impl Client<'_> {
    fn run(mut self) {
        let mut conn = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let open = match conn.take() {
                Some(open) => open,
                None => match serializable(&self.shared.config) {
                    Ok(open) => open,
                    Err(_) => {
                        std::thread::sleep(RETRY);
                        continue;
                    }
                },
            };
            let mops = self.draw();
            self.shared.record(Kind::Invoke, self.process, mops.clone());
            let (kind, mops, left) = self.transaction(open, mops);
            self.shared.record(kind, self.process, mops);
            if kind == Kind::Info {
                // Nobody may act in the name of one who might still be at it.
                self.process += CLIENTS;
            }
            conn = left;
            std::thread::sleep(PAUSE);
        }
    }

    /// Two to four steps over the lists in use, one append at least.
    fn draw(&mut self) -> Vec<Mop> {
        let appended = self.shared.appended.load(Ordering::Relaxed);
        let oldest = (appended / APPENDS).min(self.shared.lists - HOT);
        let steps = self.random.random_range(2..=4);
        let sure = self.random.random_range(0..steps);
        (0..steps)
            .map(|n| {
                let key = oldest + self.random.random_range(0..HOT);
                if n == sure || self.random.random_bool(0.3) {
                    Mop::Append(key, self.shared.appended.fetch_add(1, Ordering::Relaxed) + 1)
                } else {
                    Mop::Read(key, None)
                }
            })
            .collect()
    }

    fn transaction(&self, mut conn: Conn, mut mops: Vec<Mop>) -> Ended {
        if let Err(error) = self.steps(&mut conn, &mut mops) {
            // Without a COMMIT nothing is committed. After a deadlock the server has rolled back; else the connection's end
            // does it.
            let deadlock = matches!(&error, mysql::Error::MySqlError(e) if e.code == 1213);
            return (Kind::Fail, mops, Some(conn).filter(|_| deadlock));
        }
        match conn.query_drop("COMMIT") {
            Ok(()) => (Kind::Ok, mops, Some(conn)),
            Err(_) => (Kind::Info, asked(mops), None),
        }
    }

    fn steps(&self, conn: &mut Conn, mops: &mut [Mop]) -> mysql::Result<()> {
        let run = &self.shared.run;
        conn.query_drop("START TRANSACTION")?;
        for mop in mops {
            match mop {
                Mop::Append(key, value) => conn.query_drop(format!(
                    "UPDATE chaos_lists SET v = CONCAT(v, IF(v = '', '', ','), '{value}') WHERE run = '{run}' AND k = {key}"
                ))?,
                Mop::Read(key, list) => {
                    let query = format!("SELECT v FROM chaos_lists WHERE run = '{run}' AND k = {key}");
                    let text: Option<String> = conn.query_first(query)?;
                    *list = text.and_then(|t| parse(&t).ok());
                }
            }
        }
        Ok(())
    }
}

/// What a transaction asked for. One whose commit nobody confirmed may have read what is not on the disk yet.
fn asked(mops: Vec<Mop>) -> Vec<Mop> {
    mops.into_iter().map(|m| if let Mop::Read(key, _) = m { Mop::Read(key, None) } else { m }).collect()
}

fn parse(list: &str) -> Result<Vec<u64>> {
    list.split(',').filter(|v| !v.is_empty()).map(|v| v.parse().with_context(|| format!("'{v}'"))).collect()
}

fn serializable(config: &Config) -> mysql::Result<Conn> {
    let mut conn = connect(config, ANSWER)?;
    // A lock that a client left behind, whose host went on without it, holds nobody for InnoDB's 50 s.
    conn.query_drop("SET SESSION tx_isolation = 'SERIALIZABLE', innodb_lock_wait_timeout = 1")?;
    Ok(conn)
}

/// Again and again for [`THERE`]: the database may be starting.
fn patiently<T>(config: &Config, mut act: impl FnMut(&mut Conn) -> mysql::Result<T>) -> mysql::Result<T> {
    retry::until_ok(THERE, RETRY, || connect(config, THERE).and_then(|mut conn| act(&mut conn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_table_holds_them() {
        assert_eq!(parse("").unwrap(), Vec::<u64>::new());
        assert_eq!(parse("4,17").unwrap(), [4, 17]);
        assert!(parse("4,x").is_err());
    }

    #[test]
    fn every_transaction_appends_and_no_value_twice() {
        let shared = Shared {
            config: Config::from_env(),
            run: "draw".into(),
            lists: 20,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            appended: AtomicU64::new(0),
        };
        let mut client = Client { shared: &shared, process: 0, random: StdRng::seed_from_u64(1) };
        let mut values = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mops = client.draw();
            let appends = mops.iter().filter_map(|m| if let Mop::Append(_, v) = m { Some(*v) } else { None });
            let before = values.len();
            for value in appends {
                assert!(values.insert(value), "{value} twice");
            }
            assert!(values.len() > before && (2..=4).contains(&mops.len()), "{mops:?}");
            keys.extend(mops.iter().map(|m| match m {
                Mop::Append(key, _) | Mop::Read(key, _) => *key,
            }));
        }
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), (0..20_u64).collect::<Vec<_>>());
    }
}
