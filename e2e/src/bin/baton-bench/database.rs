//! Commits per second of MariaDB on ext4 on each candidate: sysbench's oltp_write_only, every commit durable.
//!
//! The data directory is made once, then copied to each filesystem. "Raw" is a directory of the filesystem that has the
//! backing files, for a file cannot be mounted.

use crate::candidate::{Candidate, Kind};
use crate::options::Options;
use crate::os::{self, Mounted, Server};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Clients at once.
pub const THREADS: [u32; 2] = [1, 8];
const ROWS: u32 = 50_000;
const LIMIT: Duration = Duration::from_secs(180);

/// A data directory on a candidate.
pub struct Database {
    /// On which.
    pub kind: Kind,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    _mounted: Option<Mounted>,
}

/// The data directory that all copies are of.
pub struct Template(PathBuf);

impl Template {
    /// Makes it.
    ///
    /// # Errors
    /// MariaDB or sysbench fails.
    pub fn make(options: &Options) -> Result<Self> {
        let dir = options.dir.join("template");
        fs::create_dir_all(&dir)?;
        let data = dir.join("data");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal"]);
        install.args(["--skip-test-db", "--skip-name-resolve"]).arg(format!("--datadir={}", data.display()));
        os::run(LIMIT, &mut install)?;
        let this = Database::on(None, &dir, data.clone());
        let server = this.serve()?;
        let rows = format!("--table-size={ROWS}");
        this.sysbench(&[&rows, "oltp_write_only", "prepare"], LIMIT)?;
        drop(server);
        Ok(Self(data))
    }
}

impl Database {
    fn on(mounted: Option<Mounted>, dir: &Path, data: PathBuf) -> Self {
        // Beside the data: a path of a socket has at most 107 bytes, and a device's mount point is short enough.
        let socket = std::env::temp_dir().join(format!("baton-bench-{}.sock", std::process::id()));
        Self { kind: Kind::Raw, data, socket, log: dir.join("mariadb.log"), _mounted: mounted }
    }

    /// Copies it to a filesystem of its own on this candidate, whose content is lost.
    ///
    /// # Errors
    /// Either fails.
    pub fn copy(template: &Template, candidate: &Candidate, options: &Options) -> Result<Self> {
        let dir = options.dir.join(candidate.kind.word());
        let point = dir.join("mnt");
        let mounted = match candidate.kind {
            Kind::Raw => {
                fs::create_dir_all(&point)?;
                None
            }
            Kind::Loop
            | Kind::Alone
            | Kind::Peer
            | Kind::Tls
            | Kind::Qemu
            | Kind::BaseAlone
            | Kind::BasePeer
            | Kind::BaseTls => Some(Mounted::ext4(&candidate.target, point.clone())?),
        };
        let data = point.join("data");
        os::run(LIMIT, Command::new("cp").arg("--recursive").arg(&template.0).arg(&data))?;
        os::run(LIMIT, Command::new("sync").arg("--file-system").arg(&data))?;
        Ok(Self { kind: candidate.kind, ..Self::on(mounted, &dir, data) })
    }

    /// Commits per second with 1 and with 8 clients.
    ///
    /// # Errors
    /// MariaDB or sysbench fails.
    pub fn measure(&self, seconds: u64) -> Result<[f64; 2]> {
        let server = self.serve()?;
        let rows = format!("--table-size={ROWS}");
        // The first second fills caches and does not count.
        self.sysbench(&[&rows, "--threads=8", "--time=1", "oltp_write_only", "run"], LIMIT)?;
        let mut found = [0.0; 2];
        for (threads, commits) in THREADS.iter().zip(&mut found) {
            let (threads, time) = (format!("--threads={threads}"), format!("--time={seconds}"));
            let limit = LIMIT + Duration::from_secs(seconds);
            let text = self.sysbench(&[&rows, &threads, &time, "oltp_write_only", "run"], limit)?;
            *commits = commits_per_second(&text).with_context(|| format!("sysbench says no rate: {text}"))?;
        }
        drop(server);
        Ok(found)
    }

    fn serve(&self) -> Result<Server> {
        let _ = fs::remove_file(&self.socket);
        let init = self.log.with_extension("sql");
        fs::write(&init, "CREATE DATABASE IF NOT EXISTS sbtest;\n")?;
        let mut command = Command::new("mariadbd");
        command.args([
            "--no-defaults",
            "--user=root",
            "--skip-networking",
            "--skip-name-resolve",
            "--skip-log-bin",
        ]);
        command.args(["--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT"]);
        command.args(["--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M"]);
        command.arg(format!("--datadir={}", self.data.display()));
        command.arg(format!("--socket={}", self.socket.display()));
        command.arg(format!("--pid-file={}", self.data.join("pid").display()));
        command.arg(format!("--init-file={}", init.display()));
        let mut server = Server::start(&command, &self.log)?;
        let mut up = || server.lives().is_err() || UnixStream::connect(&self.socket).is_ok();
        os::wait_for("MariaDB", LIMIT, || up().then_some(()))?;
        server.lives().with_context(|| format!("see {}", self.log.display()))?;
        Ok(server)
    }

    fn sysbench(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        let mut command = Command::new("sysbench");
        command.args(["--db-driver=mysql", "--mysql-user=root", "--mysql-db=sbtest", "--tables=1"]);
        command.arg(format!("--mysql-socket={}", self.socket.display())).args(arguments);
        os::run(limit, &mut command)
    }
}

fn commits_per_second(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.trim().strip_prefix("transactions:"))?;
    line.split_once('(')?.1.split_once(" per sec")?.0.parse().ok()
}
