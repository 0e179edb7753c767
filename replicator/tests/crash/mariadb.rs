//! MariaDB on a filesystem on the device, and what it must know after a power cut on either replica.
//!
//! As in the demo's image (docs/decisions/0004): InnoDB, O_DIRECT, a commit is durable before it is confirmed. Logs and
//! buffers are small, so that checkpoints and page writes happen all the time.

use crate::log::{Log, Tick};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 4;
/// For a start with recovery, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server, killed when it is dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// On `data`, which it makes if need be; what need not survive goes to `scratch`.
    pub fn start(data: &Path, scratch: &Path) -> Result<Self, String> {
        for dir in [data, scratch] {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let (socket, log) = (scratch.join("socket"), scratch.join("mariadbd.log"));
        let _ = std::fs::remove_file(&socket);
        let output = std::fs::File::create(&log).unwrap();
        let path = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let child = Command::new("mariadbd")
            .args([
                "--no-defaults",
                "--user=root",
                "--skip-networking",
                "--skip-grant-tables",
                "--skip-log-bin",
            ])
            .args([path("datadir", data), path("socket", &socket), path("tmpdir", scratch)])
            .arg(path("pid-file", &scratch.join("pid")))
            .args(["--innodb-flush-method=O_DIRECT", "--innodb-flush-log-at-trx-commit=1"])
            .args(["--innodb-doublewrite=ON", "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"])
            .args(["--innodb-data-file-path=ibdata1:5M:autoextend", "--innodb-autoextend-increment=1"])
            // Next to the mounted filesystem's root.
            .args([
                "--innodb-temp-data-file-path=../../ibtmp1:1M:autoextend",
                "--innodb-max-dirty-pages-pct=0",
            ])
            .args(["--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF"])
            .args(["--performance-schema=OFF", "--key-buffer-size=1M", "--aria-log-file-size=8M"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("mariadbd; compose/scripts/setup.sh test installs it");
        let mut server = Self { child, socket, log };
        let end = Instant::now() + START_LIMIT;
        while server.connect().is_err() {
            let ended = server.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let said = std::fs::read_to_string(&server.log).unwrap_or_default();
                return Err(format!("mariadbd does not start ({ended:?}):\n{said}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn connect(&self) -> mysql::Result<Conn> {
        Conn::new(OptsBuilder::new().socket(self.socket.to_str()))
    }

    pub fn make_tables(&self) {
        let mut conn = self.connect().unwrap();
        for statement in [
            "CREATE DATABASE crash",
            "CREATE TABLE crash.one (client INT, n INT, filling VARBINARY(6000), PRIMARY KEY (client, n)) ENGINE=InnoDB",
            "CREATE TABLE crash.other (n INT, client INT, PRIMARY KEY (n, client)) ENGINE=InnoDB",
            "CREATE TABLE crash.total (client INT PRIMARY KEY, n INT) ENGINE=InnoDB",
        ] {
            conn.query_drop(statement).unwrap();
        }
    }

    /// Commits until told to stop.
    pub fn write(&self, seed: u64, log: &Log, stop: &AtomicBool) -> History {
        thread::scope(|scope| {
            let spawn = |client| scope.spawn(move || self.commit(client, seed, log, stop));
            let clients: Vec<_> = (0..CLIENTS).map(spawn).collect();
            History(clients.into_iter().map(|c| c.join().unwrap()).collect())
        })
    }

    fn commit(&self, client: u64, seed: u64, log: &Log, stop: &AtomicBool) -> Vec<(Tick, Tick)> {
        let mut random = StdRng::seed_from_u64(seed + client);
        let (mut conn, mut commits) = (self.connect().unwrap(), Vec::new());
        for n in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let begin = log.tick();
            let size = random.random_range(0..6000);
            for statement in [
                "BEGIN".to_string(),
                format!("INSERT INTO crash.one VALUES ({client}, {n}, REPEAT('x', {size}))"),
                format!("INSERT INTO crash.other VALUES ({n}, {client})"),
                format!("INSERT INTO crash.total VALUES ({client}, {n}) ON DUPLICATE KEY UPDATE n = {n}"),
                "COMMIT".to_string(),
            ] {
                conn.query_drop(statement).expect("no failed transaction");
            }
            commits.push((begin, log.tick()));
        }
        commits
    }
}

/// By client: when each transaction was begun, and confirmed.
pub struct History(Vec<Vec<(Tick, Tick)>>);

impl History {
    /// When each transaction was confirmed.
    pub fn confirmed(&self) -> Vec<Tick> {
        self.0.iter().flatten().map(|(_, confirmed)| *confirmed).collect()
    }

    /// Starts a server on what a cut left: every confirmed transaction is there, whole, and nothing else.
    pub fn check(&self, data: &Path, scratch: &Path, cut: Tick) -> Result<(), String> {
        let server = Server::start(data, scratch)?;
        self.ask(&server, cut).map_err(|e| {
            let said = std::fs::read_to_string(&server.log).unwrap_or_default();
            format!("{e}; mariadbd said:\n{said}")
        })
    }

    fn ask(&self, server: &Server, cut: Tick) -> Result<(), String> {
        let mut conn = server.connect().map_err(|e| e.to_string())?;
        for (client, commits) in self.0.iter().enumerate() {
            let least = commits.iter().filter(|c| c.1 < cut).count();
            let most = commits.iter().filter(|c| c.0 < cut).count();
            let mut ask = |query: String| -> Result<(usize, usize), String> {
                let row = conn.query_first(query).map_err(|e| e.to_string())?;
                row.ok_or_else(|| "no answer".to_string())
            };
            let one =
                ask(format!("SELECT COUNT(*), IFNULL(MAX(n), 0) FROM crash.one WHERE client = {client}"))?;
            let other =
                ask(format!("SELECT COUNT(*), IFNULL(MAX(n), 0) FROM crash.other WHERE client = {client}"))?;
            let total =
                ask(format!("SELECT COUNT(*), IFNULL(MAX(n), 0) FROM crash.total WHERE client = {client}"))?;
            let whole = one == (one.1, one.1) && one == other && total == (one.1.min(1), one.1);
            if !whole || one.1 < least || one.1 > most {
                return Err(format!(
                    "client {client} after a cut at {cut}: rows and newest are {one:?}, {other:?}, {total:?}; confirmed were {least}, begun {most}"
                ));
            }
        }
        let checked: Vec<(String, String, String, String)> = conn
            .query("CHECK TABLE crash.one, crash.other, crash.total EXTENDED")
            .map_err(|e| e.to_string())?;
        match checked.iter().find(|row| row.3 != "OK") {
            Some(bad) => Err(format!("{bad:?}")),
            None => Ok(()),
        }
    }
}
