//! Baton's replicators as processes of this host, and what plays their agents: it speaks the control API as an agent does.
//!
//! The requests are plain JSON, so that another release's replicator (`--base`) is served as well.

use crate::os::{self, Server};
use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The volume and its group.
const VOLUME: &str = "bench";
/// Longest wait for a state that takes no copying.
const SETTLED: Duration = Duration::from_secs(60);
/// How far ahead the leader is vouched for. Ten times an agent's second: a machine that is busy measuring must not
/// freeze the volume.
const VOUCH_AHEAD: Duration = Duration::from_secs(10);
const VOUCH_EVERY: Duration = Duration::from_millis(500);

/// How the blocks travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// As they are.
    Plain,
    /// TLS 1.3, each node with its certificate.
    Tls,
}

/// What one volume is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The replicator.
    pub program: PathBuf,
    /// Directory with the certificates of alpha and beta.
    pub pki: PathBuf,
    /// For this volume's files.
    pub dir: PathBuf,
    /// Bytes.
    pub size: u64,
    /// With a peer, how.
    pub peer: Option<Transport>,
}

/// A node: its process, while it runs.
struct Node {
    name: &'static str,
    dir: PathBuf,
    address: SocketAddr,
    process: Option<Server>,
}

/// A volume that is served by one or two nodes.
pub struct Replicated {
    setup: Setup,
    nodes: Vec<Node>,
    voucher: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    /// Its block device.
    pub device: PathBuf,
}

/// The certificates of both nodes, made as an administrator makes them.
///
/// # Errors
/// `baton cert` fails.
pub fn certificates(baton: &Path, dir: &Path) -> Result<()> {
    let dir = dir.display().to_string();
    let cert = |arguments: &[&str]| {
        let mut command = Command::new(baton);
        os::run(SETTLED, command.arg("cert").args(arguments).args(["--dir", &dir])).map(drop)
    };
    cert(&["init", "--cluster", "bench"])?;
    for node in ["alpha", "beta"] {
        cert(&["node", node, "--address", "127.0.0.1"])?;
    }
    Ok(())
}

impl Node {
    fn start(&mut self, setup: &Setup) -> Result<()> {
        for part in ["run", "dev"] {
            fs::create_dir_all(self.dir.join(part))?;
        }
        let secret = self.dir.join("secret");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&secret)?;
        file.write_all(b"a secret of more than thirty-two bytes, for the bench")?;
        // A mount namespace of its own, as in a container.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(&setup.program);
        command.args(["--node", self.name, "--listen", &self.address.to_string()]);
        command.arg("--secret-file").arg(&secret).arg("--pki-dir").arg(&setup.pki);
        command.arg("--state-dir").arg(&self.dir).arg("--run-dir").arg(self.dir.join("run"));
        command.arg("--device-dir").arg(self.dir.join("dev"));
        let log = self.dir.join("log");
        let mut process = Server::start(&command, &log)?;
        let up = || self.status().is_ok();
        os::wait_for("the replicator's control socket", SETTLED, || {
            (process.lives().is_err() || up()).then_some(())
        })?;
        process.lives().with_context(|| format!("see {}", log.display()))?;
        self.process = Some(process);
        Ok(())
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn status(&self) -> Result<Value> {
        let (code, body) = self.call("GET", "/v1/status", &Value::Null)?;
        ensure!(code == 200, "status: {code} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    fn volume(&self) -> Option<Value> {
        self.status().ok()?["volumes"].get(0).cloned()
    }

    fn put(&self, path: &str, body: &Value) -> Result<()> {
        let (code, answer) = self.call("PUT", path, body)?;
        ensure!((200..300).contains(&code), "{path} on {}: {code} {answer}", self.name);
        Ok(())
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.dir.join("run/replicator.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no HTTP status")?;
        let body = answer.split_once("\r\n\r\n").context("no HTTP body")?.1;
        Ok((code, body.to_owned()))
    }

    /// Resident memory of its processes, bytes.
    fn resident(&self) -> Result<u64> {
        let holder = self.process.as_ref().context("it does not run")?.id();
        let workers = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"))?;
        let mut sum = 0;
        for id in std::iter::once(holder.to_string()).chain(workers.split_whitespace().map(str::to_owned)) {
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
            sum += kib << 10;
        }
        Ok(sum)
    }
}

impl Replicated {
    /// Both nodes, one after the other, each with the volume and without the other node: what they hold in memory when they
    /// have nothing to do. `quiet` is how long they have been idle then.
    ///
    /// # Errors
    /// A process does not start.
    pub fn resident(setup: Setup, quiet: Duration) -> Result<[u64; 2]> {
        let mut this = Self::of(setup)?;
        let setup = this.setup.clone();
        let mut found = [0; 2];
        for (at, bytes) in found.iter_mut().enumerate() {
            this.nodes[at].start(&setup)?;
            this.voucher.get_or_insert_with(|| vouch(setup.dir.join("alpha/run/serve-until.sock")));
            this.configure(at, &json!({}))?;
            if at == 0 {
                this.lead(&[])?;
            }
            os::pause(quiet)?;
            *bytes = this.nodes[at].resident()?;
            this.nodes[at].process = None;
        }
        Ok(found)
    }

    /// Makes the volume, leads it on alpha and waits until it is in sync.
    ///
    /// # Errors
    /// A process does not start or does not get there.
    pub fn start(setup: Setup) -> Result<Self> {
        let mut this = Self::of(setup)?;
        for node in &mut this.nodes {
            node.start(&this.setup)?;
        }
        this.voucher = Some(vouch(this.alpha().dir.join("run/serve-until.sock")));
        for at in 0..this.nodes.len() {
            this.configure(at, &json!({}))?;
        }
        this.lead(&[])?;
        if this.nodes.len() > 1 {
            this.admit(SETTLED)?;
        }
        let device = this.alpha().volume().and_then(|v| Some(v["device"].as_str()?.to_owned()));
        let link = device.context("it has no device")?;
        // The host's name: fio and mount are not in the replicator's namespace.
        this.device = fs::read_link(&link).with_context(|| format!("read {link}"))?;
        Ok(this)
    }

    /// Its nodes, none of them started.
    fn of(setup: Setup) -> Result<Self> {
        let names: &[&'static str] = if setup.peer.is_some() { &["alpha", "beta"] } else { &["alpha"] };
        let mut nodes = Vec::new();
        for name in names {
            // Free a moment ago; the listener takes the same again.
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            nodes.push(Node { name, dir: setup.dir.join(name), address, process: None });
        }
        Ok(Self { setup, nodes, voucher: None, device: PathBuf::new() })
    }

    fn alpha(&self) -> &Node {
        &self.nodes[0]
    }

    /// The volume's settings on one node, with some of them changed.
    fn configure(&self, at: usize, changes: &Value) -> Result<()> {
        let node = &self.nodes[at];
        let peers: Vec<Value> = self
            .nodes
            .iter()
            .filter(|n| n.name != node.name)
            .map(|n| json!({ "node": n.name, "address": n.address }))
            .collect();
        let transport = if self.setup.peer == Some(Transport::Tls) { "tls" } else { "plain" };
        let mut config = json!({
            "volume": VOLUME, "group": VOLUME, "size_bytes": self.setup.size,
            "backing": { "file": node.image() }, "metadata": node.dir.join("meta"),
            "peers": peers, "protocol": "C", "transport": transport, "peer_timeout_ms": 10_000,
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        node.put(&format!("/v1/volumes/{VOLUME}"), &config)
    }

    fn lead(&self, required: &[Value]) -> Result<()> {
        let desired = json!({
            "epoch": epoch(), "role": "Primary", "required": required, "force": true,
        });
        self.alpha().put(&format!("/v1/volumes/{VOLUME}/desired"), &desired)
    }

    /// Waits for the resync and takes the peer into the required set, as an agent does.
    ///
    /// # Errors
    /// Not within `limit`.
    pub fn admit(&self, limit: Duration) -> Result<()> {
        let boot = os::wait_for("the resync to end", limit, || {
            let peer = self.peer()?;
            (peer["resynced"] == true).then(|| peer["boot"].clone())
        })?;
        self.lead(&[json!({ "node": self.nodes[1].name, "boot": boot })])?;
        os::wait_for("the peer to be a member", SETTLED, || self.peer().filter(|p| p["settled"] == true))
            .map(drop)
    }

    /// The peer as alpha sees it.
    pub fn peer(&self) -> Option<Value> {
        self.alpha().volume()?["peers"].get(0).cloned()
    }

    /// Ends beta's replicator, and lets alpha go on alone.
    ///
    /// # Errors
    /// A command is refused.
    pub fn lose_peer(&mut self) -> Result<()> {
        self.nodes[1].process = None;
        self.lead(&[])
    }

    /// Changes settings of the volume on alpha and starts beta's replicator again.
    ///
    /// # Errors
    /// A command is refused, or it does not start.
    pub fn find_peer(&mut self, changes: &Value) -> Result<()> {
        self.configure(0, changes)?;
        let setup = self.setup.clone();
        self.nodes[1].start(&setup)?;
        self.configure(1, changes)
    }

    /// An error if one of its processes has ended or its I/O is frozen: what was measured then means nothing.
    pub fn is_well(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.lives()?;
            }
        }
        let volume = self.alpha().volume().context("alpha says nothing of its volume")?;
        if let Some(frozen) = volume["frozen"].as_str() {
            bail!("I/O is frozen: {frozen}");
        }
        ensure!(
            volume["required"].as_array().map_or(0, Vec::len) + 1 == self.nodes.len(),
            "the peer is no member"
        );
        Ok(())
    }
}

impl Drop for Replicated {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
        }
        // A replicator that was killed leaves its device attached to a dead file.
        let name = self.device.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
        if file.contains("baton") {
            let _ = Command::new("losetup").arg("--detach").arg(&self.device).stderr(Stdio::null()).status();
        }
        if let Some((stop, thread)) = self.voucher.take() {
            stop.store(true, Ordering::SeqCst);
            let _ = thread.join();
        }
    }
}

fn epoch() -> Value {
    json!({ "number": 1, "term": "0000000000000001" })
}

/// Says again and again until when alpha may serve.
fn vouch(socket: PathBuf) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let on = stop.clone();
    let thread = thread::spawn(move || {
        let Ok(sender) = UnixDatagram::unbound() else { return };
        while !on.load(Ordering::SeqCst) {
            let now = clock_gettime(ClockId::Boottime);
            let until = Duration::new(now.tv_sec.unsigned_abs(), 0) + VOUCH_AHEAD;
            let said = json!({ "group": VOLUME, "epoch": epoch(), "until": until.as_nanos() as u64 });
            // Lost ones do not matter: there are many.
            let _ = sender.send_to(said.to_string().as_bytes(), &socket);
            thread::sleep(VOUCH_EVERY);
        }
    });
    (stop, thread)
}
