//! The real binaries in containers of their own, off to the side of the cluster: for input that must be refused and
//! disks that are full. They share no network, volume or secret with it.

use crate::cluster::Cluster;
use crate::config::REPLICATION_PORT;
use crate::docker::{self, Role};
use crate::shell::{self, Output};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for something on the side: a container start, a refusal, an answer of the control API.
const LIMIT: Duration = Duration::from_secs(20);

/// A container on the side, with a directory that it sees as `/side`.
#[derive(Debug)]
pub struct Side {
    /// Its name in the engine.
    pub name: String,
    /// The directory on the machine.
    pub dir: PathBuf,
}

impl Side {
    /// A place for one container; nothing runs yet.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let side = Self {
            name: format!("{}-side-{name}", cluster.config.project),
            dir: std::env::temp_dir().join(format!("{}-side-{name}", cluster.config.project)),
        };
        side.remove();
        std::fs::create_dir_all(&side.dir).with_context(|| side.dir.display().to_string())?;
        Ok(side)
    }

    /// Writes a file into the directory, with a mode.
    ///
    /// # Errors
    /// If that fails.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join(name);
        std::fs::write(&path, content)?;
        Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?)
    }

    fn argv(&self, cluster: &Cluster, how: &[&str], command: &[&str]) -> Result<Vec<String>> {
        let image = docker::part(&cluster.config, &cluster.config.hosts[0].name, Role::Agent)?.image;
        let (program, arguments) = command.split_first().context("no command")?;
        let mount = format!("{}:/side", self.dir.display());
        let mut argv = vec!["docker", "run", "--name", &self.name, "--network", "none", "-v", &mount];
        argv.extend(how);
        argv.extend(["--entrypoint", program, &image]);
        argv.extend(arguments);
        Ok(argv.into_iter().map(str::to_owned).collect())
    }

    /// Runs a command of the Baton image to its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn run(&self, cluster: &Cluster, command: &[&str]) -> Result<Output> {
        let argv = self.argv(cluster, &["--rm"], command)?;
        shell::try_run(LIMIT, &argv.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a command of the Baton image; `how` are more options of `docker run`.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn start(&self, cluster: &Cluster, how: &[String], command: &[&str]) -> Result<()> {
        let how: Vec<_> = ["-d"].into_iter().chain(how.iter().map(String::as_str)).collect();
        let argv = self.argv(cluster, &how, command)?;
        shell::run(&argv.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Waits until the log contains one of the texts and returns the log.
    ///
    /// # Panics
    /// If it does not in time; with the log.
    #[must_use]
    pub fn wait_log(&self, texts: &[&str]) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let log = docker::log_tail(&self.name, 200);
            if texts.iter().any(|t| log.contains(t)) {
                return log;
            }
            assert!(Instant::now() < end, "{} never said any of {texts:?}:\n{log}", self.name);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a replicator whose state is a memory filesystem of `size` (e.g. `8m`), with the rights that the
    /// cluster's own replicators have, and waits for its control API.
    ///
    /// # Errors
    /// If it does not come up in time.
    pub fn replicator(&self, cluster: &Cluster, size: &str) -> Result<()> {
        self.file("secret", &"5".repeat(64), 0o600)?;
        self.file("boot_id", "11111111-2222-3333-4444-555555555555\n", 0o644)?;
        std::fs::create_dir_all(self.dir.join("run"))?;
        std::fs::create_dir_all(self.dir.join("state"))?;
        let mut how = rights_of_the_replicator(cluster)?;
        how.extend(["--tmpfs".into(), format!("/side/state:size={size}")]);
        let listen = format!("127.0.0.1:{REPLICATION_PORT}");
        let command = [
            "baton-replicator",
            "--node",
            "side",
            "--listen",
            &listen,
            "--secret-file",
            "/side/secret",
            "--state-dir",
            "/side/state",
            "--run-dir",
            "/side/run",
            "--boot-id-file",
            "/side/boot_id",
            "--device-dir",
            "/side/dev",
        ];
        self.start(cluster, &how, &command)?;
        let end = Instant::now() + LIMIT;
        while let Err(error) = self.control("GET", "/v1/status", None) {
            if Instant::now() > end {
                bail!("{error:#}; its log: {}", docker::log_tail(&self.name, 50));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A request to the control API of a replicator on the side: status code and JSON.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let socket = self.dir.join("run/replicator.sock");
        let mut stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: side\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let answer = crate::http::parse(&bytes)?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()))))
    }

    /// Keeps a replicator on the side entitled to serve, as an agent's heartbeat thread does.
    ///
    /// # Errors
    /// If its datagram socket is not there.
    pub fn entitle(&self, group: &str, epoch: &Value) -> Result<Entitled> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(self.dir.join("run/serve-until.sock"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, group, epoch) = (stop.clone(), group.to_owned(), epoch.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let datagram =
                    json!({ "group": group, "epoch": epoch, "until": boottime_ns() + 1_000_000_000 });
                // A full queue or a dead replicator: the next one follows in 100 ms.
                let _ = socket.send(datagram.to_string().as_bytes());
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Ok(Entitled { stop, thread: Some(thread) })
    }

    /// Removes the container and the directory.
    pub fn remove(&self) {
        // Stopped in order first: a replicator that is killed leaves its loop device to its successor, and there is none.
        let _ = shell::try_run(shell::LONG, &["docker", "stop", "-t", "10", &self.name]);
        let _ = shell::try_run(shell::LONG, &["docker", "rm", "-fv", &self.name]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.remove();
    }
}

/// While it lives, serve-until is extended.
#[derive(Debug)]
pub struct Entitled {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Entitled {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Capabilities, devices and security options of the cluster's own replicator, as options of `docker run`: what works
/// for one must work for the other.
fn rights_of_the_replicator(cluster: &Cluster) -> Result<Vec<String>> {
    let real = docker::part(&cluster.config, &cluster.config.hosts[0].name, Role::Replicator)?;
    let text = shell::run(&["docker", "inspect", &real.id])?;
    let all: Value = serde_json::from_str(&text)?;
    let host = all[0]["HostConfig"].as_object().ok_or_else(|| anyhow!("no HostConfig in {text}"))?;
    let mut options = Vec::new();
    let mut add = |option: &str, key: &str, say: &dyn Fn(&Value) -> Option<String>| {
        for value in host.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(say) {
            options.extend([option.to_owned(), value]);
        }
    };
    let text = |v: &Value| v.as_str().map(str::to_owned);
    add("--cap-add", "CapAdd", &text);
    add("--cap-drop", "CapDrop", &text);
    add("--security-opt", "SecurityOpt", &text);
    add("--device-cgroup-rule", "DeviceCgroupRules", &text);
    add("--device", "Devices", &|d| {
        let part = |key: &str| d[key].as_str();
        Some(format!("{}:{}:{}", part("PathOnHost")?, part("PathInContainer")?, part("CgroupPermissions")?))
    });
    // The device tree, but not the directory of the cluster's own volume links in it.
    for mount in real.mounts.iter().filter(|m| m.outside == "/dev") {
        options.extend(["-v".into(), format!("{}:{}", mount.outside, mount.inside)]);
    }
    Ok(options)
}
