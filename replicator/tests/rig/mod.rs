//! Two replicators as processes, each with its holder, and what plays their agents.

use baton_replicator::api::{
    Backing, Desired, Membership, PeerConfig, ServeUntil, Status, VolumeConfig, VolumeStatus,
};
use baton_replicator::clock;
use baton_replicator::frontend::stale;
use baton_replicator::types::{
    Epoch, FrontEndKind, GroupName, Instant as Clock, Member, NodeName, Protocol, Role, TermId, Transport,
    VolumeName,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
pub const WAIT: Duration = Duration::from_secs(60);

pub fn available() -> bool {
    let ok = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !ok {
        eprintln!("SKIPPED: needs root and /dev/fuse");
    }
    ok
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number) }
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// What a replica of a test is made of.
#[derive(Clone)]
pub struct Replica {
    pub size_bytes: u64,
    /// None: a file.
    pub device: Option<PathBuf>,
    /// Where its files are. None: in the host's own directory.
    pub dir: Option<PathBuf>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { size_bytes: SIZE, device: None, dir: None }
    }
}

/// A replicator of its own mount namespace, as in a container.
pub struct Host {
    pub node: NodeName,
    pub dir: PathBuf,
    replica: Replica,
    pub program: PathBuf,
    pub address: SocketAddr,
    /// Its volume has the front end `nbd`.
    pub nbd: AtomicBool,
    holder: Mutex<Child>,
}

impl Host {
    pub fn start(dir: &Path, name: &str, replica: Replica) -> Self {
        let dir = dir.join(name);
        for part in ["run", "dev"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        // A file of its own, which a test may replace.
        let program = dir.join("baton-replicator");
        std::fs::copy(env!("CARGO_BIN_EXE_baton-replicator"), &program).unwrap();
        let secret = dir.join("secret");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&secret).unwrap();
        file.write_all(b"a secret of more than thirty-two bytes, for tests").unwrap();
        // Each start of a host is one of its boots.
        std::fs::write(dir.join("boot"), format!("{:032x}", rand::random::<u128>())).unwrap();
        // Free a moment ago; the listener of each worker takes the same again.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = |part: &str| dir.join(part).display().to_string();
        let holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "--"])
            .arg(&program)
            .args(["--node", name, "--listen", &address.to_string(), "--secret-file", &path("secret")])
            .args(["--boot-id-file", &path("boot")])
            .args(["--state-dir", &path(""), "--run-dir", &path("run"), "--device-dir", &path("dev")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let node = NodeName::new(name).unwrap();
        let nbd = AtomicBool::new(false);
        let host = Self { node, dir, replica, program, address, nbd, holder: Mutex::new(holder) };
        wait_for("the control socket", || host.status());
        host
    }

    pub fn image(&self) -> PathBuf {
        self.replica.dir.as_ref().unwrap_or(&self.dir).join("webstore.img")
    }

    pub fn metadata(&self) -> PathBuf {
        self.replica.dir.as_ref().unwrap_or(&self.dir).join("webstore.meta")
    }

    /// The worker's process, once there is one.
    pub fn worker(&self) -> rustix::process::Pid {
        wait_for("a worker", || {
            let id = self.holder.lock().unwrap().id();
            let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            rustix::process::Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
        })
    }

    pub fn kill_worker(&self) {
        rustix::process::kill_process(self.worker(), rustix::process::Signal::KILL).unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.holder.lock().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// How the holder ended, if it has.
    pub fn ended(&self) -> Option<std::process::ExitStatus> {
        self.holder.lock().unwrap().try_wait().unwrap()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.dir.join("run/replicator.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn status(&self) -> Option<Status> {
        let (_, body) = self.call("GET", "/v1/status", "")?;
        serde_json::from_str(&body).ok()
    }

    pub fn volume(&self) -> Option<VolumeStatus> {
        self.status()?.volumes.into_iter().next()
    }

    pub fn configure(&self, peer: (&NodeName, SocketAddr)) -> Option<u16> {
        let config = VolumeConfig {
            volume: VolumeName::new("webstore").unwrap(),
            group: GroupName::new("web").unwrap(),
            size_bytes: self.replica.size_bytes,
            backing: match &self.replica.device {
                Some(device) => Backing::Device(device.clone()),
                None => Backing::File(self.image()),
            },
            metadata: self.metadata(),
            peers: vec![PeerConfig { node: peer.0.clone(), address: peer.1, alternatives: Vec::new() }],
            protocol: Protocol::C,
            protocols: Default::default(),
            after_split_brain: Default::default(),
            transport: Transport::Plain,
            peer_timeout_ms: 10_000,
            resync_rate: 0,
            resync_min_rate: 4 << 20,
            target_latency_us: 0,
            disk_timeout_ms: 30_000,
            front_end: match self.nbd.load(Ordering::SeqCst) {
                true => FrontEndKind::Nbd,
                false => FrontEndKind::Fuse,
            },
        };
        let body = serde_json::to_string(&config).unwrap();
        self.call("PUT", "/v1/volumes/webstore", &body).map(|a| a.0)
    }

    /// Serves a snapshot for backup, or ends that: HTTP status and body.
    pub fn export(&self, method: &str) -> (u16, String) {
        self.call(method, "/v1/volumes/webstore/export", "").expect("an answer")
    }

    pub fn desire(&self, role: Role, number: u64, required: Vec<Member>, force: bool) -> Option<u16> {
        let desired = Desired {
            epoch: epoch(number),
            role,
            required,
            accept_data_loss: false,
            force,
            order: 0,
            membership: Membership::Member,
        };
        let body = serde_json::to_string(&desired).unwrap();
        self.call("PUT", "/v1/volumes/webstore/desired", &body).map(|a| a.0)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let holder = self.holder.get_mut().unwrap();
        let _ = holder.kill();
        let _ = holder.wait();
        let tag = stale::node_tag(&self.dir, &self.node).unwrap();
        let left = || stale::clean(&tag, &self.dir.join("run"), &self.dir.join("dev"), &[]);
        let end = Instant::now() + WAIT;
        while !left().is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What an agent does, as far as these tests need one: vouches, attaches the volume, makes it what it should be.
pub struct Agent {
    stop: Arc<AtomicBool>,
    pub vouches: Arc<AtomicBool>,
    /// Role and epoch; none: nothing is said.
    pub wanted: Arc<Mutex<Option<(Role, u64)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Of `host`, which leads in the epoch of this number, with `peer` as the member that must have every write.
    pub fn start(host: &Arc<Host>, peer: &Arc<Host>, number: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let vouches = Arc::new(AtomicBool::new(true));
        let wanted = Arc::new(Mutex::new(Some((Role::Primary, number))));
        let (on, may, socket) =
            (Arc::clone(&stop), Arc::clone(&vouches), host.dir.join("run/serve-until.sock"));
        let voucher = thread::spawn(move || {
            let sender = UnixDatagram::unbound().unwrap();
            while !on.load(Ordering::SeqCst) {
                if may.load(Ordering::SeqCst) {
                    let until = Clock(clock::now().0).plus(Duration::from_secs(1));
                    let group = GroupName::new("web").unwrap();
                    let said = ServeUntil { group, epoch: epoch(number), until };
                    let _ = sender.send_to(&serde_json::to_vec(&said).unwrap(), &socket);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let (on, says, host, peer) =
            (Arc::clone(&stop), Arc::clone(&wanted), Arc::clone(host), Arc::clone(peer));
        let decider = thread::spawn(move || {
            while !on.load(Ordering::SeqCst) {
                Self::decide(&host, &peer, *says.lock().unwrap());
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, vouches, wanted, threads: vec![voucher, decider] }
    }

    fn decide(host: &Host, peer: &Host, wanted: Option<(Role, u64)>) {
        let (Some(mine), Some(theirs)) = (host.status(), peer.status()) else { return };
        let Some(theirs) = theirs.volumes.first() else {
            peer.configure((&host.node, host.address));
            return;
        };
        let Some(mine) = mine.volumes.first() else {
            host.configure((&peer.node, peer.address));
            return;
        };
        let Some((role, number)) = wanted else { return };
        let member = Member { node: peer.node.clone(), boot: theirs.boot };
        let admitted = mine.required.contains(&member);
        // A member once it has everything; after that it stays one.
        let known = theirs.generation.0 != 0 && theirs.epoch == epoch(number);
        let required = if admitted || known || mine.peers.iter().any(|p| p.resynced) {
            vec![member]
        } else {
            Vec::new()
        };
        let done = match role {
            Role::Primary => mine.role == role && mine.required == required,
            Role::Secondary => mine.role == role && !mine.held,
        };
        if !done {
            host.desire(role, number, if role == Role::Primary { required } else { Vec::new() }, true);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A mounted filesystem, unmounted at the end.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(device: &Path, dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        run("mount", &[device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Alpha leads and beta is a member.
pub struct Pair {
    pub mounted: Option<Mounted>,
    pub agent: Agent,
    pub alpha: Arc<Host>,
    pub beta: Arc<Host>,
    pub device: PathBuf,
    dir: tempfile::TempDir,
}

impl Pair {
    pub fn start() -> Self {
        let mut pair = Self::bare(Default::default(), 1);
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", pair.device.to_str().unwrap()]);
        pair.mounted = Some(Mounted::new(&pair.device, pair.dir.path().join("mnt")));
        pair
    }

    /// The same without a filesystem, on replicas of the test's choice (alpha's and beta's), in the epoch of this number.
    pub fn bare([one, other]: [Replica; 2], number: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let alpha = Arc::new(Host::start(dir.path(), "alpha", one));
        let beta = Arc::new(Host::start(dir.path(), "beta", other));
        let agent = Agent::start(&alpha, &beta, number);
        let settled = || alpha.volume().filter(|v| v.peers.iter().any(|p| p.settled));
        let volume = wait_for("the pair to be in sync", settled);
        // As another container sees it: by the host's name.
        let device = std::fs::read_link(volume.device.unwrap()).unwrap();
        Self { mounted: None, agent, alpha, beta, device, dir }
    }

    /// Both replicas hold the same, once everything is flushed. For replicas in files.
    pub fn assert_equal(&self) {
        wait_for("everything to be copied", || {
            let volume = self.alpha.volume()?;
            volume.peers.iter().all(|p| p.settled && p.dirty_bytes == 0 && p.unacked_bytes == 0).then_some(())
        });
        let [one, other] = [&self.alpha, &self.beta].map(|host| std::fs::read(host.image()).unwrap());
        assert_eq!((one.len(), one.iter().zip(&other).position(|(a, b)| a != b)), (other.len(), None));
    }

    /// Alpha's replica is primary and flows, after so many restarts of its worker.
    pub fn flows(&self, restarts: u64) {
        wait_for("alpha to be primary again", || {
            let status = self.alpha.status()?;
            let volume = status.volumes.first()?;
            let flows = volume.role == Role::Primary && volume.frozen.is_none() && volume.device.is_some();
            (flows && status.worker_restarts == restarts).then_some(())
        });
    }
}

/// Unmounts at the end, at once.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
    }
}
